"""Jobs that read a large trail: pages of every filter as a browser asks for them, and whole exports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from otel_audit_exporter import configure_audit
from otel_audit_exporter.operations.handler import OperationsRequest
from otel_audit_exporter.trail import ALL, Reader
from otel_audit_exporter.trail.handler import PAGE, TrailHandler
from tests.benchmarks.apart import Result
from tests.benchmarks.delivery_jobs import anonymous_mib

_READER: Final = "00000000-0000-4000-8000-000000000001"
_EXPORTS: Final = ("/export.csv", "/export.jsonl")


def pages(
    directory: Path, *, options: dict[str, Any], filters: dict[str, Any], scopes: dict[str, Any], looks: int
) -> Result:
    """Time the first, the middle and the last page of every filter, in milliseconds; each the median of ``looks``."""
    ask = _asking(options)
    ask(_reader(None), "/", {})
    taken: Result = {}
    for scope, tenants in scopes.items():
        for name, asked in filters.items():
            for page, after in _marks(ask, _reader(tenants), asked):
                seconds = [_timed(ask, _reader(tenants), asked | after) for _ in range(looks)]
                taken[f"{name} / {scope} / {page}"] = 1000 * median(seconds)
    return taken


def exported(directory: Path, *, options: dict[str, Any]) -> Result:
    """Export everything in both forms, and tell how many events it was, how long it took, and the highest memory."""
    handler = _handler(options)
    _body(handler, _reader(None), "/", {})
    before = anonymous_mib()
    result: Result = {"before_mib": before}
    for path in _EXPORTS:
        begun, most, lines = time.perf_counter(), before, 0
        for part in _answer(handler, _reader(None), path, {}):
            lines += part.count(b"\n")
            most = max(most, anonymous_mib())
        result |= {f"{path} mib": most, f"{path} lines": lines, f"{path} seconds": time.perf_counter() - begun}
    return result


def _marks(ask: Callable[..., bytes], reader: Reader, asked: dict[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the pages of a filter and where each begins: without a mark, in the middle of the time, at the end."""
    yield "first", {}
    oldest = orjson.loads(ask(reader, "/events", asked | {"order": "oldest", "limit": str(PAGE)}))["events"]
    newest = orjson.loads(ask(reader, "/events", asked | {"limit": "1"}))["events"]
    if len(oldest) < PAGE:
        return
    middle = _between(oldest[0]["timestamp"], newest[0]["timestamp"])
    inside = orjson.loads(ask(reader, "/events", asked | {"until": middle, "limit": "1"}))["events"]
    if inside:
        yield "middle", {"after": inside[0]["mark"]}
    yield "last", {"after": oldest[-1]["mark"]}


def _between(first: str, last: str) -> str:
    begin, end = (datetime.fromisoformat(one) for one in (first, last))
    return (begin + (end - begin) / 2).isoformat()


def _timed(ask: Callable[..., bytes], reader: Reader, asked: dict[str, str]) -> float:
    begun = time.perf_counter()
    ask(reader, "/", asked)
    return time.perf_counter() - begun


def _asking(options: dict[str, Any]) -> Callable[..., bytes]:
    handler = _handler(options)
    return lambda reader, path, asked: _body(handler, reader, path, asked)


def _handler(options: dict[str, Any]) -> TrailHandler:
    configure_audit(outbox="memory", **options)
    return TrailHandler()


def _reader(tenants: list[str] | None) -> Reader:
    return Reader(_READER, tenants=ALL if tenants is None else tenants, sees_source=True)


def _body(handler: TrailHandler, reader: Reader, path: str, asked: dict[str, str]) -> bytes:
    return b"".join(_answer(handler, reader, path, asked))


def _answer(handler: TrailHandler, reader: Reader, path: str, asked: dict[str, str]) -> Iterator[bytes]:
    answer = handler.answer(reader, OperationsRequest("GET", path, {}, asked))
    assert answer.status == 200, b"".join(answer.body)
    return iter(answer.body)
