"""Names of tables and columns as SQL has them, for PostgreSQL and SQLite alike."""

from __future__ import annotations

from collections.abc import Iterable


def quoted(name: str) -> str:
    """Return a name in double quotes, with quotes inside it escaped."""
    return '"' + name.replace('"', '""') + '"'


def quoted_names(names: Iterable[str]) -> str:
    """Return names in double quotes, with commas between them."""
    return ", ".join(map(quoted, names))


def for_psycopg(sql: str) -> str:
    """Return SQL as psycopg takes it beside parameters: there a percent sign stands for a parameter."""
    return sql.replace("%", "%%")
