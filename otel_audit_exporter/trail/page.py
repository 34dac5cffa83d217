"""The page: one self-contained HTML document that needs no script."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from itertools import groupby
from string import Template
from typing import Final

from otel_audit_exporter.event.fields import OUTCOMES
from otel_audit_exporter.table.readers import EventCount, StoredEvent
from otel_audit_exporter.trail import markup
from otel_audit_exporter.trail.details import Details
from otel_audit_exporter.trail.filters import MAX_LENGTH, TrailFilter
from otel_audit_exporter.trail.sentences import Describe, Resolve, Sentences
from otel_audit_exporter.trail.texts import WEEKDAYS

_FIELDS: Final = ("text", "entity_type", "entity_id", "user", "tenant", "action", "request_id", "trace_id")
_SPANS: Final = (("today", "24h"), ("week", "7d"), ("month", "30d"))


@dataclass(frozen=True)
class Look:
    """How every page looks: the application's texts, names, words and links."""

    texts: Mapping[str, str]
    resolve: Resolve | None = None
    describe: Describe | None = None
    trace_link: str | None = None
    frame_origins: Sequence[str] = ()


@dataclass(frozen=True)
class PageData:
    """What a page shows. ``next_mark`` is where the next page begins; ``problem`` is a sentence, where there is one."""

    asked: TrailFilter
    events: Sequence[StoredEvent] = ()
    count: EventCount | None = None
    next_mark: str | None = None
    problem: str = ""
    first: bool = True
    frame: bool = False


def render_page(look: Look, data: PageData) -> tuple[str, str]:
    """Return the page, and the content security policy that goes with it."""
    nonce = secrets.token_urlsafe(16)
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    writer = _Writer(look, data)
    html = Template(template).substitute(
        nonce=nonce,
        language=markup.text(look.texts["language"]),
        title=markup.text(look.texts["title"]),
        skip=markup.text(look.texts["skip"]),
        kind="frame" if data.frame else "page",
        header=writer.header(),
        problem=writer.problem(),
        filter="" if data.frame else writer.filter(),
        summary=writer.summary(),
        events=writer.events(),
        pages=writer.pages(),
        utc=markup.text(look.texts["utc"]),
    )
    ancestors = " ".join(look.frame_origins) if data.frame and look.frame_origins else "'none'"
    policy = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; form-action 'self'; base-uri 'none'; "
        f"frame-ancestors {ancestors}"
    )
    return html, policy


class _Writer:
    """Writes the parts of one page."""

    def __init__(self, look: Look, data: PageData) -> None:
        self._look, self._data, self._texts = look, data, look.texts
        links = not data.frame
        self._sentences = Sentences(
            data.events, look.texts, data.asked, resolve=look.resolve, describe=look.describe, links=links
        )
        self._details = Details(look.texts, data.asked, self._sentences, trace_link=look.trace_link, links=links)

    def header(self) -> str:
        return "" if self._data.frame else f"<header><h1>{markup.link('.', self._said('title'))}</h1></header>"

    def problem(self) -> str:
        return f'<p class="notice" role="alert">{markup.text(self._data.problem)}</p>' if self._data.problem else ""

    def filter(self) -> str:
        given = self._data.asked.given
        fields = "".join(self._field(name, given.get(name, "")) for name in _FIELDS)
        times = "".join(self._field(name, given.get(name, ""), self._texts["time_hint"]) for name in ("since", "until"))
        outcomes = self._choice("outcome", ("", *OUTCOMES), given.get("outcome", ""))
        orders = self._choice("order", ("newest", "oldest"), given.get("order", "newest"))
        kept = "".join(
            f'<input type="hidden" name="{name}" value="{markup.text(given[name])}">'
            for name in ("trail", "database", "access")
            if name in given
        )
        opened = " open" if self._data.problem and given else ""
        return (
            f'<details class="filter"{opened}><summary>{self._said("filter")}</summary><form method="get" action=".">'
            f'{kept}<div class="fields">{fields}{outcomes}{times}{orders}</div>'
            f"<button>{self._said('apply')}</button></form></details>{self._chips()}"
        )

    def _chips(self) -> str:
        """Return what is asked for, each part with a link that takes it away, and spans of time to choose."""
        asked = self._data.asked
        chips = "".join(
            markup.link(
                asked.address(**{name: None}),
                f"{self._said(name)}: {markup.value(value, 60)} <span aria-hidden='true'>✕</span>",
                self._texts["without"].format(name=self._texts[name]),
                "chip",
            )
            for name, value in asked.asked.items()
        )
        spans = "".join(
            markup.link(asked.address(since=since), self._said(name), kind="span")
            for name, since in _SPANS
            if asked.given.get("since") != since
        )
        if "access" in asked.given:
            address, label = asked.address(access=None), self._texts["without"].format(name=self._texts["access"])
            chips += markup.link(address, f"{self._said('access')} <span aria-hidden='true'>✕</span>", label, "chip")
        elif not asked.shows_access:
            spans += markup.link(asked.address(access="1"), self._said("access"), kind="span")
        clear = markup.link(asked.only(), self._said("clear"), kind="span") if asked.asked else ""
        return f'<nav class="chips" aria-label="{self._said("filter")}">{chips}{clear}{spans}</nav>'

    def summary(self) -> str:
        count = self._data.count
        if count is None:
            return ""
        one = count == EventCount(1, exact=True)
        said = self._texts["count_one"] if one else self._texts["count"].format(count=count)
        exports = "".join(
            markup.link(f"{path}{self._data.asked.address()}", markup.text(self._texts[name].format(count=count)))
            for path, name in (("export.csv", "export_csv"), ("export.jsonl", "export_json"))
        )
        links = f'<span class="exports">{exports}</span>' if not self._data.frame else ""
        return f'<div class="summary"><p role="status">{markup.text(said)}</p>{links}</div>'

    def events(self) -> str:
        if not self._data.events:
            empty = "none" if self._data.asked.asked else "none_at_all"
            return "" if self._data.problem else f'<p class="empty">{self._said(empty)}</p>'
        return "".join(self._day(day, list(events)) for day, events in groupby(self._data.events, _day_of))

    def _day(self, day: str, events: list[StoredEvent]) -> str:
        moment = events[0].timestamp
        weekday = f" <span>{self._said(WEEKDAYS[moment.weekday()])}</span>" if moment else ""
        items = "".join(map(self._event, events))
        return f'<section><h2><time>{markup.text(day)}</time>{weekday}</h2><ol class="events">{items}</ol></section>'

    def _event(self, event: StoredEvent) -> str:
        clock = event.timestamp.strftime("%H:%M:%S") if event.timestamp else event.time_text
        outcome = self._outcome(event)
        summary = self._texts["details_of"].format(action=event.action, time=event.time_text)
        return (
            f'<li class="event {event.outcome if event.outcome in OUTCOMES else "unknown"}">'
            f'<time datetime="{markup.text(event.time_text)}">{markup.text(clock)}</time>'
            f'<div class="what"><p>{self._sentences.of(event)}{outcome}</p>'
            f'<p class="tags">{markup.value(event.action, 120, "tag")}{self._actor(event)}</p>'
            f'<details class="more"><summary aria-label="{markup.text(summary)}">{self._said("details")}</summary>'
            f"{self._details.of(event)}</details></div></li>"
        )

    def _actor(self, event: StoredEvent) -> str:
        return "" if event.actor_type == "user" else f" {markup.value(event.actor_type, 40, 'tag')}"

    def _outcome(self, event: StoredEvent) -> str:
        if event.outcome == "success":
            return ""
        known = event.outcome if event.outcome in OUTCOMES else "unknown"
        return f' <span class="badge {known}">{self._said(known)}</span>'

    def pages(self) -> str:
        data = self._data
        path = "frame" if data.frame else "."
        links = []
        if not data.first:
            links.append(markup.link(f"{path}{data.asked.address()}", self._said("first_page")))
        if data.next_mark is not None:
            address = f"{path}{data.asked.address(after=data.next_mark)}"
            links.append(markup.link(address, self._said("next_page"), kind="next"))
        return f'<nav class="pages" aria-label="{self._said("next_page")}">{"".join(links)}</nav>' if links else ""

    def _field(self, name: str, value: str, hint: str = "") -> str:
        shown_hint = f' placeholder="{markup.text(hint)}"' if hint else ""
        return (
            f"<label>{self._said(name)}"
            f'<input name="{name}" value="{markup.text(value)}" maxlength="{MAX_LENGTH}"{shown_hint}>'
            "</label>"
        )

    def _choice(self, name: str, values: Iterable[str], chosen: str) -> str:
        options = "".join(
            f'<option value="{value}"{" selected" if value == chosen else ""}>{self._said(value or "any")}</option>'
            for value in values
        )
        return f'<label>{self._said(name)}<select name="{name}">{options}</select></label>'

    def _said(self, name: str) -> str:
        return markup.text(self._texts[name])


def _day_of(event: StoredEvent) -> str:
    moment: datetime | None = event.timestamp
    return event.time_text if moment is None else moment.strftime("%Y-%m-%d")
