"""Which routes that change something recorded nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from otel_audit_exporter.event.seen_requests import MUTATING, SeenRequest


@dataclass(frozen=True)
class MutatingRoute:
    """A route of an application: its method, its path as the application has it, and what that fits."""

    method: str
    path: str
    pattern: re.Pattern[str]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def fits(self, request: SeenRequest) -> bool:
        """Return whether a request was this route's."""
        return request.method == self.method and self.pattern.fullmatch(request.path) is not None


def mutating_routes(app: Any) -> list[MutatingRoute]:
    """Return the routes of a Starlette, FastAPI or Flask application that change something.

    Raises ``TypeError`` for any other application.
    """
    if hasattr(app, "routes"):
        return [route for route in _of_starlette(app.routes, "") if route.method in MUTATING]
    if hasattr(app, "url_map"):
        return [
            MutatingRoute(method, rule.rule, _pattern(re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)))
            for rule in app.url_map.iter_rules()
            for method in sorted((rule.methods or set()) & MUTATING)
        ]
    raise TypeError(f"{type(app).__name__} has neither routes nor a url_map: give a Starlette, FastAPI or Flask app")


def uncovered(
    routes: Sequence[MutatingRoute],
    requests: Sequence[SeenRequest],
    recorded: Collection[str | None],
    exempt: Collection[str],
) -> tuple[list[str], list[str]]:
    """Return the routes that were asked with success and recorded nothing, and those that were not asked so.

    ``recorded``: the ids of the requests that recorded anything. ``exempt``: paths, or methods with paths.
    """
    silent, unasked = [], []
    for route in routes:
        if route.path in exempt or str(route) in exempt:
            continue
        answered = [one for one in requests if route.fits(one) and one.status < 400]
        if not answered:
            unasked.append(str(route))
        elif any(one.request_id not in recorded for one in answered):
            silent.append(str(route))
    return silent, unasked


def _of_starlette(routes: Sequence[Any], prefix: str) -> Iterator[MutatingRoute]:
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)
        if included is not None:  # how FastAPI keeps an included router
            yield from _of_starlette([getattr(one, "starlette_route", None) or one for one in included()], prefix)
            continue
        path = f"{prefix}{getattr(route, 'path', '')}"
        for method in sorted(getattr(route, "methods", None) or ()):
            yield MutatingRoute(method, path, _pattern(path))
        yield from _of_starlette(getattr(route, "routes", None) or (), path)


def _pattern(path: str) -> re.Pattern[str]:
    """Return what the paths of a route look like; ``{name}`` is a part of one, ``{name:path}`` may be several."""
    parts = re.split(r"(\{[^{}]+\})", path)
    written = (
        (".+" if part.endswith(":path}") else "[^/]+") if part.startswith("{") else re.escape(part) for part in parts
    )
    return re.compile("".join(written))
