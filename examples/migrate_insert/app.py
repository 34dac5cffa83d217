"""The table and its columns are the same; who asks is said once per request, not in every handler."""

from otel_audit_exporter import audit_context, audit_event, changed, configure_audit

stock = {"33333333-3333-4333-8333-333333333333": {"name": "impeller", "ordered": False}}


def order_part(part_id: str) -> None:
    before = stock[part_id]
    after = stock[part_id] = {**before, "ordered": True}
    old, new = changed(before, after)
    audit_event("order_part", entity_type="part", entity_id=part_id, old_values=old, new_values=new)


if __name__ == "__main__":
    configure_audit("supabase")
    with audit_context(  # AuditMiddleware does this for every request
        user_id="11111111-1111-4111-8111-111111111111", yacht_id="22222222-2222-4222-8222-222222222222"
    ):
        order_part("33333333-3333-4333-8333-333333333333")
