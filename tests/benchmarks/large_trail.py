"""A trail of a million rows, made by the server itself, and what is asked of it."""

from __future__ import annotations

import uuid
from hashlib import md5
from typing import Any, Final

from otel_audit_exporter.table.ddl import FULL_COLUMNS, TablePlan

SHAPES: Final = {"nine columns": "large_trail", "full columns": "large_trail_full"}

# A fifth of all is one tenant's, the rest are forty others'; a few actions are most of them, and some are rare.
_ROWS: Final = """
insert into {table} (id, yacht_id, entity_type, action, entity_id, created_by, created_at, old_values, new_values{more})
select md5('row ' || n)::uuid,
       md5('tenant ' || case when n % 5 = 0 then 0 else 1 + n * 7919 % 40 end)::uuid,
       'type_' || n * 31 % 8,
       case when n % 5000 = 7 then 'rare_one' else 'action_' || (30 * power(chance, 3))::int end,
       md5('entity ' || n * 104729 % 100003)::uuid,
       case when n % 10007 = 5 then md5('user rare')::uuid else md5('user ' || (500 * chance * chance)::int)::uuid end,
       '2025-01-01'::timestamptz + n * interval '31 s',
       jsonb_build_object('quantity', n % 50, 'status', 'ordered'),
       jsonb_build_object('quantity', n % 50 + 1, 'status', 'received', 'notes', 'ok') {folded}
{values}
from (
    select n, (n * 2654435761 % 4294967296) / 4294967296.0::float8 as chance from generate_series(1::bigint, {rows}) n
) numbers
"""
_SAID: Final = {
    "outcome": "case when n % 200 = 3 then 'failure' end",
    "request_id": "case when n % 3 = 0 then 'request-' || n / 6 end",
    "trace_id": "case when n % 3 = 0 then md5('trace ' || n / 6) end",
}


def plan_of(shape: str) -> TablePlan:
    """Return what the table of this shape is."""
    return TablePlan(table=SHAPES[shape], indexes=True, full=shape == "full columns")


def options_of(shape: str) -> dict[str, Any]:
    """Return the settings that fit it."""
    plan = plan_of(shape)
    return {"table": plan.table, **({"columns": dict(FULL_COLUMNS)} if plan.full else {})}


def fill_script(shape: str, rows: int) -> str:
    """Return the SQL that makes the table anew and fills it."""
    plan = plan_of(shape)
    said = {**_SAID, "outcome": f"coalesce({_SAID['outcome']}, 'success')"}
    pairs = ", ".join(f"'{name}', {value}" for name, value in _SAID.items())
    insert = _ROWS.format(
        table=plan.table,
        rows=rows,
        more="".join(f", {name}" for name in said) if plan.full else "",
        values="".join(f", {value}" for value in said.values()) if plan.full else "",
        folded=""
        if plan.full
        else f"|| case when n % 3 = 0 or n % 200 = 3 then "
        f"jsonb_build_object('_audit', jsonb_strip_nulls(jsonb_build_object({pairs}))) else '{{}}' end",
    )
    grant = f"grant all on {plan.table} to service_role"
    return ";\n".join([f"drop table if exists {plan.table}", plan.sql(), insert, grant, f"analyze {plan.table}"])


def of(what: str) -> str:
    """Return the id that the server makes of a text."""
    return str(uuid.UUID(md5(what.encode(), usedforsecurity=False).hexdigest()))


NOBODYS: Final = of("nobody")
FILTERS: Final[dict[str, dict[str, str]]] = {
    "all": {},
    "tenant": {"tenant": of("tenant 0")},
    "tenant, none": {"tenant": NOBODYS},
    "entity": {"entity_type": "type_1", "entity_id": of("entity 7")},
    "entity id": {"entity_id": of("entity 7")},
    "entity type": {"entity_type": "type_3"},
    "entity type, none": {"entity_type": "nothing"},
    "entity, none": {"entity_type": "type_1", "entity_id": NOBODYS},
    "user": {"user": of("user 1")},
    "user, rare": {"user": of("user rare")},
    "user, none": {"user": NOBODYS},
    "action": {"action": "action_0"},
    "action, rare": {"action": "rare_one"},
    "action, none": {"action": "nothing"},
    "outcome success": {"outcome": "success"},
    "outcome failure": {"outcome": "failure"},
    "outcome unknown, none": {"outcome": "unknown"},
    "request": {"request_id": "request-1234"},
    "request, none": {"request_id": "nothing"},
    "trace": {"trace_id": md5(b"trace 1234", usedforsecurity=False).hexdigest()},
    "trace, none": {"trace_id": "0" * 32},
    "time, a month": {"since": "2025-04-01", "until": "2025-05-01"},
    "time, none": {"since": "2020-01-01", "until": "2021-01-01"},
    "time, days to come": {"since": "2100-01-01"},
    "text, common": {"text": "act"},
    "text, rare": {"text": "rare"},
    "text, type": {"text": "type_2"},
    "text, id": {"text": of("entity 7")[:13]},
    "text, short id": {"text": of("user 1")[:4]},
    "text, none": {"text": "nothing"},
    "user and action": {"user": of("user 1"), "action": "rare_one"},
    "tenant and failure": {"tenant": of("tenant 3"), "outcome": "failure"},
    "oldest first": {"order": "oldest"},
}
SCOPES: Final[dict[str, list[str] | None]] = {
    "all": None,
    "large tenant": [of("tenant 0")],
    "small tenant": [of("tenant 3")],
    "three tenants": [of(f"tenant {number}") for number in (0, 3, 7)],
    "no tenant": [NOBODYS],
}
