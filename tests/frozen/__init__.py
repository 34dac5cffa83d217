"""Functions that are frozen after the answer, and removed later."""
