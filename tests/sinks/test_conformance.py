"""Every sink of ours passes the suite that is published for others', on real parts."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from psycopg.sql import SQL

from otel_audit_exporter.event.fields import ATTRIBUTE_OF
from otel_audit_exporter.event.validation import EventValidator
from otel_audit_exporter.sinks.base import Sink
from otel_audit_exporter.sinks.forwarding import ForwardingSink
from otel_audit_exporter.sinks.memory import MemorySink
from otel_audit_exporter.sinks.otlp import OTLPSink
from otel_audit_exporter.sinks.postgres.dsn import read_dsn
from otel_audit_exporter.sinks.postgres.sink import PostgresSink
from otel_audit_exporter.sinks.sqlite import SQLiteSink
from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
from otel_audit_exporter.sinks.verdict import Fault, Verdict
from otel_audit_exporter.testing import FaultySink, SinkConformance
from tests.sinks.rows import COLUMNS
from tests.sinks.tcp_proxy import TcpProxy, proxying
from tests.stack import AuditTable, Stack
from tests.stack.faults import Place, Reset
from tests.support.otlp_receiver import Received, Receiver

Row = dict[str, Any]


class OnTheStack(SinkConformance):
    """What both sinks have in common behind which a PostgreSQL stands."""

    survives_fork = True
    stack: Stack
    table: AuditTable

    @pytest.fixture(autouse=True)
    def _on_the_stack(self, stack: Stack, audit_table: AuditTable) -> None:
        self.stack, self.table = stack, audit_table

    def stored(self) -> list[Row]:
        return self.table.rows()

    def bad_row(self, row: Row) -> Row:
        return row | {"entity_id": "no UUID"}

    @contextmanager
    def misconfigured(self) -> Iterator[None]:
        self.stack.sql(SQL("revoke insert on {} from audit_writer").format(self.table.identifier))
        yield
        self.stack.sql(SQL("grant insert on {} to audit_writer").format(self.table.identifier))


class TestSupabaseSink(OnTheStack):
    def sink(self) -> Sink:
        token = self.stack.token("audit_writer")
        self.secrets = (token, self.stack.anon_key)
        return SupabaseSink(self.stack.url, self.stack.anon_key, token=token, table=self.table.name, columns=COLUMNS)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        with self.stack.gateway.refusing():
            yield

    @contextmanager
    def reply_lost(self) -> Iterator[None]:
        injection = self.stack.gateway.inject(Reset(Place.COMMITTED), times=None)
        yield
        injection.remove()


class TestPostgresSink(OnTheStack):
    def sink(self) -> Sink:
        return self.postgres_sink(self.stack.postgres.port)

    def postgres_sink(self, port: int) -> Sink:
        dsn = self.stack.dsn("audit_writer").replace(f":{self.stack.postgres.port}/", f":{port}/")
        self.secrets = (read_dsn(dsn)["password"],)
        return PostgresSink(dsn, table=self.table.name, columns=COLUMNS)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.stack.postgres.stop()
        yield
        self.stack.heal()


class TestPostgresSinkOnASilentNetwork(TestPostgresSink):
    """Nothing is refused, nothing is cut: no byte of an answer comes."""

    proxy: TcpProxy

    @pytest.fixture(autouse=True)
    def _proxied(self, stack: Stack) -> Iterator[None]:
        with proxying(stack.postgres.port) as self.proxy:
            yield

    def sink(self) -> Sink:
        return self.postgres_sink(self.proxy.port)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.proxy.cut()
        with self.reply_lost():
            yield

    @contextmanager
    def reply_lost(self) -> Iterator[None]:
        self.proxy.replies = "hold"
        yield
        self.proxy.replies = "pass"


class TestSQLiteSink(SinkConformance):
    survives_fork = True
    path: Path

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "there" / "audit.db"
        self.path.parent.mkdir()

    def sink(self) -> Sink:
        return SQLiteSink(self.path, columns=COLUMNS)

    def stored(self) -> list[Row]:
        if not self.path.exists():
            return []
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM pms_audit_log")]

    def bad_row(self, row: Row) -> Row:
        return row | {"entity_id": None}

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as another:
            another.execute("BEGIN EXCLUSIVE")
            yield

    @contextmanager
    def misconfigured(self) -> Iterator[None]:
        away = self.path.parent.with_name("away")
        shutil.move(self.path.parent, away)
        yield
        shutil.move(away, self.path.parent)


class TestMemorySink(SinkConformance):
    @pytest.fixture(autouse=True)
    def _memory(self) -> None:
        self.memory = MemorySink()

    def sink(self) -> Sink:
        return self.memory

    def stored(self) -> list[Row]:
        return self.memory.rows


class TestFaultySink(SinkConformance):
    """The fault kit does nothing to the contract that it was not told to."""

    @pytest.fixture(autouse=True)
    def _memory(self) -> None:
        self.memory = MemorySink()
        self.faulty = FaultySink(self.memory)

    def sink(self) -> Sink:
        self.faulty.refuse_rows(lambda row: row["entity_id"] is None)
        return self.faulty

    def stored(self) -> list[Row]:
        return self.memory.rows

    def bad_row(self, row: Row) -> Row:
        return row | {"entity_id": None}

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.faulty.delay(60.0)
        yield
        self.faulty.heal()

    @contextmanager
    def misconfigured(self) -> Iterator[None]:
        self.faulty.fail_next(Verdict(Fault.CONFIGURATION, "give the key"), times=None)
        yield
        self.faulty.heal()

    @contextmanager
    def reply_lost(self) -> Iterator[None]:
        self.faulty.lose_replies(times=None)
        yield
        self.faulty.heal()


class ExporterWithMoods(InMemoryLogRecordExporter):
    """The SDK's exporter, which can be told to fail, before or after it has taken the records."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of the SDK
        self.mood = "good"

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        if self.mood == "away":
            return LogRecordExportResult.FAILURE
        result = super().export(batch)
        return LogRecordExportResult.FAILURE if self.mood == "mute" else result


class OfWholeRecords(SinkConformance):
    """What sinks have in common that send log records, to where nobody knows ids."""

    ignores_known_ids = False

    def encode(self, fields: Mapping[str, Any]) -> bytes:
        said = dict(fields)
        for name, column in FIELD_COLUMNS.items():
            said[name] = said.pop(column)
        said["timestamp"] = datetime.fromisoformat(said["timestamp"])
        return EventValidator().compose(said).body


class TestOTLPSink(OfWholeRecords):
    """Into a receiver that takes nothing of a batch with a bad record in it."""

    survives_fork = True
    secrets = ("S3CRET-PASSWORD", "S3CRET-KEY")
    receiver: Receiver

    @pytest.fixture(autouse=True)
    def _receiver(self) -> Iterator[None]:
        with Receiver() as self.receiver:
            self.receiver.judge = _without_bad_ones
            yield

    def sink(self) -> Sink:
        password, key = self.secrets
        endpoint = self.receiver.endpoint.replace("//", f"//user:{password}@") + f"?key={key}"
        return OTLPSink(Resource.get_empty(), endpoint=endpoint, timeout_seconds=20)

    def stored(self) -> list[Row]:
        return [row_of(record.attributes, record.time_unix_nano) for record in self.receiver.records]

    def bad_row(self, row: Row) -> Row:
        return row | {"action": "bad"}

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.receiver.stop()
        yield
        self.receiver.start()

    @contextmanager
    def misconfigured(self) -> Iterator[None]:
        self.receiver.judge = lambda records: 401
        yield
        self.receiver.judge = _without_bad_ones

    @contextmanager
    def reply_lost(self) -> Iterator[None]:
        self.receiver.mute = True
        yield
        self.receiver.mute = False


def _without_bad_ones(records: list[Received]) -> int:
    return 400 if any(record.attributes["audit.action"] == "bad" for record in records) else 200


class TestForwardingSink(OfWholeRecords):
    """Around an exporter whose failures are all of one kind."""

    exporter: ExporterWithMoods

    @pytest.fixture(autouse=True)
    def _exporter(self) -> None:
        self.exporter = ExporterWithMoods()

    def sink(self) -> Sink:
        return ForwardingSink(self.exporter, Resource.get_empty(), name="memory")

    def stored(self) -> list[Row]:
        records = [one.log_record for one in self.exporter.get_finished_logs()]
        return [row_of(record.attributes or {}, record.timestamp or 0) for record in records]

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.exporter.mood = "away"
        yield
        self.exporter.mood = "good"

    @contextmanager
    def reply_lost(self) -> Iterator[None]:
        self.exporter.mood = "mute"
        yield
        self.exporter.mood = "good"


FIELD_COLUMNS = {"record_id": "id", "user_id": "created_by", "timestamp": "created_at"}


def row_of(attributes: Mapping[str, Any], nanoseconds: int) -> Row:
    """Read a log record back as a row of the default table."""
    row: Row = {FIELD_COLUMNS.get(name, name): attributes.get(attribute) for name, attribute in ATTRIBUTE_OF.items()}
    row["created_at"] = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=nanoseconds // 1000)
    return row


HOOKS: dict[type[SinkConformance], set[str]] = {
    TestSupabaseSink: set(),
    TestPostgresSink: {"reply_lost"},
    TestPostgresSinkOnASilentNetwork: set(),
    TestSQLiteSink: {"reply_lost"},
    TestMemorySink: {"bad_row", "unreachable", "misconfigured", "reply_lost", "survives_fork"},
    TestFaultySink: {"survives_fork"},
    TestOTLPSink: {"ignores_known_ids"},
    TestForwardingSink: {"bad_row", "misconfigured", "ignores_known_ids", "survives_fork"},
}


@pytest.mark.parametrize("suite", HOOKS, ids=lambda suite: suite.__name__)
def test_nothing_is_left_out_but_what_a_sink_cannot_be_asked(suite: type[SinkConformance]) -> None:
    assert set(suite.left_out().values()) == HOOKS[suite]
    assert len(suite.checks()) + len(suite.left_out()) == 20
