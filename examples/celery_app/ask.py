"""What a request handler does: it knows the user, and leaves the work to a worker."""

from shop import order_part

from otel_audit_exporter import audit_context

USER = "11111111-1111-4111-8111-111111111111"
YACHT = "22222222-2222-4222-8222-222222222222"

with audit_context(user_id=USER, yacht_id=YACHT):
    order_part.delay("33333333-3333-4333-8333-333333333333")
