"""The page for people: one self-contained HTML document, everything that comes from outside escaped."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import resources
from string import Template
from typing import Any, Final
from urllib.parse import quote

import orjson

from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.observability.health import AuditHealth
from otel_audit_exporter.observability.health_monitor import SAMPLE_SECONDS, Sample
from otel_audit_exporter.observability.stats import AuditStats, NotedError
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.times import duration_words
from otel_audit_exporter.runtime.visible import visible

_HOUR: Final = 3600.0
_WIDTH, _HEIGHT = 720.0, 160.0
_GAP_SECONDS: Final = 3 * SAMPLE_SECONDS
_SHOWN_ERRORS: Final = 5
_MAX_TEXT: Final = 400
_MAX_NAME: Final = 120
_MAX_DOCUMENT: Final = 20_000
_SIGNS: Final = {"good": "✓", "warning": "!", "critical": "✕"}
_SAID: Final = {
    "good": "Everything is delivered in time.",
    "warning": "Something needs a look.",
    "critical": "Something needs to be done now.",
}

# What became of a retry: the class of the notice, and its text.
NOTICES: Final[Mapping[str, tuple[str, str]]] = {
    "stored": ("good", "The dead letter is in the table now."),
    "refused": ("critical", "The table refused it again; the new reason is below."),
    "unreachable": ("critical", "The sink cannot be reached, or its configuration is at fault. Nothing has changed."),
    "missing": ("warning", "There is no such dead letter any more."),
    "all-stored": ("good", "All dead letters are in the table now."),
    "some-refused": ("critical", "The table refused some again; the new reasons are below."),
    "more-left": ("warning", "Some are stored, and others are left: retry again."),
    "acknowledged": ("good", "The losses so far are acknowledged."),
    "no-reason": ("warning", "Say why the losses are acknowledged."),
}


@dataclass(frozen=True)
class PageData:
    """What the page shows. ``letters``, ``causes``, ``losses`` and ``destinations`` are as in the JSON documents, None
    where they cannot be read; ``notice`` is a key of :data:`NOTICES`.
    """

    target: str
    stats: AuditStats
    health: AuditHealth
    samples: Sequence[Sample]
    errors: Sequence[NotedError]
    letters: Sequence[Mapping[str, Any]] | None
    causes: Sequence[Mapping[str, Any]] = ()
    losses: Mapping[str, Any] | None = None
    destinations: Sequence[Mapping[str, Any]] = ()
    notice: str = ""


def render_page(data: PageData, now: float | None = None) -> tuple[str, str]:
    """Return the page, and the content security policy that goes with it."""
    now = Clock.wall() if now is None else now
    nonce = secrets.token_urlsafe(16)
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    html = Template(template).substitute(
        nonce=nonce,
        level=data.health.level,
        sign=_SIGNS[data.health.level],
        said=_SAID[data.health.level],
        target=escape(data.target),
        process=os.getpid(),
        at=_clock(now),
        notice=_notice(data.notice),
        reasons=_reasons(data.health.reasons),
        tiles=_tiles(data, now),
        chart=_chart(data.samples, data.stats.pending, now),
        sinks=_sinks(data.stats, data.health),
        errors=_errors(data.errors),
        losses=_losses(data.losses),
        destinations=_destinations(data.destinations),
        letters=_causes(data.causes, data.health.parked) + _letters(data.letters, data.health.parked),
    )
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _notice(name: str) -> str:
    kind, text = NOTICES.get(name, ("", ""))
    return f'<p class="notice {kind}" role="status">{escape(text)}</p>' if text else ""


def _reasons(reasons: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(reason)}</li>" for reason in reasons)
    return f'<ul class="reasons">{items}</ul>' if items else ""


def _tiles(data: PageData, now: float) -> str:
    stats, health = data.stats, data.health
    tiles = [
        ("Delivered", f"{stats.succeeded:,}", _rate(data.samples, now)),
        ("Success rate", f"{_percent(stats.success_rate)}", "of what was asked for"),
        ("Pending", f"{stats.pending:,}", _waiting(stats)),
        ("Overdue", f"{health.overdue:,}", f"pending for longer than {health.cycle_seconds:.3g} s"),
        ("Held", f"{stats.held:,}", "until a cause is mended"),
        ("Dead letters", f"{health.parked:,}", f"{stats.failed - stats.lost:,} by this process"),
        ("Lost", f"{stats.lost:,}", "with a damaged file"),
        ("Rejected", f"{stats.rejected:,}", "refused at the call"),
        ("Outbox", _room(health), "free"),
    ]
    return "".join(
        f'<div class="tile"><dt>{name}</dt><dd>{value}</dd><dd class="more">{escape(more)}</dd></div>'
        for name, value, more in tiles
    )


def _rate(samples: Sequence[Sample], now: float) -> str:
    recent = [sample for sample in samples if now - sample.at <= 60 + SAMPLE_SECONDS]
    if len(recent) < 2 or recent[-1].at <= recent[0].at:
        return "so far"
    a_minute = (recent[-1].settled - recent[0].settled) / (recent[-1].at - recent[0].at) * 60
    return f"{max(a_minute, 0):,.0f} a minute now"


def _waiting(stats: AuditStats) -> str:
    return f"the oldest for {_duration(stats.oldest_pending_seconds)}" if stats.pending else "nothing waits"


def _room(health: AuditHealth) -> str:
    left, most = health.outbox_bytes_left, health.outbox_bytes_max
    return "?" if left is None or not most else f"{100 * left // most} %"


# --- the picture of the last hour -----------------------------------------------------------------------------------


def _chart(samples: Sequence[Sample], pending: int, now: float) -> str:
    shown = [sample for sample in samples if now - sample.at <= _HOUR]
    top = _nice_ceiling(max([pending, *(sample.pending for sample in shown)], default=0))
    runs = _runs(shown)
    areas = "".join(_area(run, top, now) for run in runs)
    strip = "".join(_levels(run, now) for run in runs)
    lines = "".join(
        f'<line class="grid" x1="0" x2="{_WIDTH:g}" y1="{_HEIGHT * part:g}" y2="{_HEIGHT * part:g}"/>'
        for part in (0.0, 0.5, 1.0)
    )
    peak = max((sample.pending for sample in shown), default=0)
    title = f"Pending events in the last hour: {pending:,} now, at most {peak:,}"
    return (
        f'<div class="plot"><span class="y top">{top:,}</span><span class="y middle">{top / 2:,g}</span>'
        f'<span class="y bottom">0</span>'
        f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT + 14:g}" preserveAspectRatio="none" role="img" aria-label="{title}">'
        f"<title>{title}</title>{lines}{areas}{strip}</svg></div>"
        '<div class="x"><span class="at60">60 min</span><span class="at45">45</span><span class="at30">30</span>'
        '<span class="at15">15</span><span class="at0">now</span></div>'
    )


def _runs(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return the samples in runs without a gap between them."""
    runs: list[list[Sample]] = []
    for sample in samples:
        if not runs or sample.at - runs[-1][-1].at > _GAP_SECONDS:
            runs.append([])
        runs[-1].append(sample)
    return runs


def _area(run: Sequence[Sample], top: int, now: float) -> str:
    points = [(_x(sample.at, now), _HEIGHT * (1 - sample.pending / top)) for sample in run]
    points.append((_x(min(run[-1].at + SAMPLE_SECONDS, now), now), points[-1][1]))
    path = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    first, last = points[0][0], points[-1][0]
    return (
        f'<path class="area" d="M{first:.1f} {_HEIGHT:g} L{path} L{last:.1f} {_HEIGHT:g} Z"/>'
        f'<path class="line" d="M{path}"/>'
    )


def _levels(run: Sequence[Sample], now: float) -> str:
    """Return a strip that has the level of each moment, one rectangle for each stretch of the same level."""
    stretches: list[tuple[str, float, float]] = []
    for sample in run:
        end = min(sample.at + SAMPLE_SECONDS, now)
        if stretches and stretches[-1][0] == sample.level:
            stretches[-1] = (sample.level, stretches[-1][1], end)
        else:
            stretches.append((sample.level, sample.at, end))
    return "".join(
        f'<rect class="{level}" x="{_x(begin, now):.1f}" y="{_HEIGHT + 6:g}" '
        f'width="{max(_x(end, now) - _x(begin, now), 1.5):.1f}" height="8"/>'
        for level, begin, end in stretches
    )


def _x(at: float, now: float) -> float:
    return _WIDTH * (1 - min(max(now - at, 0.0), _HOUR) / _HOUR)


def _nice_ceiling(value: int) -> int:
    if value <= 10:
        return 10
    step = 10 ** math.floor(math.log10(value))
    return next(int(step * factor) for factor in (1, 2, 4, 6, 8, 10) if step * factor >= value)


# --- the lists ------------------------------------------------------------------------------------------------------


def _sinks(stats: AuditStats, health: AuditHealth) -> str:
    if len(stats.sinks) < 2:
        return ""
    rows = "".join(
        f"<tr><th>{_text(name)}</th><td><span class='dot {level}'></span> {level}</td>"
        f"<td>{one.succeeded:,}</td><td>{one.pending:,}</td><td>{one.failed:,}</td></tr>"
        for name, one in stats.sinks.items()
        for level in [health.sinks[name].level if name in health.sinks else "good"]
    )
    head = "<tr><th>Sink</th><th>Level</th><th>Delivered</th><th>Pending</th><th>Parked</th></tr>"
    return f'<section><h2>Sinks</h2><div class="wide"><table>{head}{rows}</table></div></section>'


def _errors(errors: Sequence[NotedError]) -> str:
    if not errors:
        return '<p class="none">None since this process began.</p>'
    items = [
        f'<li><p class="error">{_text(error.text)}</p><p class="when">{_moment(error.last_at)}{_times(error)}</p></li>'
        for error in list(errors)[: -_SHOWN_ERRORS - 1 : -1]
    ]
    return f'<ul class="list">{"".join(items)}</ul>'


def _times(error: NotedError) -> str:
    return "" if error.times == 1 else f", {error.times:,} times in a row since {_moment(error.first_at)}"


def _losses(losses: Mapping[str, Any] | None) -> str:
    if losses is None:
        return '<p class="none">They cannot be read.</p>'
    items = "".join(_loss(loss) for loss in losses["losses"])
    items += "".join(_parked(one) for one in losses["parked_in"])
    items += "".join(f'<li><p class="what">{_where(one)}: cannot be read</p></li>' for one in losses["unreadable"])
    acknowledged = "".join(
        f'<li><p class="when">{_text(one["by"])} acknowledged at {_utc(one["at"])}: {_text(one["reason"])}</p></li>'
        for one in losses["acknowledgements"][-1:]
    )
    if not items:
        return f'<p class="none">None.</p><ul class="list">{acknowledged}</ul>'
    form = (
        '<form method="post" action="losses/acknowledge"><label for="reason">Reason</label> '
        '<input id="reason" name="reason" required maxlength="160"/> '
        '<button id="acknowledge">Acknowledge</button></form>'
    )
    return f'<ul class="list">{items}{acknowledged}</ul>{form}'


def _loss(loss: Mapping[str, Any]) -> str:
    return (
        f'<li><p class="what"><b>{loss["count"]:,} {_text(loss["kind"])}</b>{_where(loss)}</p>'
        f'<p class="error">{_text(loss["cause"])}</p>'
        f"<p>What to do: {_text(loss['remedy'])}</p>"
        f'<p class="when">last at {_utc(loss["last_at"])}, one of them: {_text(loss["example"])}</p></li>'
    )


def _parked(one: Mapping[str, Any]) -> str:
    where, see = _where(one), "the dead letters"
    if where:
        query = "&".join(f"{key}={quote(one[key], safe='')}" for key in ("trail", "database") if one[key])
        see = f'<a href="dead-letters?{escape(query)}">its dead letters</a>'
    return f'<li><p class="what"><b>{one["count"]:,} parked</b>{where}: see {see}</p></li>'


def _where(one: Mapping[str, Any]) -> str:
    """Return the destination that events were for, where it is another than the first one."""
    name = RouteName(one["trail"], one["database"])
    return "" if name == RouteName() else f" for {_name(str(name))}"


def _utc(moment: str) -> str:
    return f"{_text(moment[:19].replace('T', ' '))} UTC"


def _destinations(destinations: Sequence[Mapping[str, Any]]) -> str:
    if not destinations:
        return '<p class="none">The outbox is in memory: this process has nothing in common with others.</p>'
    rows = "".join(
        f"<tr><th>{_text(one['destination'])}</th><td>{process['pid'] or ''}</td>"
        f"<td>{_state(process)}</td>"
        f"<td>{_count(process['pending'])}</td><td>{_duration(process['oldest_pending_seconds'])}</td>"
        f"<td>{_count(one['parked'])}</td></tr>"
        for one in destinations
        for process in one["processes"] or [_NO_PROCESS]
    )
    head = "<tr><th>Destination</th><th>Process</th><th>State</th><th>Pending</th><th>Oldest</th><th>Parked</th></tr>"
    return f'<div class="wide"><table>{head}{rows}</table></div>'


_NO_PROCESS: Final = {"pid": None, "live": True, "problem": "", "pending": 0, "oldest_pending_seconds": 0.0}


def _state(process: Mapping[str, Any]) -> str:
    return _text(", ".join(filter(None, ("live" if process["live"] else "orphaned", process["problem"]))))


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _causes(causes: Sequence[Mapping[str, Any]], count: int) -> str:
    if not count:
        return ""
    rows = "".join(
        f"<tr><td>{cause['count']:,}</td><td>{_text(cause['error'], _MAX_NAME)}</td>"
        f"<td>{_utc(cause['newest_at'])}</td></tr>"
        for cause in causes
    )
    return (
        f'<div class="wide"><table><tr><th>Events</th><th>Cause</th><th>Newest</th></tr>{rows}</table></div>'
        f'<form method="post" action="dead-letters/retry"><button id="retry-all">Retry all {count:,}</button></form>'
    )


def _letters(letters: Sequence[Mapping[str, Any]] | None, count: int) -> str:
    if letters is None:
        return '<p class="none">They cannot be read.</p>'
    if not letters:
        return '<p class="none">None.</p>'
    items = "".join(_letter(letter) for letter in letters)
    rest = max(count - len(letters), 0)
    more = (
        f'<p class="none">and {rest:,} more: <a href="dead-letters?limit=1000">all, page by page</a></p>'
        if rest
        else ""
    )
    return f'<ul class="list">{items}</ul>{more}'


def _letter(letter: Mapping[str, Any]) -> str:
    key = quote(str(letter["record_id"]), safe="")
    named = (letter["action"] or "(unreadable)", letter["entity_type"], letter["entity_id"])
    action = f"retry {' '.join(str(one) for one in named if one)}"
    tries = f"{letter['attempts']:,} {'try' if letter['attempts'] == 1 else 'tries'}"
    row = ""
    if letter.get("row") is not None:
        document = _document(orjson.dumps(letter["row"]))
        row = (
            f'<details id="row-{key}"><summary id="show-{key}">Row</summary>'
            f'<pre tabindex="0">{document}</pre></details>'
        )
    return (
        f'<li class="letter"><div><p class="what"><b>{_name(named[0])}</b> {_name(letter["entity_type"])} '
        f'<code>{_name(letter["entity_id"])}</code></p><p class="error">{_text(letter["error"])}</p>'
        f'<p class="when">parked {_utc(letter["parked_at"])}, {tries}, '
        f"id <code>{_name(letter['record_id'])}</code></p>{row}</div>"
        f'<form method="post" action="dead-letters/{key}/retry">'
        f'<button id="retry-{key}" aria-label="{_name(action)}">Retry</button></form></li>'
    )


def _document(written: bytes) -> str:
    text = written.decode()
    if len(text) <= _MAX_DOCUMENT:
        with suppress(RecursionError, ValueError):  # deeper, or with longer numbers, than Python writes: as it is
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return _text(text, _MAX_DOCUMENT)


def _name(value: object) -> str:
    return _text(value, _MAX_NAME)


def _text(value: object, most: int = _MAX_TEXT) -> str:
    text = "" if value is None else visible(str(value))
    return escape(text if len(text) <= most else f"{text[:most]}…")


def _percent(value: float) -> str:
    return f"{int(value * 100) / 100:g} %"


def _duration(seconds: float) -> str:
    return duration_words(seconds, digits=1, digits_of_seconds=1)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
