"""Who looked at the trail, as events of the trail itself."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Any, Final

import orjson

from otel_audit_exporter.errors import AuditConfigurationError, AuditError
from otel_audit_exporter.event.routing import DEFAULT_TRAIL
from otel_audit_exporter.pipeline.current import get_audit_pipeline
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.trail.filters import ACCESS_TRAIL, TrailFilter
from otel_audit_exporter.trail.identity import Reader

_NAMESPACE: Final = uuid.UUID("b2f3f3c8-6d0a-4f0d-9e5b-2f6f3f6f9b11")
NO_TENANT: Final = str(uuid.UUID(int=0))
"""The tenant of what was done to the events of several."""
_HOUR: Final = 3600


class AccessLog:
    """Records exports, and looks where that is asked for: in the trail ``access`` where there is one."""

    def check(self, reader: Reader, asked: TrailFilter) -> None:
        """Raise :class:`AuditError` where what this reader does could not be recorded."""
        settings = get_audit_pipeline().exporter_of(**_destination(asked)).settings
        if settings.ids == "uuid":
            try:
                uuid.UUID(str(reader.id))
            except ValueError:
                raise AuditConfigurationError(
                    "Reader: id is no UUID, and ids are UUIDs here, so an export could not be recorded"
                ) from None

    def exported(self, reader: Reader, asked: TrailFilter, form: str, count: int, *, whole: bool) -> None:
        """Record an export: who, which filter, how many events; it may have been broken off."""
        details = {"filter": dict(asked.given), "format": form, "count": count}
        self._record("audit.exported", reader, asked, details, outcome="success" if whole else "failure")

    def viewed(self, reader: Reader, asked: TrailFilter) -> None:
        """Record a look: once per reader, filter and hour."""
        details: Mapping[str, Any] = {"filter": dict(asked.given)}
        said = [str(reader.id), sorted(asked.given.items()), int(Clock.wall() // _HOUR)]
        key = hashlib.blake2b(orjson.dumps(said), digest_size=16).hexdigest()
        self._record("audit.viewed", reader, asked, details, outcome="success", idempotency_key=f"audit.viewed {key}")

    def _record(self, action: str, reader: Reader, asked: TrailFilter, details: Mapping[str, Any], **more: Any) -> None:
        try:
            pipeline, destination = get_audit_pipeline(), _destination(asked)
            trail = asked.given.get("trail", DEFAULT_TRAIL)
            ids = pipeline.exporter_of(**destination).settings.ids
            pipeline.submit(
                {
                    "action": action,
                    **trail_as_entity(trail, ids),
                    "yacht_id": _tenant(reader, asked),
                    "user_id": str(reader.id),
                    "new_values": details,
                    **{name: value for name, value in destination.items() if value is not None},
                    **more,
                }
            )
        except AuditError as error:
            logger.error("audit: %s by a reader of the trail could not be recorded: %s", action, error)


def trail_as_entity(trail: str, ids: str) -> dict[str, str]:
    """Return the entity of an event about a trail itself; ``ids``: that setting."""
    return {"entity_type": "audit_trail", "entity_id": str(uuid.uuid5(_NAMESPACE, trail)) if ids == "uuid" else trail}


def _destination(asked: TrailFilter) -> dict[str, str | None]:
    """Return where it is recorded who looked: beside what was looked at, in a trail of its own where there is one."""
    database = asked.given.get("database")
    trail = ACCESS_TRAIL if ACCESS_TRAIL in get_audit_pipeline().destinations.trails else None
    return {"trail": trail, "database": None if database == DEFAULT_TRAIL else database}


def _tenant(reader: Reader, asked: TrailFilter) -> str:
    """Return the tenant that an export is recorded under: the one it is about, else none of them."""
    scope = reader.scope
    wanted = asked.given.get("tenant")
    if wanted and (scope is None or wanted in scope):
        return wanted
    return next(iter(scope)) if scope is not None and len(scope) == 1 else NO_TENANT
