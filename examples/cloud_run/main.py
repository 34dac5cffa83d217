"""A service on Cloud Run (or Knative). Set OTEL_AUDIT_PROFILE=ephemeral, and the sink's variables, in its settings."""

from fastapi import FastAPI, Request

from otel_audit_exporter import audit_event, configure_audit
from otel_audit_exporter.integrations.asgi import AuditMiddleware

configure_audit()


def who(request: Request) -> dict[str, str | None]:
    return {"user_id": request.headers.get("x-user"), "yacht_id": request.headers.get("x-yacht")}


app = FastAPI()
app.add_middleware(AuditMiddleware, identify=who)


@app.get("/")
def index() -> str:
    return "here"


@app.post("/parts/{part}/order")
def order(part: str) -> dict[str, str]:
    audit_event("order_part", entity_type="part", entity_id=part, new_values={"quantity": 2})
    return {"ordered": part}  # leaves when the row is in the table
