"""Requests that changed something and recorded nothing: counted always, and told in development."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Final

from otel_audit_exporter.event.context import Scope
from otel_audit_exporter.event.seen_requests import MUTATING, SeenRequest, count_unrecorded, is_watched
from otel_audit_exporter.pipeline.current import current_pipeline
from otel_audit_exporter.runtime.log import logger

_DEVELOPMENT: Final = frozenset({"sqlite", "memory", "console", "none"})
_VARIES: Final = re.compile(r"(?<=/)[^/]*[0-9][^/]*")
_MOST_LINES: Final = 200
_said: Final[set[tuple[str, str]]] = set()


def request_begins(scope: Scope, method: str, path: str) -> SeenRequest | None:
    """Have the events of a request noted, where it changes something and no middleware around this one does it."""
    if method not in MUTATING or scope.request is not None:
        return None
    scope.request = SeenRequest(method, path)
    return scope.request


def request_ends(request: SeenRequest, find_route: Callable[[], str | None], *, debug: bool = False) -> None:
    """Count a request that recorded nothing, and log one line for its route in development.

    ``find_route`` returns its path as the application has it; ``debug``: the application runs in debug mode.
    """
    if not request.is_unrecorded:
        return
    request.route = find_route()
    count_unrecorded(request)
    if debug or _is_development():
        _say_once(request.method, request.route or _VARIES.sub("…", request.path))


def _say_once(method: str, route: str) -> None:
    if is_watched() or (method, route) in _said or len(_said) >= _MOST_LINES:  # a test names it by itself
        return
    _said.add((method, route))
    logger.warning(
        "audit: %s %s was answered with success and recorded no audit event (said once a route, in development; "
        "`audit_log.assert_every_mutation_recorded(app)` finds all in a test)",
        method,
        route,
    )


def _is_development() -> bool:
    pipeline = current_pipeline()
    return sys.flags.dev_mode or (pipeline is not None and pipeline.primary.exporter_name in _DEVELOPMENT)
