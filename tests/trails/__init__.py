"""Trails and databases: many destinations of one pipeline, and no event in another's."""
