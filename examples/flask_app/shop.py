"""A spare parts shop: every order is audited."""

from uuid import UUID

from flask import Flask, request

from otel_audit_exporter import audit_event, configure_audit, update_audit_context
from otel_audit_exporter.integrations.wsgi import AuditMiddleware

configure_audit()

app = Flask(__name__)
app.wsgi_app = AuditMiddleware(app.wsgi_app)


@app.before_request
def who() -> None:
    update_audit_context(user_id=request.headers.get("X-User"), yacht_id=request.headers.get("X-Yacht"))


@app.post("/parts/<uuid:part_id>/order")
def order_part(part_id: UUID) -> dict[str, str]:
    audit_event("order_part", entity_type="part", entity_id=part_id, new_values={"ordered": True})
    return {"ordered": str(part_id)}
