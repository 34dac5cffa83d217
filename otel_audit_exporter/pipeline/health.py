"""The health of one exporter: its figures now, and what was lost in the last day by all processes."""

from __future__ import annotations

from dataclasses import replace

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.observability.health import AuditHealth, HealthThresholds, Waiting, broken, judge, uncertain
from otel_audit_exporter.observability.losses import WHAT_TO_DO_WITH_DAMAGE, Cause, RecentLosses
from otel_audit_exporter.outbox.letter_file import DeadLettersBusyError
from otel_audit_exporter.pipeline.exporter import AuditExporter

_LOST: Cause = Cause(
    "an outbox file was damaged while it was in use: the log says which",
    WHAT_TO_DO_WITH_DAMAGE,
)


def health_of(exporter: AuditExporter, thresholds: HealthThresholds) -> AuditHealth:
    """Return the health of one exporter at one instant."""
    known = exporter.lane.health(thresholds)
    _note_lost(exporter)
    exporter.losses.write()
    try:
        losses = _recent_losses(exporter)
    except DeadLettersBusyError as error:
        return known if known.problem else uncertain(known, str(error))
    except OutboxError as error:
        return known if known.problem else broken(known, str(error))
    log = exporter.lane.announcer
    waiting = Waiting(log.waiting_cause, log.held_cause)
    accepting = exporter.rejections.accepting(known.outbox_bytes_left)
    return judge(known, thresholds, losses, waiting, accepting=accepting)


def _recent_losses(exporter: AuditExporter) -> RecentLosses:
    losses = exporter.losses.recent(exporter.lane.books.succeeded_recently())
    parked = exporter.lane.announcer.parked_cause
    causes = dict(losses.causes)
    if parked is not None and "parked" in causes and causes["parked"].text == parked.text:
        causes["parked"] = parked  # which knows the remedy of its own
    return replace(losses, causes=tuple(causes.items()))


def _note_lost(exporter: AuditExporter) -> None:
    """Write down what the delivery has lost with a damaged file since the last look."""
    lost = exporter.lane.books.take_unnoted_losses()
    if lost:
        exporter.losses.note("lost", _LOST, "unknown", lost)
