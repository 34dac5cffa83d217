"""The settings: where each comes from and what is allowed."""
