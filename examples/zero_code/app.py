"""An application that only says what happened; OpenTelemetry's own command sets everything up."""

from otel_audit_exporter import audit_context, audit_event

USER = "11111111-1111-4111-8111-111111111111"
YACHT = "22222222-2222-4222-8222-222222222222"

with audit_context(user_id=USER, yacht_id=YACHT):
    audit_event(
        "order_part",
        entity_type="part",
        entity_id="33333333-3333-4333-8333-333333333333",
        new_values={"ordered": True},
    )
