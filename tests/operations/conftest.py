"""Every test has an outbox of its own, an empty environment, and leaves no pipeline running."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_audit_exporter import AuditPipeline, configure_audit
from otel_audit_exporter.pipeline import configure, exporter
from tests.operations.figures import Metrics
from tests.operations.serving import Serve, serving
from tests.operations.stubs import StubExporter

Configure = Callable[..., AuditPipeline]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith(("OTEL_", "SUPABASE_", "DATABASE_URL", "STATE_DIRECTORY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_AUDIT_OUTBOX_DIR", os.fspath(tmp_path / "outbox"))
    monkeypatch.setenv("OTEL_AUDIT_HANDLE_SIGTERM", "false")
    monkeypatch.chdir(tmp_path)
    _forget()
    yield
    _forget()


def _forget() -> None:
    running = configure._Running.pipeline
    if running is not None:
        running.shutdown(0)
        running.let_go()
    configure._Running.pipeline = configure._Running.made_of = None
    for left in list(exporter._standalone):
        left.shutdown(0)


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """A meter provider of the test's own, and what is told on it."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    yield Metrics(reader, provider)
    provider.shutdown()


@pytest.fixture
def stub() -> StubExporter:
    """An exporter whose sink does as it is told, and is slow for nobody; one export cycle is half a second."""
    return StubExporter(ids="text", schedule_delay_millis=10, export_timeout_millis=490, slow_write_seconds=0)


@pytest.fixture
def configured(stub: StubExporter) -> Configure:
    """Configure auditing around the stub."""

    def make(**options: Any) -> AuditPipeline:
        given: dict[str, Any] = {"schedule_delay_millis": 10, "export_timeout_millis": 490} | options
        return configure_audit(stub, **given)

    return make


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve ASGI applications with uvicorn, on ports of their own."""
    with ExitStack() as running:
        yield lambda app: running.enter_context(serving(app))
