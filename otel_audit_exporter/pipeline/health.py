"""The health of one exporter: its figures now, and what was lost in the last day by all processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.health import (
    AuditHealth,
    HealthThresholds,
    Waiting,
    broken,
    combine,
    joined,
    judge,
    uncertain,
)
from otel_audit_exporter.observability.losses import WHAT_TO_DO_WITH_DAMAGE, RecentLosses
from otel_audit_exporter.outbox.dead_letter_store import DeadLettersBusyError
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.runtime.clock import Clock

_LOST: Cause = Cause(
    "an outbox file was damaged while it was in use: the log says which",
    WHAT_TO_DO_WITH_DAMAGE,
)


_QUIET_SECONDS: Final = 30.0  # where nothing happens, a destination is looked at again after this time


class DestinationsHealth:
    """The health of all destinations of a pipeline; one that is quiet is looked at now and then only."""

    def __init__(self, thresholds: HealthThresholds) -> None:
        self._thresholds = thresholds
        self._known: dict[RouteName, tuple[float, tuple[int, ...], AuditHealth]] = {}
        self.parts: dict[RouteName, AuditHealth] = {}

    def of(
        self, default: Sequence[AuditExporter], others: Mapping[RouteName, AuditExporter], warnings: Sequence[str]
    ) -> AuditHealth:
        """Return the health of the whole: of the first destination's exporters, and of the others' primary ones.

        Its parts are in :attr:`parts` afterwards.
        """
        first = combine({exporter.channel.name: health_of(exporter, self._thresholds) for exporter in default})
        parts = {RouteName(): first, **{name: self._of_route(name, exporter) for name, exporter in others.items()}}
        self.parts = parts  # replaced in one step
        succeeded = sum(exporter.channel.counters.succeeded_recently() for exporter in (default[0], *others.values()))
        return joined(parts, succeeded, warnings, self._thresholds)

    def _of_route(self, name: RouteName, exporter: AuditExporter) -> AuditHealth:
        counters, now = exporter.channel.counters, Clock.monotonic()
        figures = (counters.submitted, counters.recovered, counters.failed, counters.rejected, counters.lost)
        known = self._known.get(name)
        is_quiet = not counters.pending and known is not None and known[1] == figures and not known[2].pending
        if known is not None and is_quiet and now - known[0] < _QUIET_SECONDS:
            return known[2]
        health = health_of(exporter, self._thresholds)
        self._known[name] = (now, figures, health)
        return health


def health_of(exporter: AuditExporter, thresholds: HealthThresholds) -> AuditHealth:
    """Return the health of one exporter at one instant."""
    known = exporter.channel.health(thresholds)
    _note_lost(exporter)
    exporter.losses.write()
    try:
        losses = _recent_losses(exporter)
    except DeadLettersBusyError as error:
        return known if known.problem else uncertain(known, str(error))
    except OutboxError as error:
        return known if known.problem else broken(known, str(error))
    log = exporter.channel.delivery_log
    waiting = Waiting(log.waiting_cause, log.held_cause)
    accepting = exporter.rejections.accepting(known.outbox_bytes_left)
    return judge(known, thresholds, losses, waiting, accepting=accepting)


def _recent_losses(exporter: AuditExporter) -> RecentLosses:
    losses = exporter.losses.recent(exporter.channel.counters.succeeded_recently())
    parked = exporter.channel.delivery_log.parked_cause
    causes = dict(losses.causes)
    if parked is not None and "parked" in causes and causes["parked"].text == parked.text:
        causes["parked"] = parked  # which knows the remedy of its own
    return losses._replace(causes=tuple(causes.items()))


def _note_lost(exporter: AuditExporter) -> None:
    """Write down what the delivery has lost with a damaged file since the last look."""
    lost = exporter.channel.counters.take_unnoted_losses()
    if lost:
        exporter.losses.note("lost", _LOST, "unknown", lost)
