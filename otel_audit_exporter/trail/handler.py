"""What is answered to a reader, without any framework: the page, the frame, JSON and exports."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack
from urllib.parse import urlsplit

from otel_audit_exporter.errors import AuditConfigurationError, AuditError
from otel_audit_exporter.operations.handler import OperationsRequest
from otel_audit_exporter.runtime.log import RateLimitedLogger
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.table.export import csv_lines, json_lines, json_text
from otel_audit_exporter.table.readers import QueryError, StoredEvent
from otel_audit_exporter.trail.access import AccessLog
from otel_audit_exporter.trail.filters import TrailFilter
from otel_audit_exporter.trail.identity import Reader
from otel_audit_exporter.trail.page import Look, PageData, render_page
from otel_audit_exporter.trail.scope import NotAllowedError, ScopedTrail
from otel_audit_exporter.trail.sentences import Describe, Resolve
from otel_audit_exporter.trail.texts import checked_texts

PAGE: Final = 50
MAX_LIMIT: Final = 1000
CLOSED: Final = "closed: whoever mounts it has to say who reads, with identify_reader"
_ALWAYS: Final = (
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
)
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.\-\[\]:]+")
_CHUNK: Final = 500


@dataclass(frozen=True)
class TrailResponse:
    """An answer, its body in parts; where an export breaks off, iterating raises."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: Iterable[bytes]


class TrailOptions(TypedDict, total=False):
    """What an application may choose for its trail.

    ``resolve``: names for ids, asked once a page with a frozenset of ids, it returns a mapping of those it knows.
    ``describe``: a sentence for an event, or None for the page's own. ``texts``: the page's words, in place of the
    English ones. ``trace_link``: where a trace is shown, such as ``https://traces.example/trace/{trace_id}``.
    ``frame_origins``: the origins whose pages may show the frame; without any, no page may. ``record_views``: record
    looks as ``audit.viewed``, once per reader, filter and hour.
    """

    resolve: Resolve | None
    describe: Describe | None
    texts: Mapping[str, str] | None
    trace_link: str | None
    frame_origins: Sequence[str]
    record_views: bool


class TrailHandler:
    """Answers readers of the trail: each sees what its :class:`Reader` allows, and nobody else sees anything."""

    def __init__(self, **options: Unpack[TrailOptions]) -> None:
        unknown = options.keys() - TrailOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
        self._look = Look(
            checked_texts(options.get("texts")),
            options.get("resolve"),
            options.get("describe"),
            _checked_link(options.get("trace_link")),
            _checked_origins(options.get("frame_origins", ())),
        )
        self._record_views = options.get("record_views", False)
        self._trail = ScopedTrail()
        self._log = RateLimitedLogger()
        self._access = AccessLog()
        self._pages: Mapping[str, Callable[[Reader, OperationsRequest, TrailFilter], TrailResponse]] = {
            "/": self._page,
            "/frame": self._frame,
            "/events": self._events,
            "/export.csv": self._csv,
            "/export.jsonl": self._json_lines,
        }
        # Here for who configures first, and with the first request for everybody else.
        self._warned = self._trail.warn_of_missing_tenants()

    def answer(self, reader: Reader | None, request: OperationsRequest) -> TrailResponse:
        """Answer one request of a reader's; None is nobody who may read."""
        if not isinstance(reader, Reader):
            return json_answer(403, {"error": "not for you"})
        self._warned = self._warned or self._trail.warn_of_missing_tenants()
        page = self._pages.get(request.path)
        if page is None:
            return json_answer(404, {"error": f"there is nothing here; see {', '.join(self._pages)}"})
        if request.method not in ("GET", "HEAD"):
            return json_answer(405, {"error": "only GET, HEAD"}, ("allow", "GET, HEAD"))
        return self._answered(page, reader, request)

    def _answered(
        self,
        page: Callable[[Reader, OperationsRequest, TrailFilter], TrailResponse],
        reader: Reader,
        request: OperationsRequest,
    ) -> TrailResponse:
        asked = TrailFilter({})
        try:
            asked = TrailFilter.of(request.query)
            return page(reader, request, asked)
        except NotAllowedError as error:
            return json_answer(403, {"error": str(error)})
        except QueryError as error:
            return self._failed(request, asked, 400, "wrong", str(error))
        except (AuditError, SinkError) as error:  # it names hosts, files and settings, which are not for every reader
            self._log.say(logging.ERROR, str(error), "audit: the trail cannot be read: %s", error)
            return self._failed(request, asked, 503, "away", "")

    def _failed(
        self, request: OperationsRequest, asked: TrailFilter, status: int, text: str, reason: str
    ) -> TrailResponse:
        problem = self._look.texts[text].format(reason=reason)
        if request.path not in ("/", "/frame"):
            return json_answer(status, {"error": reason or problem})
        return self._html(PageData(asked, problem=problem, frame=request.path == "/frame"), status)

    # --- the page and the frame ----------------------------------------------------------------------------------

    def _page(self, reader: Reader, request: OperationsRequest, asked: TrailFilter) -> TrailResponse:
        return self._html(self._data(reader, request, asked, frame=False))

    def _frame(self, reader: Reader, request: OperationsRequest, asked: TrailFilter) -> TrailResponse:
        if not self._look.frame_origins:
            return json_answer(404, {"error": "no frame is served: name the origins that may show it (frame_origins)"})
        if not {"entity_type", "entity_id"} <= asked.given.keys():
            raise QueryError("frame: say which entity, by entity_type and entity_id")
        return self._html(self._data(reader, request, asked, frame=True))

    def _data(self, reader: Reader, request: OperationsRequest, asked: TrailFilter, *, frame: bool) -> PageData:
        after = request.query.get("after")
        found = list(self._trail.events(reader, asked, after=after, limit=PAGE + 1))
        shown = found[:PAGE]
        count = self._trail.count(reader, asked)
        if self._record_views:
            self._access.viewed(reader, asked)
        mark = shown[-1].mark if len(found) > PAGE else None
        problem = "" if self._trail.shows_any(reader) else self._look.texts["no_tenants"]
        return PageData(asked, shown, count, mark, problem, first=after is None, frame=frame)

    def _html(self, data: PageData, status: int = 200) -> TrailResponse:
        html, policy = render_page(self._look, data)
        framed = () if data.frame and self._look.frame_origins else (("x-frame-options", "DENY"),)
        kind = (("content-type", "text/html; charset=utf-8"), ("content-security-policy", policy))
        return TrailResponse(status, (*kind, *framed, *_ALWAYS), [html.encode()])

    # --- for programs --------------------------------------------------------------------------------------------

    def _events(self, reader: Reader, request: OperationsRequest, asked: TrailFilter) -> TrailResponse:
        limit = _limit(request.query.get("limit", ""))
        found = list(self._trail.events(reader, asked, after=request.query.get("after"), limit=limit + 1))
        shown = found[:limit]
        document: dict[str, Any] = {
            "events": [event.document() | {"mark": event.mark} for event in shown],
            "next": shown[-1].mark if shown and len(found) > limit else None,
        }
        if request.query.get("count") in ("1", "true"):
            count = self._trail.count(reader, asked)
            document["count"] = {"value": count.value, "exact": count.exact}
        if self._record_views:
            self._access.viewed(reader, asked)
        return json_answer(200, document)

    def _csv(self, reader: Reader, request: OperationsRequest, asked: TrailFilter) -> TrailResponse:
        return self._export(reader, request, asked, "csv", "text/csv; charset=utf-8", csv_lines)

    def _json_lines(self, reader: Reader, request: OperationsRequest, asked: TrailFilter) -> TrailResponse:
        return self._export(reader, request, asked, "jsonl", "application/x-ndjson", json_lines)

    def _export(
        self,
        reader: Reader,
        request: OperationsRequest,
        asked: TrailFilter,
        form: str,
        kind: str,
        lines: Callable[[Iterable[StoredEvent]], Iterator[str]],
    ) -> TrailResponse:
        self._access.check(reader, asked)
        count = self._trail.count(reader, asked)
        headers = (
            ("content-type", kind),
            ("content-disposition", f'attachment; filename="audit-trail.{form}"'),
            ("x-audit-count", f"{count.value}{'' if count.exact else '+'}"),
            *_ALWAYS,
        )
        if request.method == "HEAD":
            return TrailResponse(200, headers, [])
        return TrailResponse(200, headers, self._exported(reader, asked, form, lines))

    def _exported(
        self,
        reader: Reader,
        asked: TrailFilter,
        form: str,
        lines: Callable[[Iterable[StoredEvent]], Iterator[str]],
    ) -> Iterator[bytes]:
        """Yield an export in parts, and record it when it ends, however it does."""
        counted, whole = 0, False

        def counting() -> Iterator[StoredEvent]:
            nonlocal counted
            for event in self._trail.events(reader, asked):
                yield event
                counted += 1

        try:
            yield from _parts(lines(counting()))
            whole = True
        finally:
            self._access.exported(reader, asked, form, counted, whole=whole)


def json_answer(status: int, document: object, *headers: tuple[str, str]) -> TrailResponse:
    """Return an answer of JSON."""
    return TrailResponse(
        status, (("content-type", "application/json"), *headers, *_ALWAYS), [json_text(document).encode()]
    )


def closed() -> TrailResponse:
    """Return the answer where nothing identifies the reader."""
    return json_answer(403, {"error": CLOSED})


def _parts(lines: Iterable[str]) -> Iterator[bytes]:
    part: list[str] = []
    for line in lines:
        part.append(line)
        if len(part) == _CHUNK:
            yield _joined(part)
            part = []
    if part:
        yield _joined(part)


def _joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _limit(given: str) -> int:
    if not given:
        return 100
    if not (given.isascii() and given.isdigit() and len(given) <= 9 and int(given) > 0):
        raise QueryError(f"limit: must be a number from 1 to {MAX_LIMIT}")
    return min(int(given), MAX_LIMIT)


def _checked_link(template: str | None) -> str | None:
    if template is None:
        return None
    if urlsplit(template).scheme not in ("http", "https") or "{trace_id}" not in template:
        raise AuditConfigurationError(
            "trace_link: must be an http(s) address with {trace_id} in it, such as "
            "https://traces.example/trace/{trace_id}"
        )
    return template


def _checked_origins(origins: Sequence[str]) -> tuple[str, ...]:
    if isinstance(origins, str):
        raise AuditConfigurationError("frame_origins: must be a list of origins, not one text")
    wrong = [origin for origin in origins if origin != "'self'" and not _ORIGIN.fullmatch(origin.lower())]
    if wrong:
        raise AuditConfigurationError(
            f"frame_origins: {wrong[0]!r} is no origin; give such as https://app.example, or 'self' in single quotes"
        )
    return tuple(origins)
