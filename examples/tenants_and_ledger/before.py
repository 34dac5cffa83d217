"""As it was: two hand-written inserts in every handler, into the database of the tenant that asks."""

import json
import sqlite3
from datetime import UTC, datetime
from uuid import uuid4

from shop import PART, TENANTS, USER, order, path_of

TABLES = """
CREATE TABLE IF NOT EXISTS pms_audit_log (id, yacht_id, entity_type, action, entity_id, created_by, created_at,
    old_values, new_values);
CREATE TABLE IF NOT EXISTS ledger_events (id, org_id, happened, thing, thing_id, actor, at, details)
"""


def order_part(database: sqlite3.Connection, tenant_id: str, part_id: str) -> None:
    before, after = order(tenant_id, part_id)
    now = datetime.now(UTC).isoformat()
    database.execute(
        "INSERT INTO pms_audit_log VALUES (?, ?, 'part', 'order_part', ?, ?, ?, ?, ?)",
        (str(uuid4()), tenant_id, part_id, USER, now, json.dumps(before), json.dumps(after)),
    )
    database.execute(
        "INSERT INTO ledger_events VALUES (?, ?, 'part_ordered', 'part', ?, ?, ?, ?)",
        (str(uuid4()), tenant_id, part_id, USER, now, json.dumps({"price": after["price"]})),
    )
    database.commit()


if __name__ == "__main__":
    for name, tenant_id in TENANTS.items():
        database = sqlite3.connect(path_of(f"before-{name}"))
        database.executescript(TABLES)
        order_part(database, tenant_id, PART)
        database.close()
