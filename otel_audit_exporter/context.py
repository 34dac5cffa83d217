"""What is known around an event: who acts, for whom, from where. Carried by OpenTelemetry's context."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ContextDecorator
from typing import Any, Final

from opentelemetry import context as otel_context

CONTEXT_FIELDS: Final = frozenset(
    {
        "yacht_id",
        "user_id",
        "actor_type",
        "on_behalf_of",
        "source_ip",
        "request_id",
        "user_agent",
        "metadata",
    }
)
_KEY: Final = otel_context.create_key("otel-audit-scope")


class Scope:
    """One open ``audit_context``: its own fields over those of the one around it."""

    __slots__ = ("_fields", "_lock", "_parent")

    def __init__(self, fields: Mapping[str, Any], parent: Scope | None) -> None:
        self._lock = threading.Lock()
        self._fields = dict(fields)
        self._parent = parent

    def update(self, fields: Mapping[str, Any]) -> None:
        """Lay ``fields`` over those of this scope, for everything below it."""
        with self._lock:
            self._fields = overlay(self._fields, fields)

    def merged(self) -> dict[str, Any]:
        """Return the fields in force here."""
        return self._fields if self._parent is None else overlay(self._parent.merged(), self._fields)


def overlay(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``inner`` over ``outer``: the inner one wins, and metadata is merged key by key."""
    fields = {**outer, **inner}
    if isinstance(outer.get("metadata"), Mapping) and isinstance(inner.get("metadata"), Mapping):
        fields["metadata"] = {**outer["metadata"], **inner["metadata"]}
    return fields


def current_scope() -> Scope | None:
    """Return the innermost open scope."""
    scope = otel_context.get_value(_KEY)
    return scope if isinstance(scope, Scope) else None


class open_scope(ContextDecorator):
    """Open a scope with ``fields`` for what is below it."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._tokens: list[Any] = []

    def __enter__(self) -> Scope:
        scope = Scope(self._fields, current_scope())
        self._tokens.append(otel_context.attach(otel_context.set_value(_KEY, scope)))
        return scope

    def __exit__(self, *exc_info: object) -> None:
        otel_context.detach(self._tokens.pop())
