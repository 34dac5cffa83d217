"""The routes of an application that change something, as its framework knows them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from otel_audit_exporter.event.seen_requests import MUTATING, SeenRequest

_OWN: Final = "otel_audit_exporter."


@dataclass(frozen=True)
class MutatingRoute:
    """A route of an application: its method, its path as the application has it, and what that fits.

    ``certain``: the application says itself that it takes this method.
    """

    method: str
    path: str
    pattern: re.Pattern[str]
    certain: bool = True

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def fits(self, method: str, path: str) -> bool:
        """Return whether a request was this route's."""
        return method == self.method and self.pattern.fullmatch(path) is not None


def mutating_routes(app: Any) -> list[MutatingRoute]:
    """Return the routes of a Starlette, FastAPI, Flask or Django application that change something.

    This library's own are left out. Raises ``TypeError`` for any other application.
    """
    if hasattr(app, "routes"):
        return [route for route in _of_starlette(app.routes, "") if route.method in MUTATING]
    if hasattr(app, "url_map"):
        return list(_of_flask(app))
    if type(app).__module__.startswith("django."):
        return list(_of_django())
    raise TypeError(
        f"{type(app).__name__} has neither routes nor a url_map: give a Starlette, FastAPI, Flask or Django application"
    )


def route_of(app: Any, method: str, path: str) -> str | None:
    """Return a request's path as the application has it; None where nobody says so. ``path`` is below the mount."""
    try:
        routes = mutating_routes(app)
    except TypeError:
        return None
    return next((route.path for route in routes if route.fits(method, path)), None)


def uncovered(
    routes: Sequence[MutatingRoute], requests: Sequence[SeenRequest], exempt: Collection[str]
) -> tuple[list[str], list[str]]:
    """Return the routes that were asked with success and recorded nothing, and those that were not asked so.

    ``exempt``: paths, or methods with paths.
    """
    silent, unasked = [], []
    for route in routes:
        if route.path in exempt or str(route) in exempt:
            continue
        answered = [one for one in requests if one.succeeded and route.fits(one.method, one.path)]
        if any(one.is_unrecorded for one in answered):
            silent.append(str(route))
        elif not answered and route.certain:
            unasked.append(str(route))
    return silent, unasked


def _of_starlette(routes: Sequence[Any], prefix: str) -> Iterator[MutatingRoute]:
    for route in routes:
        included = getattr(route, "effective_route_contexts", None)
        if included is not None:  # how FastAPI keeps an included router
            yield from _of_starlette([getattr(one, "starlette_route", None) or one for one in included()], prefix)
            continue
        path = f"{prefix}{getattr(route, 'path', '')}"
        if not is_own(getattr(route, "endpoint", None)):
            for method in sorted(getattr(route, "methods", None) or ()):
                yield MutatingRoute(method, path, _pattern(path))
        yield from _of_starlette(getattr(route, "routes", None) or (), path)


def _of_flask(app: Any) -> Iterator[MutatingRoute]:
    for rule in app.url_map.iter_rules():
        for method in sorted((rule.methods or set()) & MUTATING):
            yield MutatingRoute(method, rule.rule, _pattern(_with_braces(rule.rule)))


def _of_django() -> Iterator[MutatingRoute]:
    from django.urls import get_resolver

    yield from _of_django_patterns(get_resolver().url_patterns, "/", "/")


def _of_django_patterns(patterns: Sequence[Any], path: str, regex: str) -> Iterator[MutatingRoute]:
    for one in patterns:
        written = str(one.pattern).removeprefix("^")
        is_regex = type(one.pattern).__name__ == "RegexPattern"
        inside = written.removesuffix("$") if is_regex else _pattern(_with_braces(written)).pattern
        here, regex_here = f"{path}{written}", f"{regex}{inside}"
        if hasattr(one, "url_patterns"):
            yield from _of_django_patterns(one.url_patterns, here, regex_here)
            continue
        methods = _methods_of_view(one.callback)
        for method in sorted(MUTATING if methods is None else methods & MUTATING):
            yield MutatingRoute(method, here, re.compile(regex_here), certain=methods is not None)


def _methods_of_view(view: Any) -> set[str] | None:
    """Return the methods that a Django view takes; None where it does not say so, as a function does not."""
    actions = getattr(view, "actions", None)  # of Django REST framework's sets of views
    if actions:
        return {name.upper() for name in actions}
    kind = getattr(view, "view_class", None) or getattr(view, "cls", None)
    return None if kind is None else {method for method in MUTATING if hasattr(kind, method.lower())}


def is_own(endpoint: Any) -> bool:
    """Return whether what answers is a page of this library, which changes nothing of the application's."""
    return str(getattr(endpoint, "__module__", "")).startswith(_OWN)


def _with_braces(path: str) -> str:
    """Return a path of Flask's or Django's as Starlette writes it: ``{name}``, or ``{name:path}``."""
    return re.sub(
        r"<(?:([^:<>]+):)?([^<>]+)>", lambda found: f"{{{found[2]}{':path' if found[1] == 'path' else ''}}}", path
    )


@cache
def _pattern(path: str) -> re.Pattern[str]:
    """Return what the paths of a route look like; ``{name}`` is a part of one, ``{name:path}`` may be several."""
    parts = re.split(r"(\{[^{}]+\})", path)
    written = (
        (".+" if part.endswith(":path}") else "[^/]+") if part.startswith("{") else re.escape(part) for part in parts
    )
    return re.compile("".join(written))
