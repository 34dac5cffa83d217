"""What the tests of several directories share."""
