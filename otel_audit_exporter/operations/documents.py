"""What operations answer as JSON: dead letters, a page of them at a time, and losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from otel_audit_exporter.delivery.channel import DeliveryChannel
from otel_audit_exporter.delivery.dead_letters import DeadLetters
from otel_audit_exporter.errors import AuditEventError, OutboxError
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import INDEX
from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.event.serialization import split
from otel_audit_exporter.outbox.dead_letter_store import Place, StoredDeadLetter, place_of
from otel_audit_exporter.outbox.loss_records import Loss
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.pipeline import AuditPipeline

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
_MAX_DIGITS: Final = 9
_CAUSES: Final = 20
_LOOK_SECONDS: Final = 1.0  # for who holds the dead letters just now


class BadQueryError(ValueError):
    """Say what is wrong with the query of a request."""


def limit_of(query: Mapping[str, str]) -> int:
    """Return how many are asked for. Raises :class:`BadQueryError`."""
    given = query.get("limit", "")
    if not given:
        return DEFAULT_LIMIT
    if not (given.isascii() and given.isdigit() and len(given) <= _MAX_DIGITS):
        raise BadQueryError(f"limit: must be a whole number, {MAX_LIMIT} or less")
    return min(int(given), MAX_LIMIT)


def place_in(query: Mapping[str, str]) -> Place | None:
    """Return after which dead letter the page begins; None: at the start. Raises :class:`BadQueryError`."""
    given = query.get("after", "")
    if not given:
        return None
    at, _, record_id = given.partition("_")
    try:
        return float.fromhex(at), record_id
    except (ValueError, OverflowError):
        raise BadQueryError("after: must be what `next` of the page before says") from None


def exporter_in(pipeline: AuditPipeline, query: Mapping[str, str]) -> AuditExporter:
    """Return the exporter of the trail and database in a query. Raises :class:`BadQueryError` for unknown names."""
    try:
        return pipeline.exporter_of(query.get("trail") or None, query.get("database") or None)
    except AuditEventError as error:
        raise BadQueryError("; ".join(f"{name}: {problem}" for name, problem in error.problems.items())) from None


def letters_in(pipeline: AuditPipeline, query: Mapping[str, str]) -> DeadLetters:
    """Return the dead letters of the trail and database in a query. Raises :class:`BadQueryError` as above."""
    exporter = exporter_in(pipeline, query)
    return DeadLetters(exporter.channel, exporter.rules)


def letters_document(pipeline: AuditPipeline, query: Mapping[str, str], *, with_rows: bool) -> dict[str, Any]:
    """Return one page of the dead letters: ``next`` is the ``after`` of the page that follows, None at the end."""
    limit = limit_of(query)
    channel = exporter_in(pipeline, query).channel
    store = channel.dead_letters.waiting(_LOOK_SECONDS)
    found = store.page(place_in(query), limit + 1)
    shown = found[:limit]
    more = len(found) > limit and bool(shown)
    return {
        "count": store.count(),
        "dead_letters": [letter_document(channel, parked, with_row=with_rows) for parked in shown],
        "next": f"{place_of(shown[-1])[0].hex():s}_{shown[-1].record_id:s}" if more else None,
    }


def letter_document(channel: DeliveryChannel, parked: StoredDeadLetter, *, with_row: bool) -> dict[str, Any]:
    """Return one dead letter; where the event's bytes cannot be read, what is known of it."""
    letter = {
        "record_id": parked.record_id,
        **_named(parked.body),
        "kind": parked.kind,
        "error": parked.error,
        "code": parked.code,
        "attempts": parked.attempts,
        "first_failed_at": _moment(parked.first_failed_at),
        "parked_at": _moment(parked.parked_at),
    }
    if parked.kind == "invalid":
        letter["reasons"] = parked.letter(None).reasons
    elif with_row:
        letter["row"] = _row(channel, parked.body)
    return letter


def _named(body: bytes) -> dict[str, Any]:
    try:
        fragments = split(body)
        named = {name: loads_exact(fragments[INDEX[name]]) for name in ("action", "entity_type", "entity_id")}
    except (ValueError, IndexError):
        return {"action": None, "entity_type": None, "entity_id": None, "unreadable": True}
    return {**named, "unreadable": False}


def _row(channel: DeliveryChannel, body: bytes) -> object:
    """Return the row as it was written: no encoder has to know its largest number or deepest value."""
    try:
        return orjson.Fragment(channel.row_of(body))
    except (ValueError, IndexError):
        return {"record": body.decode("utf-8", "backslashreplace")}


def causes_document(pipeline: AuditPipeline) -> list[dict[str, Any]]:
    """Return why events are parked, the most frequent cause first."""
    causes = pipeline.primary.channel.dead_letters.waiting(_LOOK_SECONDS).causes(_CAUSES)
    return [{**asdict(cause), "newest_at": _moment(cause.newest_at)} for cause in causes]


def losses_document(pipeline: AuditPipeline) -> dict[str, Any]:
    """Return what was rejected, lost and parked in the last day and not acknowledged, and the acknowledgements.

    Each loss has the ``trail`` and ``database`` that its events were for, and so has each number in ``parked_in``;
    ``unreadable`` are the destinations whose losses cannot be read now. Acknowledgements are those of the first one.
    """
    places = {RouteName(pipeline.primary.trail): pipeline.primary, **_with_losses(pipeline)}
    losses: list[dict[str, Any]] = []
    parked_in: list[dict[str, Any]] = []
    unreadable: list[dict[str, Any]] = []
    for name, exporter in places.items():
        where = {"trail": name.trail, "database": name.database}
        try:
            records = exporter.losses.records()
            parked = exporter.losses.parked(records).count
        except (OutboxError, OSError):
            if exporter is pipeline.primary:
                raise
            unreadable.append(where)
            continue
        losses += ({**asdict(one), **where, **_moments(one)} for one in records.losses)
        parked_in += [{**where, "count": parked}] if parked else []
    return {
        "losses": losses,
        "parked": sum(one["count"] for one in parked_in),
        "parked_in": parked_in,
        "unreadable": unreadable,
        "acknowledgements": [{**asdict(one), "at": _moment(one.at)} for one in pipeline.losses().acknowledgements],
    }


def _with_losses(pipeline: AuditPipeline) -> dict[RouteName, AuditExporter]:
    """Return the destinations beside the first one that have losses: of hundreds, the others need not be read."""
    health, others = pipeline.health(), pipeline.destinations.others()
    trails = {name for name, part in health.trails.items() if part.failed or part.rejected or part.problem}
    databases = {name for name, part in health.databases.items() if part.failed or part.rejected or part.problem}
    return {
        name: exporter
        for name, exporter in others.items()
        if name.trail in trails and (name.database is None or name.database in databases)
    }


def _moments(loss: Loss) -> dict[str, str]:
    return {"first_at": _moment(loss.first_at), "last_at": _moment(loss.last_at)}


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
