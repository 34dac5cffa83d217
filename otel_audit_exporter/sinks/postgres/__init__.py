"""Rows to PostgreSQL by a direct connection."""
