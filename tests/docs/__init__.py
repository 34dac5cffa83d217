"""Tests of the documentation: its code runs, its tables are the code's, its links lead somewhere."""
