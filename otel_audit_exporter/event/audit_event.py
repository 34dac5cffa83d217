"""The audit event, as a caller describes it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, fields
from datetime import datetime
from typing import Any, Final

from otel_audit_exporter.errors import AuditEventError
from otel_audit_exporter.event.encoded_event import decode
from otel_audit_exporter.event.fields import FIELD_ALIASES
from otel_audit_exporter.event.identity import Nobody, with_field_names
from otel_audit_exporter.event.routing import ROUTE_FIELDS, route_problems
from otel_audit_exporter.event.validation import EventValidator


class _Default(str):
    """A default value. An ``audit_context`` may replace it, but not a value that the caller gave."""

    __slots__ = ()


_DEFAULT_ACTOR_TYPE: Final = _Default("user")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEvent:
    """One audit event, as a caller describes it.

    Arguments are those of :func:`otel_audit_exporter.audit_event`; ``source_ip``, ``request_id`` and ``user_agent`` are
    what an ``audit_context`` fills in otherwise, as it does ``actor_type`` where none was given. ``tenant_id`` and
    ``actor_id`` are kept as ``yacht_id`` and ``user_id``. ``timestamp`` is aware; ``None`` means the moment at which
    the event is emitted. Its ``repr`` is fit for a log: it shows no values, metadata or signature, as these are not
    redacted yet. Raises :class:`AuditEventError` naming every wrong field; what depends on a pipeline's settings
    (whether ids must be UUIDs, which fields are required) is checked by ``emit``.
    """

    action: str = field(kw_only=False)
    entity_type: str | None = None
    entity_id: uuid.UUID | str | int | None = None
    yacht_id: uuid.UUID | str | int | Nobody | None = None
    user_id: uuid.UUID | str | int | Nobody | None = None
    old_values: Any = field(default=None, repr=False)
    new_values: Any = field(default=None, repr=False)
    outcome: str = "success"
    actor_type: str = _DEFAULT_ACTOR_TYPE
    on_behalf_of: uuid.UUID | str | int | None = None
    event_name: str | None = None
    metadata: Any = field(default=None, repr=False)
    signature: Any = field(default=None, repr=False)
    timestamp: datetime | None = None
    record_id: uuid.UUID | str | None = None
    idempotency_key: str | None = None
    source_ip: str | None = None
    request_id: str | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    trail: str | None = None
    database: str | None = None
    tenant_id: InitVar[uuid.UUID | str | int | Nobody | None] = None
    actor_id: InitVar[uuid.UUID | str | int | Nobody | None] = None

    def __post_init__(self, tenant_id: Any, actor_id: Any) -> None:
        self._take_second_names({"tenant_id": tenant_id, "actor_id": actor_id})
        problems = route_problems(self.trail, self.database)
        if problems:
            raise AuditEventError(problems)
        _LENIENT.compose({name: value for name, value in self.arguments().items() if name not in _NOT_CHECKED_HERE})

    def _take_second_names(self, second: Mapping[str, Any]) -> None:
        for alias, value in second.items():
            name = FIELD_ALIASES[alias]
            both = with_field_names({name: getattr(self, name), alias: value})
            if alias in both:
                raise AuditEventError({alias: f"differs from {name}, and both are names of one field"})
            object.__setattr__(self, name, both.get(name))

    def arguments(self) -> dict[str, Any]:
        """Return what the caller gave, by argument name, without the defaults that a context may replace."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        given = {name: value for name, value in values if type(value) is not _Default}
        return {name: value for name, value in given.items() if value is not None or name == "outcome"}

    @classmethod
    def from_bytes(cls, body: bytes) -> AuditEvent:
        """Return the event of these bytes, its values as JSON has them."""
        values = decode(body)
        values["timestamp"] = datetime.fromisoformat(values["timestamp"])
        return cls(**{name: value for name, value in values.items() if value is not None})


_NOT_CHECKED_HERE: Final = frozenset({"old_values", "new_values"}) | ROUTE_FIELDS
_LENIENT: Final = EventValidator(ids="text", required=())
