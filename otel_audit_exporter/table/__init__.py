"""The table: which column takes which field, its SQL, and how it is read."""
