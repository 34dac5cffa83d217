"""One sentence for each event: who changed what, on which entity, for whom."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from otel_audit_exporter.runtime.log import logger
from otel_audit_exporter.table.changes import MISSING, Change, changes_of
from otel_audit_exporter.table.export import plain_text
from otel_audit_exporter.table.readers import StoredEvent
from otel_audit_exporter.trail import markup
from otel_audit_exporter.trail.filters import TrailFilter

Resolve = Callable[[frozenset[str]], Mapping[str, str]]
Describe = Callable[[StoredEvent], str | None]

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHOWN_CHANGES: Final = 3
_LONGEST_VALUE: Final = 60
_LONGEST_NAME: Final = 80
_LONGEST_SENTENCE: Final = 500


class Sentences:
    """Writes the sentences of a page of events, with the names that the application knows."""

    def __init__(
        self,
        events: Iterable[StoredEvent],
        texts: Mapping[str, str],
        asked: TrailFilter,
        *,
        resolve: Resolve | None = None,
        describe: Describe | None = None,
        links: bool = True,
    ) -> None:
        self._texts = texts
        self._asked = asked
        self._describe = describe
        self._links = links
        self._names = _names(events, resolve)

    def of(self, event: StoredEvent) -> str:
        """Return the sentence as HTML."""
        described = self._described(event)
        if described:
            return markup.value(described, _LONGEST_SENTENCE, "sentence")
        template, changes = self._said(event)
        pieces = {
            "who": self.who(event),
            "changes": changes,
            "action": f"<b>{markup.value(event.action, _LONGEST_NAME)}</b>",
            "entity": self.entity(event),
        }
        sentence = markup.filled(self._texts[template], pieces)
        if event.on_behalf_of is None:
            return sentence
        behalf = self._named(event.on_behalf_of, "name")
        return markup.filled(self._texts["for"], {"sentence": sentence, "behalf": behalf})

    def who(self, event: StoredEvent) -> str:
        """Return who did it, with a link to all that this one did."""
        if event.user_id is None:
            known = event.actor_type if event.actor_type in ("service", "system") else "nobody"
            return f'<span class="name">{markup.text(self._texts[known])}</span>'
        return self._linked(self._asked.only(user=event.user_id), self._named(event.user_id, "name"))

    def entity(self, event: StoredEvent) -> str:
        """Return the entity, with a link to all that happened to it."""
        kind = markup.value(event.entity_type, _LONGEST_NAME) if event.entity_type else ""
        named = self._named(event.entity_id, "name") if event.entity_id else ""
        address = self._asked.only(entity_type=event.entity_type, entity_id=event.entity_id)
        return self._linked(address, f"{kind} {named}".strip() or markup.text("?"))

    def name(self, one: str | None) -> str | None:
        """Return the name that the application gives to an id."""
        return self._names.get(one) if one is not None else None

    def _linked(self, address: str, content: str) -> str:
        return markup.link(address, content) if self._links else content

    def _named(self, one: str, kind: str) -> str:
        name = self._names.get(one)
        if name:
            return markup.value(name, _LONGEST_NAME, kind)
        short = f"{one[:8]}…" if _UUID.fullmatch(one) else one
        return f'<span title="{markup.text(one)}">{markup.value(short, _LONGEST_NAME, kind)}</span>'

    def _said(self, event: StoredEvent) -> tuple[str, str]:
        """Return which sentence it is, and the changes in it."""
        if event.outcome == "failure":
            return "tried", ""
        changes = changes_of(event.old_values, event.new_values)
        if not changes:
            return "did", ""
        kinds = {_kind_of(change) for change in changes}
        return kinds.pop() if len(kinds) == 1 else "changed", self._changes(changes)

    def _changes(self, changes: list[Change]) -> str:
        said = [self._change(change) for change in changes[:_SHOWN_CHANGES]]
        more = len(changes) - len(said)
        if more:
            said.append(markup.text(self._texts["more_changes"].format(count=more)))
            return f"{', '.join(said[:-1])} {said[-1]}"
        return ", ".join(said)

    def _change(self, change: Change) -> str:
        name = markup.value(self._texts["a_value"] if change.name is None else change.name, _LONGEST_NAME, "field")
        before, after = (
            "" if value is MISSING else markup.value(_text(value), _LONGEST_VALUE, kind)
            for value, kind in ((change.before, "old"), (change.after, "new"))
        )
        arrow = " → " if before and after else ""
        return f"{name} {before}{arrow}{after}"

    def _described(self, event: StoredEvent) -> str | None:
        if self._describe is None:
            return None
        try:
            return self._describe(event)
        except Exception as error:
            logger.warning("audit: `describe` raised %s for an event of the trail", type(error).__name__)
            return None


def _kind_of(change: Change) -> str:
    if change.before is MISSING:
        return "set"
    return "removed" if change.after is MISSING else "changed"


def _text(value: Any) -> str:
    return "null" if value is None else plain_text(value)


def _names(events: Iterable[StoredEvent], resolve: Resolve | None) -> Mapping[str, str]:
    """Return the application's names for the ids of a page, asked for once."""
    if resolve is None:
        return {}
    ids = frozenset(
        one
        for event in events
        for one in (event.user_id, event.on_behalf_of, event.entity_id, event.yacht_id)
        if one is not None
    )
    try:
        return {str(one): str(name) for one, name in resolve(ids).items() if name} if ids else {}
    except Exception as error:
        logger.warning("audit: `resolve` raised %s for the names of the trail", type(error).__name__)
        return {}
