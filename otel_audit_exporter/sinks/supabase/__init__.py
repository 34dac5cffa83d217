"""Rows to a Supabase project, through its PostgREST."""
