"""The names: an event's fields, their log record attributes, and the constants beside them.

The ``audit.*`` names are those of the draft OpenTelemetry Audit signal (OTEP 0267).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# The order is the format of an event's bytes (event_bytes.py): new fields go to the end.
FIELDS: Final = (
    "record_id",
    "yacht_id",
    "entity_type",
    "action",
    "entity_id",
    "user_id",
    "timestamp",
    "old_values",
    "new_values",
    "outcome",
    "actor_type",
    "on_behalf_of",
    "metadata",
    "signature",
    "source_ip",
    "request_id",
    "user_agent",
    "trace_id",
    "span_id",
    "event_name",
)
DEFAULT_COLUMNS: Final[Mapping[str, str]] = {
    "id": "record_id",
    "yacht_id": "yacht_id",
    "entity_type": "entity_type",
    "action": "action",
    "entity_id": "entity_id",
    "created_by": "user_id",
    "created_at": "timestamp",
    "old_values": "old_values",
    "new_values": "new_values",
}
"""The columns of the default table, and the field that each takes: the first of ``FIELDS``, in their order."""

INDEX: Final = {name: position for position, name in enumerate(FIELDS)}

# Fields whose value is a JSON document; as an attribute they are the text of that document.
JSON_FIELDS: Final = frozenset({"old_values", "new_values", "metadata", "signature"})

# Fields that OpenTelemetry carries in the record itself, not in its attributes.
RECORD_FIELDS: Final = frozenset({"timestamp", "trace_id", "span_id", "event_name"})

ATTRIBUTE_OF: Final = {
    "record_id": "audit.record.id",
    "yacht_id": "audit.tenant.id",
    "entity_type": "audit.target.type",
    "action": "audit.action",
    "entity_id": "audit.target.id",
    "user_id": "audit.actor.id",
    "old_values": "audit.change.old_values",
    "new_values": "audit.change.new_values",
    "outcome": "audit.outcome",
    "actor_type": "audit.actor.type",
    "on_behalf_of": "audit.on_behalf_of.id",
    "metadata": "audit.metadata",
    "signature": "audit.signature",
    "source_ip": "audit.source.id",
    "request_id": "request.id",
    "user_agent": "user_agent.original",
}
FIELD_OF: Final = {attribute: field for field, attribute in ATTRIBUTE_OF.items()}

AUDIT_ACTION: Final = "audit.action"
AUDIT_RECORD_ID: Final = "audit.record.id"
AUDIT_SOURCE_TYPE: Final = "audit.source.type"

OUTCOMES: Final = ("success", "failure", "unknown")
ACTOR_TYPES: Final = ("user", "service", "system")

SCOPE_NAME: Final = "otel_audit_exporter"
