"""Records into an OTLP receiver: what the network may do, and TLS."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import certifi
import pytest

from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.otlp import OTLPSink
from otel_audit_exporter.sinks.verdict import Fault
from tests.sinks.listening import listening
from tests.sinks.tls import serving_tls
from tests.support.events import arguments

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000000\r\n\r\n"
TRANSIENT, CONFIGURATION = Fault.TRANSIENT, Fault.CONFIGURATION


def sink_to(port: int, scheme: str = "http") -> OTLPSink:
    return OTLPSink(None, endpoint=f"{scheme}://localhost:{port}/v1/logs", timeout_seconds=10)


def refusal(sink: Sink, seconds: float) -> SinkError:
    body = EventValidator().compose(arguments(timestamp=datetime(2026, 3, 4, tzinfo=UTC))).body
    with pytest.raises(SinkError) as caught:
        sink.insert([body], time.monotonic() + seconds)
    return caught.value


@contextmanager
def answering(start: bytes, *, dripping: bytes = b"") -> Iterator[int]:
    """Answer each request with ``start``, and then with ``dripping`` again and again."""
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(100_000)
        connection.sendall(start)
        while dripping and not ended.wait(0.05):
            connection.sendall(dripping)

    with listening(answer) as port:
        try:
            yield port
        finally:
            ended.set()


def test_an_answer_that_drips_ends_with_the_deadline() -> None:
    with answering(ANSWER, dripping=b"x") as port, closing(sink_to(port)) as sink:
        error = refusal(sink, 4.0)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, True)


@pytest.mark.parametrize("start", [b"", b"nonsense\r\n\r\n", ANSWER])
def test_an_answer_that_is_cut_off_is_perhaps_stored(start: bytes) -> None:
    with answering(start) as port, closing(sink_to(port)) as sink:
        error = refusal(sink, 10.0)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, True)


def test_a_certificate_that_is_not_trusted_is_the_configurations_fault(tmp_path: Path) -> None:
    with serving_tls(tmp_path) as port, closing(sink_to(port, "https")) as sink:
        error = refusal(sink, 10.0)
    assert error.verdict.fault is CONFIGURATION
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in error.verdict.remedy


def test_a_certificate_that_is_named_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_tls(tmp_path) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "certificate.pem"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
        with closing(sink_to(port, "https")) as sink:
            error = refusal(sink, 4.0)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, True)


def test_no_time_is_no_request() -> None:
    error = refusal(sink_to(9), -1.0)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)
