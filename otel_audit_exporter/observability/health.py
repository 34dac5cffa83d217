"""Health: one level and its reasons, decided by a pure function of figures and thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, NamedTuple

from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.losses import RecentLosses
from otel_audit_exporter.observability.stats import AuditStats, success_rate

Level = Literal["good", "warning", "critical"]
LEVELS: Final[tuple[Level, ...]] = ("good", "warning", "critical")
_Finding = tuple[Level, str]


@dataclass(frozen=True, slots=True)
class HealthThresholds:
    """Where a level begins. Percentages are of 0 to 100, the others are numbers of events.

    ``success_rate_good``: above it the success rate is good (99.5), below ``success_rate_warning`` (98) critical,
    a warning in between. ``overdue_warning``: so many overdue events are a warning (10), more than
    ``overdue_critical`` (50) critical. ``failed_warning_percent``: more parked events than this share of those
    that are settled are a warning (0: any), more than ``failed_critical_percent`` (1) critical.
    ``held_warning``: so many held events are a warning (1; 0: never). ``outbox_left_warning_percent`` (20) and
    ``outbox_left_critical_percent`` (5): less room than this in the outbox.
    """

    success_rate_good: float = 99.5
    success_rate_warning: float = 98.0
    overdue_warning: int = 10
    overdue_critical: int = 50
    failed_warning_percent: float = 0.0
    failed_critical_percent: float = 1.0
    held_warning: int = 1
    outbox_left_warning_percent: float = 20.0
    outbox_left_critical_percent: float = 5.0

    def __post_init__(self) -> None:
        for name in _NAMES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number, 0 or more")
        for lower, higher in _ORDERED:
            if getattr(self, lower) > getattr(self, higher):
                raise ValueError(f"{lower} must not be higher than {higher}")


_NAMES: Final = tuple(one.name for one in fields(HealthThresholds))
_ORDERED: Final = (
    ("success_rate_warning", "success_rate_good"),
    ("overdue_warning", "overdue_critical"),
    ("failed_warning_percent", "failed_critical_percent"),
    ("outbox_left_critical_percent", "outbox_left_warning_percent"),
)


def parse_thresholds(value: Any) -> HealthThresholds:
    """Return thresholds from themselves, a mapping, or ``name=number,...``; raise ValueError that names the fault."""
    if isinstance(value, HealthThresholds):
        return value
    given = value if isinstance(value, Mapping) else dict(_pairs(str(value)))
    unknown = [str(name) for name in given if name not in _NAMES]
    if unknown:
        raise ValueError(f"there is no {', '.join(unknown)}; must be some of {', '.join(_NAMES)}")
    return HealthThresholds(**given)


def _pairs(text: str) -> Iterator[tuple[str, float]]:
    for pair in filter(str.strip, text.split(",")):
        name, _, number = pair.partition("=")
        try:
            yield name.strip(), float(number)
        except ValueError:
            raise ValueError("must be name=number pairs with commas between them") from None


@dataclass(frozen=True, slots=True)
class AuditHealth:
    """How auditing is in this process, at one instant: a level, the reasons for it, and the figures.

    ``level`` is ``"good"``, ``"warning"`` or ``"critical"``; ``reasons`` says in words why it is not good, the worst
    first. ``overdue``: events pending for longer than one full export cycle (``cycle_seconds``: schedule delay and
    export timeout). ``failed`` (parked, or lost with a damaged outbox file), ``rejected`` and ``lost`` are those of the
    last 24 hours that nobody has acknowledged, retried or dropped, of all processes that share the outbox directory;
    ``success_rate`` is measured with them. ``parked``: in the dead letters now, by whomever. ``accepting``: False while
    the outbox refuses events. ``problem``: why the outbox or the dead letters cannot be read.
    ``outbox_bytes_left`` of ``outbox_bytes_max``: the room that quota and disk leave, None where it is not known.
    ``slow_write_seconds``: how long the slow write took of which there is a warning, 0.0 while writes are fast.
    ``sinks`` has the same for every sink of the default trail by name; the trouble of a sink other than the first is a
    warning at most. ``trails`` and ``databases`` have it by the names of these. The figures at the top cover all
    destinations, each with its first sink.
    """

    level: Level = "good"
    reasons: tuple[str, ...] = ()
    pending: int = 0
    overdue: int = 0
    oldest_pending_seconds: float = 0.0
    held: int = 0
    failed: int = 0
    rejected: int = 0
    lost: int = 0
    parked: int = 0
    accepting: bool = True
    problem: str = ""
    success_rate: float = 100.0
    outbox_bytes_left: int | None = None
    outbox_bytes_max: int | None = None
    slow_write_seconds: float = 0.0
    cycle_seconds: float = 0.0
    sinks: Mapping[str, AuditHealth] = field(default_factory=dict)
    trails: Mapping[str, AuditHealth] = field(default_factory=dict)
    databases: Mapping[str, AuditHealth] = field(default_factory=dict)


def assess(
    stats: AuditStats,
    thresholds: HealthThresholds,
    *,
    overdue: int = 0,
    parked: int = 0,
    lost: int = 0,
    outbox_bytes_left: int | None = None,
    outbox_bytes_max: int | None = None,
    slow_write_seconds: float = 0.0,
    cycle_seconds: float = 0.0,
) -> AuditHealth:
    """Decide the health of one sink. ``lost``: of the failed events those that a damaged file has swallowed."""
    figures = AuditHealth(
        pending=stats.pending,
        overdue=overdue,
        oldest_pending_seconds=stats.oldest_pending_seconds,
        held=stats.held,
        failed=stats.failed,
        parked=parked,
        success_rate=stats.success_rate,
        outbox_bytes_left=outbox_bytes_left,
        outbox_bytes_max=outbox_bytes_max,
        slow_write_seconds=slow_write_seconds,
        cycle_seconds=cycle_seconds,
    )
    losses = RecentLosses(parked=stats.failed - lost, lost=lost, succeeded=stats.succeeded)
    return _judged(replace(figures, lost=lost), thresholds, losses, Waiting())


class Waiting(NamedTuple):
    """Why events wait: ``failing`` where delivery fails now, ``held`` for those that were refused by themselves."""

    failing: Cause | None = None
    held: Cause | None = None


def judge(
    known: AuditHealth, thresholds: HealthThresholds, losses: RecentLosses, waiting: Waiting, *, accepting: bool
) -> AuditHealth:
    """Decide the present health of one sink from its figures, what was lost in the last day, and why events wait."""
    figures = replace(
        known,
        failed=losses.parked + losses.lost,
        rejected=losses.rejected,
        lost=losses.lost,
        success_rate=success_rate(losses.succeeded, losses.total),
        accepting=accepting,
    )
    return _judged(figures, thresholds, losses, waiting)


def _judged(figures: AuditHealth, thresholds: HealthThresholds, losses: RecentLosses, waiting: Waiting) -> AuditHealth:
    findings = [
        *_problem(figures),
        *_accepting(figures),
        *_success_rate(figures, thresholds, losses),
        *_losses(thresholds, losses),
        *_overdue(figures, thresholds, waiting),
        *_held(figures, thresholds, waiting),
        *_outbox_left(figures, thresholds),
        *_slow_writes(figures),
    ]
    return replace(figures, level=_worst(findings), reasons=_reasons(findings))


def without_dropped(stats: AuditStats, parked: int, lost: int = 0) -> AuditStats:
    """Return the stats as if what has left the dead letters had not failed: somebody has dropped it.

    ``parked``: how many there are now. Those of other processes are among them, so this may leave some too many.
    ``lost``: those that failed without ever being in there.
    """
    failed = parked + lost
    if failed >= stats.failed:
        return stats
    return replace(stats, failed=failed, success_rate=success_rate(stats.succeeded, failed + stats.rejected))


def combine(by_sink: Mapping[str, AuditHealth]) -> AuditHealth:
    """Return the health of a pipeline: its first sink's, with the others' troubles as warnings."""
    (primary_name, primary), *others = by_sink.items()
    if not others:
        return replace(primary, sinks=by_sink)
    findings: list[_Finding] = [(primary.level, f"{primary_name}: {reason}") for reason in primary.reasons]
    for name, health in others:
        findings.extend(("warning", f"{name}: {reason}") for reason in health.reasons)
    return replace(primary, level=_worst(findings), reasons=_reasons(findings), sinks=by_sink)


_SUMMED: Final = ("pending", "overdue", "held", "failed", "rejected", "lost", "parked")
_MOST_REASONS: Final = 20


def joined(
    parts: Mapping[RouteName, AuditHealth], succeeded: int, warnings: Sequence[str], thresholds: HealthThresholds
) -> AuditHealth:
    """Return the health of all destinations together, with that of each trail and each named database.

    The level is the worst of all; ``warnings`` are reasons of the whole. The figures are sums, the room in the outbox
    that of the first destination.
    """
    first = next(iter(parts.values()))
    findings: list[_Finding] = [("warning", text) for text in warnings]
    for name, health in parts.items():
        words = "" if health is first and len(parts) == 1 else f"{name}: "
        findings.extend((health.level, f"{words}{reason}") for reason in health.reasons)
    reasons = _reasons(findings)
    more = len(reasons) - _MOST_REASONS
    whole = first if len(parts) == 1 else _summed(first, list(parts.values()), succeeded)
    return replace(
        whole,
        level=_worst(findings),
        reasons=reasons if more <= 0 else (*reasons[:_MOST_REASONS], f"and {more} more"),
        trails=_groups(first, ((name.trail, health) for name, health in parts.items())),
        databases=_groups(first, ((name.database or "", health) for name, health in parts.items() if name.database)),
    )


def _summed(first: AuditHealth, parts: Sequence[AuditHealth], succeeded: int | None = None) -> AuditHealth:
    figures = {name: sum(getattr(one, name) for one in parts) for name in _SUMMED}
    rate = (
        min(one.success_rate for one in parts)
        if succeeded is None
        else success_rate(succeeded, figures["failed"] + figures["rejected"])
    )
    return replace(
        first,
        **figures,
        success_rate=rate,
        oldest_pending_seconds=max(one.oldest_pending_seconds for one in parts),
        slow_write_seconds=max(one.slow_write_seconds for one in parts),
        accepting=all(one.accepting for one in parts),
        problem=next((one.problem for one in parts if one.problem), ""),
    )


def _groups(first: AuditHealth, named: Iterable[tuple[str, AuditHealth]]) -> dict[str, AuditHealth]:
    groups: dict[str, list[AuditHealth]] = {}
    for name, health in named:
        groups.setdefault(name, []).append(health)
    return {name: _group(first, parts) for name, parts in groups.items()}


def _group(first: AuditHealth, parts: list[AuditHealth]) -> AuditHealth:
    if len(parts) == 1:
        return replace(parts[0], sinks={})
    findings: list[_Finding] = [(one.level, reason) for one in parts for reason in one.reasons]
    return replace(_summed(first, parts), level=_worst(findings), reasons=_reasons(findings), sinks={})


def broken(known: AuditHealth, problem: str) -> AuditHealth:
    """Return the health of a sink whose outbox cannot be read, with the figures that are known all the same."""
    return replace(known, level="critical", problem=problem, reasons=(problem, *known.reasons))


def uncertain(known: AuditHealth, problem: str) -> AuditHealth:
    """Return the health of a sink of which something is unknown as yet: a warning at least."""
    reason = f"{problem}. What to do: see which program has the file open; it is looked at again"
    level: Level = "warning" if known.level == "good" else known.level
    return replace(known, level=level, problem=problem, reasons=(*known.reasons, reason))


def _problem(health: AuditHealth) -> Iterator[_Finding]:
    if health.problem:
        yield "critical", health.problem


def _accepting(health: AuditHealth) -> Iterator[_Finding]:
    if not health.accepting:
        yield "critical", "events are not accepted now: the outbox refuses them"


def _success_rate(health: AuditHealth, limits: HealthThresholds, losses: RecentLosses) -> Iterator[_Finding]:
    rate = health.success_rate
    if rate < limits.success_rate_warning:
        level: Level = "critical" if losses.fresh else "warning"
        yield level, f"success rate {_percent(rate)}, below {limits.success_rate_warning:g} %"
    elif rate <= limits.success_rate_good:
        yield "warning", f"success rate {_percent(rate)}, not above {limits.success_rate_good:g} %"


_WAYS: Final = {
    "parked": "parked in the dead letters",
    "rejected": "rejected",
    "lost": "lost with a damaged outbox file",
}


def _losses(limits: HealthThresholds, losses: RecentLosses) -> Iterator[_Finding]:
    """What is kept nowhere is critical in its first hour, however little; what is parked by its share."""
    percent = 100.0 - success_rate(losses.succeeded, losses.total)
    much = percent > limits.failed_critical_percent
    share = f", more than {limits.failed_critical_percent:g} %" if much else ""
    if percent <= limits.failed_warning_percent:
        return
    causes = dict(losses.causes)
    for kind, count in (("parked", losses.parked), ("rejected", losses.rejected), ("lost", losses.lost)):
        level: Level = "critical" if losses.fresh and (much or kind != "parked") else "warning"
        if count:
            yield level, f"{_events(count)} {_WAYS[kind]}{share}{_because(causes.get(kind))}"


def _overdue(health: AuditHealth, limits: HealthThresholds, waiting: Waiting) -> Iterator[_Finding]:
    text = f"{_events(health.overdue)} overdue: pending for longer than {health.cycle_seconds:.3g} s"
    if health.overdue > limits.overdue_critical:
        yield "critical", text + _because(waiting.failing)
    elif health.overdue >= max(limits.overdue_warning, 1):
        yield "warning", text + _because(waiting.failing)


def _held(health: AuditHealth, limits: HealthThresholds, waiting: Waiting) -> Iterator[_Finding]:
    if 0 < limits.held_warning <= health.held:
        cause = waiting.failing or waiting.held
        why = _because(cause) if cause else " until a setting is corrected or a row is proved to be at fault"
        yield "warning", f"{_events(health.held)} held{why}"


def _because(cause: Cause | None) -> str:
    return "" if cause is None else f": {cause.text}. What to do: {cause.remedy}"


def _outbox_left(health: AuditHealth, limits: HealthThresholds) -> Iterator[_Finding]:
    left, most = health.outbox_bytes_left, health.outbox_bytes_max
    if left is None or not most:
        return
    percent = 100.0 * left / most
    text = f"the outbox is nearly full: {left / 2**20:,.1f} MiB left ({_percent(percent)}). What to do: "
    text += "see why the sink takes no events, free disk, or raise OTEL_AUDIT_OUTBOX_MAX_BYTES"
    if percent < limits.outbox_left_critical_percent:
        yield "critical", text
    elif percent < limits.outbox_left_warning_percent:
        yield "warning", text


def _slow_writes(health: AuditHealth) -> Iterator[_Finding]:
    if health.slow_write_seconds > 0:
        yield (
            "warning",
            f"writes are slow: one took {health.slow_write_seconds:.1f} s. What to do: see the database's load",
        )


def _worst(findings: list[_Finding]) -> Level:
    return max((level for level, _ in findings), key=LEVELS.index, default="good")


def _reasons(findings: list[_Finding]) -> tuple[str, ...]:
    return tuple(text for _, text in sorted(findings, key=lambda finding: -LEVELS.index(finding[0])))


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"


def _percent(value: float) -> str:
    """Return a percentage that is never rounded up to a limit that it has not reached."""
    return f"{int(value * 100) / 100:g} %"
