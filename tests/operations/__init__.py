"""Seeing, being told, and putting right."""
