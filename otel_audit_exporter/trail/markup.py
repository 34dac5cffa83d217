"""Pieces of HTML: everything from an event is escaped, and nothing in it is executed."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from otel_audit_exporter.runtime.visible import visible


def text(value: object, most: int | None = None) -> str:
    """Return a value as text for HTML, cut where it is longer than ``most``."""
    whole = "" if value is None else str(value)
    cut = whole if most is None or len(whole) <= most else f"{whole[:most]}…"
    return escape(visible(cut))


def value(shown_value: object, most: int | None = None, kind: str = "value") -> str:
    """Return a value of an event's, set apart so that letters of another direction turn nothing else around."""
    return f'<bdi class="{kind}">{text(shown_value, most)}</bdi>'


def link(address: str, content: str, label: str = "", kind: str = "") -> str:
    """Return a link; ``content`` is HTML, ``label`` says in words where it leads."""
    labelled = f' aria-label="{text(label)}" title="{text(label)}"' if label else ""
    classed = f' class="{kind}"' if kind else ""
    return f'<a href="{escape(address)}"{classed}{labelled}>{content}</a>'


def filled(template: str, pieces: Mapping[str, str]) -> str:
    """Return one of the page's own texts with pieces of HTML in its placeholders."""
    return escape(template, quote=False).format_map(pieces)
