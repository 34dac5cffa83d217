"""A function on AWS Lambda. Set OTEL_AUDIT_PROFILE=ephemeral, and the sink's variables, in its configuration."""

from typing import Any

from otel_audit_exporter import audit_event, configure_audit
from otel_audit_exporter.integrations.aws_lambda import audit_lambda

configure_audit()


def who(event: dict[str, Any]) -> dict[str, str]:
    return {"user_id": event["headers"]["x-user"], "yacht_id": event["headers"]["x-yacht"]}


@audit_lambda(identify=who)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    part = event["pathParameters"]["part"]
    audit_event("order_part", entity_type="part", entity_id=part, new_values={"quantity": 2})
    return {"statusCode": 201, "body": part}  # leaves when the row is in the table
