"""Each tenant has a database of its own, and in each there is a ledger beside the audit table."""

from shop import PART, TENANTS, USER, order, path_of

from otel_audit_exporter import audit_context, audit_event, configure_audit, shutdown_audit

LEDGER = {
    "table": "ledger_events",
    "columns": {
        "id": "record_id",
        "org_id": "tenant_id",
        "happened": "action",
        "thing": "entity_type",
        "thing_id": "entity_id",
        "actor": "actor_id",
        "at": "timestamp",
        "details": "new_values",
    },
}


def database_of(name: str) -> dict[str, str] | None:
    """Say where a tenant's database is. No handler waits for this: it is asked when something is delivered."""
    return {"path": path_of(name)} if name in TENANTS else None


def order_part(tenant_id: str, part_id: str) -> None:
    before, after = order(tenant_id, part_id)
    audit_event("order_part", entity_type="part", entity_id=part_id, old_values=before, new_values=after)
    audit_event(
        "part_ordered",
        entity_type="part",
        entity_id=part_id,
        new_values={"price": after["price"]},
        trail="ledger",
        idempotency_key=f"ordered {part_id}",  # where a row was read back before, so as to write it once
    )


if __name__ == "__main__":
    configure_audit("sqlite", trails={"ledger": LEDGER}, databases=database_of)
    for name, tenant_id in TENANTS.items():
        # A middleware's `identify` does this for every request.
        with audit_context(database=name, tenant_id=tenant_id, actor_id=USER):
            order_part(tenant_id, PART)
    shutdown_audit()
