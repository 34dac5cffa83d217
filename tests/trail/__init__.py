"""The trail read back, and shown."""
