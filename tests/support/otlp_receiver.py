"""A receiver of OTLP over HTTP: it decodes what comes with the official messages, and keeps what it acknowledged."""

from __future__ import annotations

import gzip
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from tests.stack.ports import HOST, free_port
from tests.stack.small_servers import serving


@dataclass(frozen=True)
class Received:
    """One log record, as it came."""

    attributes: dict[str, Any]
    trace_id: str
    span_id: str
    event_name: str
    time_unix_nano: int
    resource: dict[str, Any]
    scope: str

    @property
    def record_id(self) -> str:
        return str(self.attributes["audit.record.id"])

    def document(self, name: str) -> Any:
        return json.loads(self.attributes[name])


class Receiver:
    """Serves at ``endpoint`` between ``start`` and ``stop``; the port stays its own."""

    def __init__(self, answers: Iterable[int] = ()) -> None:
        self.port = free_port()
        self.endpoint = f"http://{HOST}:{self.port}/v1/logs"
        self.refusals = 0
        self.judge: Callable[[list[Received]], int] = lambda records: 200  # what a request with these is answered
        self.mute = False  # whether it takes what comes, and closes the connection without a word
        self.rejected = 0  # how many records of each request it says it has not taken
        self.headers: Mapping[str, str] = {"content-type": "application/x-protobuf"}
        self._answers = deque(answers)  # what the next requests are answered; 200 after these
        self._records: list[Received] = []
        self._changed = threading.Condition()
        self._serving = ExitStack()

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                answer = ExportLogsServiceResponse()
                answer.partial_success.rejected_log_records = receiver.rejected
                status = receiver.take(self.path, body)
                if receiver.mute:
                    self.close_connection = True
                    return
                self.answer(status, answer.SerializeToString())

            def answer(self, status: int, answer: bytes) -> None:
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
                pass

        self._serving.enter_context(serving(ThreadingHTTPServer((HOST, self.port), Handler)))

    def stop(self) -> None:
        self._serving.close()

    def __enter__(self) -> Receiver:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def answer_next(self, *statuses: int) -> None:
        """Say what the next requests are answered."""
        with self._changed:
            self._answers.extend(statuses)

    @property
    def records(self) -> list[Received]:
        with self._changed:
            return list(self._records)

    @property
    def ids(self) -> set[str]:
        return {record.record_id for record in self.records}

    def wait_for(self, ids: Iterable[str], timeout: float = 90.0) -> None:
        """Return once every one of these events was acknowledged."""
        wanted = set(ids)
        with self._changed:
            come = self._changed.wait_for(lambda: wanted <= {one.record_id for one in self._records}, timeout)
        assert come, f"{len(wanted - self.ids)} of {len(wanted)} events did not come within {timeout:g} s"

    def take(self, path: str, body: bytes) -> int:
        """Decode a request, and return the status that answers it."""
        records = list(_decode(ExportLogsServiceRequest.FromString(body)))
        with self._changed:
            status = self._answers.popleft() if self._answers else self.judge(records)
            if path.partition("?")[0] != "/v1/logs":
                status = 404
            if status == 200:
                self._records.extend(records)
            else:
                self.refusals += 1
            self._changed.notify_all()
        return status


def _decode(request: ExportLogsServiceRequest) -> Iterable[Received]:
    for resource_logs in request.resource_logs:
        resource = _values(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                yield Received(
                    attributes=_values(record.attributes),
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    event_name=record.event_name,
                    time_unix_nano=record.time_unix_nano,
                    resource=resource,
                    scope=scope_logs.scope.name,
                )


def _values(pairs: Iterable[Any]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
