"""The whole content of an event: the difference as a table, then every other field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote

from otel_audit_exporter.table.changes import MISSING, Change, changes_of
from otel_audit_exporter.table.export import json_text, plain_text
from otel_audit_exporter.table.readers import StoredEvent
from otel_audit_exporter.trail import markup
from otel_audit_exporter.trail.filters import TrailFilter
from otel_audit_exporter.trail.sentences import Sentences

_MOST: Final = 20_000
_LONGEST_CELL: Final = 2_000


class Details:
    """Writes the details of the events of a page."""

    def __init__(
        self,
        texts: Mapping[str, str],
        asked: TrailFilter,
        sentences: Sentences,
        *,
        trace_link: str | None = None,
        links: bool = True,
    ) -> None:
        self._texts = texts
        self._asked = asked
        self._sentences = sentences
        self._trace_link = trace_link
        self._links = links

    def of(self, event: StoredEvent) -> str:
        """Return the details as HTML."""
        documents = "".join(
            self._document(name, getattr(event, name))
            for name in ("old_values", "new_values", "metadata", "signature")
            if getattr(event, name) is not None
        )
        facts = "".join(
            f"<div><dt>{markup.text(name)}</dt><dd>{value}</dd></div>" for name, value in self._facts(event)
        )
        return f'{self._difference(event)}<dl class="facts">{facts}</dl>{documents}'

    def _difference(self, event: StoredEvent) -> str:
        changes = changes_of(event.old_values, event.new_values)
        if not changes:
            return f'<p class="soft">{self._said("no_change")}</p>'
        head = "".join(f'<th scope="col">{self._said(name)}</th>' for name in ("field", "before", "after"))
        rows = "".join(self._row(change) for change in changes)
        return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'

    def _row(self, change: Change) -> str:
        name = self._texts["a_value"] if change.name is None else change.name
        before = self._cell(change.before, "del")
        after = self._cell(change.after, "ins")
        return f'<tr><th scope="row">{markup.value(name, _LONGEST_CELL)}</th><td>{before}</td><td>{after}</td></tr>'

    def _cell(self, value: Any, element: str) -> str:
        if value is MISSING:
            return f'<span class="soft">{self._said("absent")}</span>'
        text = "null" if value is None else plain_text(value)
        cut = f' <span class="soft">{self._said("cut")}</span>' if len(text) > _LONGEST_CELL else ""
        return f"<{element}>{markup.value(text, _LONGEST_CELL)}</{element}>{cut}"

    def _facts(self, event: StoredEvent) -> Iterator[tuple[str, str]]:
        texts = self._texts
        yield texts["time"], f"{markup.value(event.time_text)}"
        yield texts["action"], self._with_all(event.action, "action", action=event.action)
        yield texts["outcome"], markup.value(event.outcome)
        yield texts["actor_type"], markup.value(event.actor_type)
        if event.user_id is not None:
            yield texts["user"], self._with_all(event.user_id, "user", user=event.user_id)
        if event.on_behalf_of is not None:
            yield texts["on_behalf_of"], self._id(event.on_behalf_of)
        if event.yacht_id is not None:
            yield texts["tenant"], self._with_all(event.yacht_id, "tenant", tenant=event.yacht_id)
        if event.entity_id is not None:
            both = {"entity_type": event.entity_type, "entity_id": event.entity_id}
            kind = f"{markup.value(event.entity_type)} " if event.entity_type else ""
            yield texts["entity"], f"{kind}{self._with_all(event.entity_id, 'entity', **both)}"
        if event.request_id is not None:
            yield texts["request_id"], self._with_all(event.request_id, "request_id", request_id=event.request_id)
        if event.trace_id is not None:
            yield texts["trace_id"], self._trace(event.trace_id)
        for name in ("span_id", "source_ip", "user_agent", "event_name", "record_id"):
            if getattr(event, name) is not None:
                yield texts[name], markup.value(getattr(event, name), _LONGEST_CELL)
        for name, value in event.other.items():
            yield name, markup.value("null" if value is None else plain_text(value), _LONGEST_CELL)

    def _id(self, one: str) -> str:
        name = self._sentences.name(one)
        return f"{markup.value(name)} <code>{markup.value(one)}</code>" if name else f"<code>{markup.value(one)}</code>"

    def _with_all(self, one: str, what: str, **filters: str | None) -> str:
        """Return a value with a link to all events that have it."""
        if not self._links:
            return self._id(one)
        label = self._texts["all_of_this"].format(what=self._texts[what])
        return f"{self._id(one)} {markup.link(self._asked.only(**filters), markup.text(label), kind='all')}"

    def _trace(self, trace_id: str) -> str:
        whole = self._with_all(trace_id, "trace_id", trace_id=trace_id)
        if self._trace_link is None:
            return whole
        address = self._trace_link.replace("{trace_id}", quote(trace_id, safe=""))
        opened = markup.link(address, f"{self._said('open_trace')} ↗", kind="all")
        return f"{whole} {opened}"

    def _document(self, name: str, value: Any) -> str:
        written = json_text(value)
        if len(written) <= _MOST:
            with suppress(RecursionError, ValueError):  # deeper than Python writes it: as it is
                written = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        cut = f'<p class="soft">{self._said("cut")}</p>' if len(written) > _MOST else ""
        return (
            f'<details class="document"><summary>{self._said(name)}</summary>'
            f'<pre tabindex="0">{markup.value(written, _MOST)}</pre>{cut}</details>'
        )

    def _said(self, name: str) -> str:
        return markup.text(self._texts[name])
