"""Every test has an outbox of its own and an empty environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_audit_exporter import AuditPipeline, configure_audit
from tests.operations.figures import Metrics
from tests.operations.serving import Serve, serving
from tests.operations.stubs import StubExporter

Configure = Callable[..., AuditPipeline]


@pytest.fixture(autouse=True)
def _clean(bare_environment: None) -> None:
    """Have it for every test here."""


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
