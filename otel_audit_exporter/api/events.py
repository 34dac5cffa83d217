"""What handlers call."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Never

from otel_audit_exporter.api.span_reference import mark_span
from otel_audit_exporter.event.context import current_scope, overlay
from otel_audit_exporter.event.identity import Nobody
from otel_audit_exporter.pipeline.current import current_pipeline, get_audit_pipeline, get_or_adopt_pipeline
from otel_audit_exporter.pipeline.standalone import standalone_exporter

if TYPE_CHECKING:
    from otel_audit_exporter.delivery.receipts import PendingReceipt
    from otel_audit_exporter.observability.stats import AuditStats

Identifier = uuid.UUID | str | int
Outcome = Literal["success", "failure", "unknown"]
ActorType = Literal["user", "service", "system"]


def audit_event(
    action: str,
    *,
    entity_type: str,
    entity_id: Identifier,
    yacht_id: Identifier | Nobody | None = None,
    user_id: Identifier | Nobody | None = None,
    old_values: Any = None,
    new_values: Any = None,
    outcome: Outcome = "success",
    actor_type: ActorType | None = None,
    on_behalf_of: Identifier | None = None,
    event_name: str | None = None,
    metadata: Any = None,
    signature: Any = None,
    timestamp: datetime | None = None,
    record_id: uuid.UUID | str | None = None,
    idempotency_key: str | None = None,
    as_span_event: bool = False,
    tenant_id: Identifier | Nobody | None = None,
    actor_id: Identifier | Nobody | None = None,
    trail: str | None = None,
    database: str | None = None,
    **unknown: Never,
) -> PendingReceipt:
    """Record one audit event and return at once; the row follows in the background.

    Once it has returned, the event is committed to the local outbox: it lands in the table once, or is parked in
    the dead letters with the reason. It never raises for the sink's sake, and (in batch mode) never waits for
    the network. Values are copied, redacted and encoded here and now.

    :param action: what was done, for example ``"create_receiving"``.
    :param entity_type: what kind of thing it was done to; ``entity_id``: which one.
    :param yacht_id: the tenant (or ``tenant_id``); ``user_id``: who did it (or ``actor_id``). Both may come from an
        ``audit_context``; ``NOBODY``: there is none, whatever the context says. ``user_id`` may be left out where
        ``actor_type`` is not ``"user"``; with ``"system"`` it does not come from the context.
    :param old_values: the state before and ``new_values`` the state after: any value, usually a dict.
    :param outcome: ``"success"``, ``"failure"`` or ``"unknown"``.
    :param actor_type: ``"user"`` (the default), ``"service"`` or ``"system"``; ``on_behalf_of``: the user for
        whom the actor acts.
    :param event_name: the log record's event name; ``<entity_type>.<action>`` by default.
    :param metadata: a JSON object of anything else; ``signature``: the application's own, a JSON object.
    :param timestamp: when it happened (aware); now by default.
    :param record_id: the row's id (a UUID; a UUIDv7 is made by default). ``idempotency_key``: the same key within
        a yacht gives the same id, so that a handler that runs twice writes one row, and the first write wins.
    :param as_span_event: add a span event with the record's id and action to the current span, too.
    :param trail: the trail (``configure_audit(trails=...)``) and ``database``: the database by its name
        (``databases=...``); the event goes to that one destination. Both may come from an ``audit_context``.
    :raises AuditEventError: names every wrong field; nothing is recorded. With ``on_invalid="park"`` it goes to
        the dead letters instead, and nothing is raised.
    :raises OutboxError: the outbox cannot take the event (:class:`OutboxFullError`: it is full).
    :raises AuditConfigurationError: auditing is not configured.
    :raises AuditShutdownError: after shutdown, where the outbox is in memory.
    """
    given = {
        "action": action,
        "entity_type": entity_type,
        "entity_id": entity_id,
        "yacht_id": yacht_id,
        "user_id": user_id,
        "old_values": old_values,
        "new_values": new_values,
        "actor_type": actor_type,
        "on_behalf_of": on_behalf_of,
        "event_name": event_name,
        "metadata": metadata,
        "signature": signature,
        "timestamp": timestamp,
        "record_id": record_id,
        "idempotency_key": idempotency_key,
    }
    said = {name: value for name, value in given.items() if value is not None}
    said["outcome"] = outcome  # None, too: not to know it is "unknown", and no success
    if unknown:
        said.update(unknown)
    if tenant_id is not None:
        said["tenant_id"] = tenant_id
    if actor_id is not None:
        said["actor_id"] = actor_id
    if trail is not None:
        said["trail"] = trail
    if database is not None:
        said["database"] = database
    scope = current_scope()
    if scope is not None:
        said = overlay(scope.merged(), said)
    receipt = get_audit_pipeline().submit(said)
    if scope is not None:
        scope.note_event()
    if as_span_event:
        mark_span(receipt.record_id, action)
    return receipt


# Type checkers hold callers to the signature. At run time a missing argument is an AuditEventError that names every
# wrong field, where Python's own TypeError would name one; so is an unknown one, which no type checker lets pass.
audit_event.__defaults__ = (None,)
audit_event.__kwdefaults__ = {**(audit_event.__kwdefaults__ or {}), "entity_type": None, "entity_id": None}


def get_audit_stats() -> AuditStats:
    """Return the counters of the configured pipeline; the last ones after shutdown.

    Raises :class:`AuditConfigurationError` where auditing is not configured.
    """
    return get_audit_pipeline().stats()


def flush_audit(timeout_millis: float | None = 10_000) -> bool:
    """Deliver what waits; True only if everything accepted so far is stored or parked within the time.

    ``None`` is no limit. True where auditing is not configured: nothing was accepted.
    """
    accepted_by = current_pipeline() or standalone_exporter()
    return True if accepted_by is None else accepted_by.force_flush(timeout_millis)


def shutdown_audit(timeout_millis: float | None = 10_000) -> bool:
    """Deliver what waits and shut the pipeline down; True only if everything is stored or parked in time.

    ``None`` is no limit. What is left in an outbox on disk is delivered by the next process of the same destination.
    """
    pipeline = get_or_adopt_pipeline()
    return True if pipeline is None else pipeline.shutdown(timeout_millis)
