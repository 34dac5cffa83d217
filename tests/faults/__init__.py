"""The fault kit: processes that are killed, parts that go wrong, and a checker of what is left afterwards."""
