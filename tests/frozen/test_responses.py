"""When an answer leaves, through the middlewares, in the profile ``ephemeral``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from flask import Flask

from otel_audit_exporter import AuditDeliveryError, audit_event, configure_audit
from otel_audit_exporter.integrations import asgi, wsgi
from tests.frozen.held_sink import HeldSink
from tests.support.events import arguments


def audit(action: str) -> str:
    return audit_event(**arguments(action=action)).record_id


@pytest.fixture
def sink() -> HeldSink:
    return HeldSink()


def configured(sink: HeldSink, **settings: Any) -> None:
    configure_audit(
        sink,
        **{"profile": "ephemeral", "schedule_delay_millis": 60_000, "response_deadline_millis": 60_000, **settings},
    )


def actions(sink: HeldSink) -> list[str]:
    return [row["action"] for row in sink.rows]


async def messages_of(app: Any, sink: HeldSink, path: str) -> list[tuple[str, list[str]]]:
    """Return each message that an ASGI application sends, and what was in the table by then."""
    sent: list[tuple[str, list[str]]] = []
    kind = "websocket" if path == "/socket" else "http"

    arrives: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    arrives.put_nowait({"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request"})

    async def send(message: Any) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body")
        sent.append(("end" if last else message["type"].rpartition(".")[2], actions(sink)))

    scope = {"type": kind, "method": "GET", "path": path, "headers": [], "query_string": b"", "asgi": {}}
    await app(scope, arrives.get, send)
    return sent


def asgi_application() -> Any:
    app = FastAPI()

    @app.get("/whole")
    def whole() -> str:
        audit("view")
        return "done"

    @app.get("/stream")
    def stream() -> StreamingResponse:
        def parts() -> Iterator[bytes]:
            yield b"one"
            audit("stream")

        audit("view")
        return StreamingResponse(parts())

    @app.get("/piece")
    def piece() -> StreamingResponse:
        def parts() -> Iterator[bytes]:
            yield b"one"
            audit("stream")

        return StreamingResponse(parts())

    @app.get("/later")
    def later(tasks: BackgroundTasks) -> str:
        tasks.add_task(audit, "later")
        return "done"

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        audit("socket")
        await websocket.close()

    return asgi.AuditMiddleware(app)


def test_an_asgi_response_starts_when_its_events_are_stored(sink: HeldSink) -> None:
    configured(sink)
    assert asyncio.run(messages_of(asgi_application(), sink, "/whole")) == [("start", ["view"]), ("end", ["view"])]


def test_the_last_piece_of_a_streamed_asgi_response_waits(sink: HeldSink) -> None:
    configured(sink)
    assert asyncio.run(messages_of(asgi_application(), sink, "/stream")) == [
        ("start", ["view"]),
        ("body", ["view"]),
        ("end", ["view", "stream"]),
    ]


def test_the_call_returns_when_the_events_of_background_tasks_are_stored(sink: HeldSink) -> None:
    configured(sink)
    asyncio.run(messages_of(asgi_application(), sink, "/later"))
    assert actions(sink) == ["later"]


def test_a_websocket_closes_when_its_events_are_stored(sink: HeldSink) -> None:
    configured(sink)
    assert asyncio.run(messages_of(asgi_application(), sink, "/socket")) == [("accept", []), ("close", ["socket"])]


def test_a_request_fails_before_its_start_and_a_stream_goes_on() -> None:
    sink = HeldSink(is_open=False)
    configured(sink, past_deadline="raise", response_deadline_millis=50)
    with pytest.raises(AuditDeliveryError):
        asyncio.run(messages_of(asgi_application(), sink, "/whole"))
    assert [name for name, _ in asyncio.run(messages_of(asgi_application(), sink, "/piece"))] == [
        "start",
        "body",
        "end",
    ]
    sink.open.set()


def flask_application() -> Flask:
    app = Flask(__name__)
    app.wsgi_app = wsgi.AuditMiddleware(app.wsgi_app)  # type: ignore[method-assign]

    @app.get("/whole")
    def whole() -> str:
        audit("view")
        return "done"

    @app.get("/stream")
    def stream() -> Any:
        def parts() -> Iterator[bytes]:
            yield b"one"
            audit("stream")

        audit("view")
        return app.response_class(parts())

    @app.get("/measured")
    def measured() -> Any:
        def parts() -> Iterator[bytes]:
            yield b"one"
            audit("stream")
            yield b"two"

        return app.response_class(parts(), headers={"content-length": "6"})

    return app


def pieces_of(app: Flask, sink: HeldSink, path: str) -> list[tuple[bytes, list[str]]]:
    """Return each piece that a WSGI application answers with, and what was in the table by then."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "x", "SERVER_PORT": "80"}
    answer = app.wsgi_app(environ | {"wsgi.url_scheme": "http"}, lambda *_: lambda _: None)
    pieces = [(piece, actions(sink)) for piece in answer]
    return [*pieces, (b"", actions(sink))]


def test_a_wsgi_response_starts_and_ends_when_its_events_are_stored(sink: HeldSink) -> None:
    configured(sink)
    assert pieces_of(flask_application(), sink, "/whole")[0] == (b"done", ["view"])
    pieces = pieces_of(flask_application(), sink, "/stream")
    assert [(piece, stored[-1]) for piece, stored in pieces] == [(b"one", "view"), (b"", "stream")]


def test_the_piece_that_completes_a_measured_wsgi_response_waits(sink: HeldSink) -> None:
    configured(sink)
    pieces = pieces_of(flask_application(), sink, "/measured")
    assert pieces == [(b"one", []), (b"two", ["stream"]), (b"", ["stream"])]


def test_a_wsgi_request_fails_where_late_audits_must_not_be() -> None:
    sink = HeldSink(is_open=False)
    configured(sink, past_deadline="raise", response_deadline_millis=50)
    with pytest.raises(AuditDeliveryError):
        pieces_of(flask_application(), sink, "/whole")
    sink.open.set()
