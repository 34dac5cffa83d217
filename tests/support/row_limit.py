"""PostgREST with a limit on the rows of one answer, as Supabase has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.stack import Stack


@contextmanager
def row_limit(stack: Stack, rows: int) -> Iterator[None]:
    """Have no answer hold more rows, and know the tables that were made before."""
    stack.sql(f"alter role authenticator set pgrst.db_max_rows = '{rows}'; notify pgrst, 'reload config'")
    stack.reload_schema_cache()
    try:
        yield
    finally:
        stack.sql("alter role authenticator reset pgrst.db_max_rows; notify pgrst, 'reload config'")
        stack.reload_schema_cache()
