"""What differs between the values before and after, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from otel_audit_exporter.table.export import json_text


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""The value of a field that is not there."""


@dataclass(frozen=True)
class Change:
    """One field's value before and after, either of which may be :data:`MISSING`; no name: the whole values."""

    name: str | None
    before: Any
    after: Any


def changes_of(old: Any, new: Any) -> list[Change]:
    """Return what differs, in the order of the fields."""
    if isinstance(old, dict) or isinstance(new, dict):
        before, after = (value if isinstance(value, dict) else {} for value in (old, new))
        whole = [Change(None, old, MISSING)] if old is not None and not isinstance(old, dict) else []
        whole += [Change(None, MISSING, new)] if new is not None and not isinstance(new, dict) else []
        names = [name for name in dict.fromkeys([*before, *after]) if not _same(before, after, name)]
        return [*whole, *(Change(name, before.get(name, MISSING), after.get(name, MISSING)) for name in names)]
    if (old is None and new is None) or _text(old) == _text(new):
        return []
    return [Change(None, MISSING if old is None else old, MISSING if new is None else new)]


def _same(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> bool:
    return name in before and name in after and _text(before[name]) == _text(after[name])


def _text(value: Any) -> str:
    """Return what two values are compared by: as JSON, because to Python 1 and true are equal."""
    return json_text(_sorted(value))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(member) for member in value] if isinstance(value, list) else value
