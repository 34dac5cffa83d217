"""The sink of a named database: it learns where that is when something is to be delivered there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from otel_audit_exporter.config.trail_settings import database_settings
from otel_audit_exporter.errors import AuditConfigurationError, OutboxError
from otel_audit_exporter.event.routing import RouteName
from otel_audit_exporter.outbox.address_file import AddressFile
from otel_audit_exporter.pipeline.databases import Databases
from otel_audit_exporter.pipeline.factory import SinkFactory, TrailShape, make_sink
from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock
from otel_audit_exporter.sinks.base import Sink, SinkError
from otel_audit_exporter.sinks.verdict import Fault, Verdict

_LEAST_SECONDS: Final = 0.2  # for an insert after its name was resolved


class ResolvingSink:
    """Resolves a database's name at the first insert, and passes everything on to the sink that is there.

    The address is kept: another one for the same name delivers nothing until somebody confirms it. After a fault
    of the configuration the name is resolved again, as its key may have changed. ``new_factory`` makes one for the
    kind of sink.
    """

    def __init__(
        self,
        route: RouteName,
        shape: TrailShape,
        new_factory: Callable[[], SinkFactory],
        databases: Databases,
        address: AddressFile,
    ) -> None:
        self.name = shape.factory.name
        self._route = route
        self._shape = shape
        self._new_factory = new_factory
        self._databases = databases
        self._address = address
        self._lock = ForkSafeLock()
        self._sink: Sink | None = None
        self._given: object = None

    @property
    def target(self) -> str:
        """Where rows go, for people."""
        sink = self._sink
        return f"database {self._route.database}" + ("" if sink is None else f" ({sink.target})")

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Store the rows where the name leads to. Raises :class:`SinkError` as every sink does."""
        sink = self._sink
        if sink is not None and self._databases.known.get(self._route.database or "", self._given) is not self._given:
            self.forget(sink)  # the newest key counts
            sink = None
        if sink is None:
            sink = self.resolve(deadline)
            deadline = max(deadline, Clock.monotonic() + _LEAST_SECONDS)
        try:
            sink.insert(rows, deadline)
        except SinkError as error:
            if error.verdict.fault is Fault.CONFIGURATION:
                self.forget(sink)
            raise

    def resolve(self, deadline: float) -> Sink:
        """Return the sink of the address. Raises :class:`SinkError` where there is none, or another than before."""
        given = self._databases.settings_of(self._route.database or "", deadline)
        with self._lock:
            if self._sink is None:
                self._sink, self._given = self._made(given), given
            return self._sink

    def _made(self, given: object) -> Sink:
        shape, name, factory = self._shape, self._route.database or "", self._new_factory()
        try:
            settings = database_settings(shape.settings, name, given, factory.database_settings)
            sink = make_sink(factory, settings, shape.mapping)
        except AuditConfigurationError as error:
            raise SinkError(Verdict(Fault.CONFIGURATION, f"correct the settings of {name}"), str(error)) from None
        address = factory.address(settings)
        try:
            kept = self._address.keep(address)
        except OutboxError as error:
            raise SinkError(Verdict(Fault.TRANSIENT, "see the disk of the outbox directory"), str(error)) from None
        if kept != address:
            sink.close()
            raise self._moved(kept, address)
        return sink

    def _moved(self, kept: str, address: str) -> SinkError:
        name = self._route.database
        remedy = f"correct the settings of {name}, or say that it is meant: `otel-audit outbox readdress {name}`"
        message = f"the database {name} was at {kept}, and its name leads to {address} now"
        return SinkError(Verdict(Fault.CONFIGURATION, remedy), message)

    def forget(self, sink: Sink) -> None:
        """Have the name resolved again at the next insert."""
        with self._lock:
            if self._sink is sink:
                self._sink = None
        sink.close()

    def close(self) -> None:
        """Close every connection; a later insert opens a new one."""
        sink = self._sink
        if sink is not None:
            sink.close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections."""
        sink = self._sink
        if sink is not None:
            sink.renew_after_fork()
