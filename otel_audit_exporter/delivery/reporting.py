"""What one delivery channel shows of itself: its counters and its health."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from otel_audit_exporter.delivery.backoff import BackoffState
from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.observability.health import (
    AuditHealth,
    HealthThresholds,
    assess,
    broken,
    uncertain,
    without_dropped,
)
from otel_audit_exporter.observability.stats import AuditStats
from otel_audit_exporter.outbox.dead_letter_store import DeadLettersBusyError
from otel_audit_exporter.runtime.clock import Clock

# Another process parks or retries just now; who holds the file for longer makes nobody wait.
LOOK_SECONDS: Final = 0.2

if TYPE_CHECKING:
    from otel_audit_exporter.delivery.channel import DeliveryChannel


def channel_stats(channel: DeliveryChannel) -> AuditStats:
    """Return the counters of a channel at one instant."""
    _count_settled_by_others(channel)
    return channel.counters.stats(
        held=len(channel.refusals),
        all_held=channel.sender.backoff.state is BackoffState.ON_HOLD,
        oldest_pending_seconds=oldest_pending_seconds(channel),
    )


def oldest_pending_seconds(channel: DeliveryChannel) -> float:
    """Return the age of the oldest event that waits: of own ones by marks, of adopted ones by the time in the log."""
    adopted = (held.found.oldest_accepted_at for held in channel.logs.adopted if held.log.pending)
    oldest = min((at for at in adopted if at is not None), default=None)
    of_adopted = 0.0 if oldest is None else max(Clock.wall() - oldest, 0.0)
    return max(channel.marks.oldest_seconds(), of_adopted)


def _count_settled_by_others(channel: DeliveryChannel) -> None:
    with suppress(OutboxError):  # where they cannot be read, the health says so
        settled = channel.dead_letters.settled_by_others(channel.identity) if channel.counters.failed else 0
        if settled:
            channel.counters.count(failed=-settled, succeeded=settled)


def channel_health(channel: DeliveryChannel, thresholds: HealthThresholds) -> AuditHealth:
    """Return the health of a channel; where the dead letters cannot be read, that is among the reasons."""
    stats = channel_stats(channel)
    unknown = ""
    try:
        channel.parked_seen = channel.dead_letters.waiting(LOOK_SECONDS).count()
    except DeadLettersBusyError as error:
        unknown = str(error)
    except (OutboxError, OSError) as error:
        known = assess(stats, thresholds, cycle_seconds=channel.options.cycle_seconds)
        return broken(known, f"the outbox or the dead letters cannot be read: {error}")
    known = _assessed(channel, without_dropped(stats, channel.parked_seen, channel.counters.lost), thresholds)
    return uncertain(known, unknown) if unknown else known


def _assessed(channel: DeliveryChannel, stats: AuditStats, thresholds: HealthThresholds) -> AuditHealth:
    quota = channel.logs.quota
    closed = channel.logs.own is None
    cycle_seconds = channel.options.cycle_seconds
    return assess(
        stats,
        thresholds,
        overdue=overdue(channel) if stats.pending else 0,
        parked=channel.parked_seen,
        lost=channel.counters.lost,
        outbox_bytes_left=None if closed else channel.logs.left_bytes,
        outbox_bytes_max=None if closed else quota.max_bytes,
        slow_write_seconds=channel.write_timings.slow_seconds(Clock.monotonic(), cycle_seconds),
        cycle_seconds=cycle_seconds,
    )


def overdue(channel: DeliveryChannel) -> int:
    """Count what waits for longer than one full export cycle."""
    cycle_seconds = channel.options.cycle_seconds
    before = Clock.wall() - cycle_seconds
    adopted = (held for held in channel.logs.adopted if (held.found.oldest_accepted_at or before) <= before)
    return channel.marks.count_older(cycle_seconds) + sum(held.log.pending for held in adopted)
