"""A job in a pod without a volume: it has failed where its events are not in the table at its end."""

import sys

from otel_audit_exporter import audit_context, audit_event, configure_audit, shutdown_audit

PART, YACHT = sys.argv[1:]

configure_audit(profile="ephemeral")
with audit_context(yacht_id=YACHT, actor_type="system"):
    audit_event("order_part", entity_type="part", entity_id=PART, new_values={"quantity": 2})
if not shutdown_audit(timeout_millis=30_000):
    sys.exit("not every audit event is in the table: let the job be started again")
