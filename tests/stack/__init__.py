"""A Supabase project to test against: PostgreSQL, PostgREST and a gateway that goes wrong when told to.

By hand: `python -m tests.stack`.
"""

from tests.stack.stack import Stack
from tests.stack.table import AuditTable

__all__ = ["AuditTable", "Stack"]
