"""Who acts, and for which tenant: the two names of each of these fields, and the value for "nobody"."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from otel_audit_exporter.event.fields import FIELD_ALIASES


class Nobody:
    """The class of :data:`NOBODY`: the user or tenant of an event that has none, even if the audit context has one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "NOBODY"

    def __reduce__(self) -> str:
        return "NOBODY"  # a copy or a pickle is the same object


NOBODY: Final = Nobody()
"""Give it as ``user_id`` or ``tenant_id`` of an event that has none: the audit context does not fill it in."""


def with_field_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given`` with ``tenant_id`` as ``yacht_id`` and ``actor_id`` as ``user_id``.

    Where both names of a field are given with different values, both stay: the validation refuses the second name.
    """
    named = dict(given)
    for alias, name in FIELD_ALIASES.items():
        if alias not in named:
            continue
        value, other = named[alias], named.get(name)
        if value is None or other is None or _are_same(value, other):
            del named[alias]
            if other is None and value is not None:
                named[name] = value
    return named


def is_system(actor_type: object) -> bool:
    """Return whether this actor type is the system, which acts for no user that a context could name."""
    return (actor_type.value if isinstance(actor_type, Enum) else actor_type) == "system"


def _are_same(one: object, other: object) -> bool:
    return one is other or str(one).lower() == str(other).lower()
