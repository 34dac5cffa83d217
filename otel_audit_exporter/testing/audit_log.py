"""The audit events of a test, in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any, Final, Self

from otel_audit_exporter.config.settings import Settings, load_settings
from otel_audit_exporter.event.audit_event import AuditEvent
from otel_audit_exporter.event.diff import changed, same
from otel_audit_exporter.event.encoded_event import EncodedEvent, loads_exact
from otel_audit_exporter.event.identity import with_field_names
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.mutating_routes import mutating_routes, uncovered
from otel_audit_exporter.event.routing import DEFAULT_TRAIL, RouteName
from otel_audit_exporter.event.seen_requests import SeenRequest, watched_requests
from otel_audit_exporter.outbox.stripe import EventRef
from otel_audit_exporter.pipeline.current import current_pipeline, replaced_pipeline
from otel_audit_exporter.pipeline.databases import Databases
from otel_audit_exporter.pipeline.destinations import Route
from otel_audit_exporter.pipeline.exporters import InMemoryAuditExporter
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.pipeline.sdk_versions import own_provider
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock

_SHOWN_EVENTS: Final = 5
_FIELD_NAMES: Final = frozenset(field.name for field in fields(AuditEvent))
_PLAIN: Final = Encoder()


class AuditLog:
    """Catch the audit events of a test in memory: the pytest fixture ``audit_log``, or a context manager.

    While it is open, ``audit_event()`` and everything else works as it does in production, without a sink and
    without files: events are checked, filled in from the context and redacted, receipts are settled. Where the code
    under test calls ``configure_audit()`` or ``attach_audit()``, their arguments are checked and hold (ids, columns,
    redacted keys, ...), except for the exporter, the mode and the outbox. What was configured before is in force again
    afterwards; the events stay to be looked at until it is opened again. Safe to use from any thread; one at a time
    per process, so ``pytest-xdist`` is fine.

    ::

        with AuditLog() as audit_log:
            create_part(...)
        audit_log.assert_recorded(action="create_part", entity_id=part_id)
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._events: dict[str, AuditEvent] = {}
        self._requests: list[SeenRequest] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.clear()
        running = current_pipeline()
        settings = load_settings({}, {}) if running is None else running.settings
        pipeline = _RecordingPipeline(_in_memory(settings), self._keep)
        self._stack.callback(pipeline.shutdown)
        self._stack.enter_context(replaced_pipeline(pipeline, pipeline.reconfigure))
        self._stack.enter_context(watched_requests(self._requests))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def events(self) -> list[AuditEvent]:
        """The events so far, in the order in which they were recorded; each id once, as in a table.

        Ids are strings, and values are what JSON makes of them, redacted, as they would be stored.
        """
        with self._lock:
            return list(self._events.values())

    def clear(self) -> None:
        """Forget the events so far."""
        with self._lock:
            self._events.clear()
            self._requests.clear()

    def assert_recorded(self, action: str | None = None, **expected: Any) -> AuditEvent:
        """Return the first event that has these fields, those of :class:`AuditEvent`.

        Values are compared as they are recorded, so that a UUID, a Decimal or a datetime may be given as such, and
        ``unittest.mock.ANY`` fits anything. Raises ``AssertionError`` that shows the nearest events and how they
        differ, and ``TypeError`` for a field that no event has.
        """
        wanted = _wanted(action, expected)
        events = self.events
        differences = [_differences(event, wanted) for event in events]
        for event, difference in zip(events, differences, strict=True):
            if not difference:
                return event
        raise AssertionError(_nothing_like(wanted, events, differences))

    def assert_nothing_recorded(self, action: str | None = None, **expected: Any) -> None:
        """Raise ``AssertionError`` where any event was recorded that has these fields: any at all, without them."""
        wanted = _wanted(action, expected)
        found = [event for event in self.events if not _differences(event, wanted)]
        if found:
            what = f" with {_said(wanted)}" if wanted else ""
            lines = [f"{len(found)} audit event(s) recorded{what}, where none should be:", *map(_headline, found)]
            raise AssertionError("\n".join(lines[: _SHOWN_EVENTS + 1]))

    def assert_every_mutation_recorded(
        self, app: Any, *, exempt: Collection[str] = (), only_asked: bool = False
    ) -> None:
        """Raise ``AssertionError`` that names each route that changes something and recorded nothing.

        A route of a Starlette, FastAPI, Flask or Django application with POST, PUT, PATCH or DELETE is one that
        changes something. It has to have been asked since the fixture was opened (or cleared), with success, and each
        such request has to have recorded an event. ``AuditMiddleware`` must be in the application. A function that is
        a view of Django's does not say which methods it takes: it is looked at where it was asked.

        :param exempt: routes that need not record anything: a path as the application has it (``"/login"``,
            ``"/parts/{part_id}"``), or with its method (``"POST /login"``).
        :param only_asked: let routes pass that no request of this test has asked.
        """
        silent, unasked = uncovered(mutating_routes(app), self._requests, exempt)
        lines = [f"{route}: recorded no audit event" for route in silent]
        lines += [] if only_asked else [f"{route}: was not asked with success in this test" for route in unasked]
        if lines:
            raise AssertionError("\n".join(["not every mutating route is audited:", *lines]))

    def _keep(self, event: AuditEvent) -> None:
        with self._lock:
            self._events.setdefault(str(event.record_id), event)

    def __repr__(self) -> str:
        return f"<AuditLog of {len(self._events)} events>"


class _RecordingPipeline(AuditPipeline):
    """A pipeline in memory that reports every event it accepts."""

    def __init__(self, settings: Settings, report: Any) -> None:
        self._report = report
        super().__init__(
            [InMemoryAuditExporter(settings=settings)],
            settings,
            provider=own_provider(),
            processors=(),
            attached=False,
        )

    def reconfigure(self, settings: Settings) -> AuditPipeline:
        """Start again with these settings, also after a shutdown."""
        settings = _in_memory(settings)
        if self.closed or settings.values != self.settings.values:
            exporter = InMemoryAuditExporter(settings=settings)
            exporter.own_by_pipeline()
            self.shutdown()
            self.settings = settings
            self._take_exporters([exporter], {}, Databases(None))
            self._begin()
        return self

    def _accept(self, event: EncodedEvent, route: Route) -> dict[str, EventRef | None]:
        tickets = super()._accept(event, route)
        trail = None if route.name.trail == DEFAULT_TRAIL else route.name.trail
        self._report(replace(AuditEvent.from_bytes(event.body), trail=trail, database=route.name.database))
        return tickets

    def _open_route(self, name: RouteName, said: Mapping[str, Any]) -> Route:
        """Take the events of every trail and database."""
        return self._routes.setdefault(name, Route(name, self._exporters))


def _in_memory(settings: Settings) -> Settings:
    return replace(
        settings, exporter="memory", mode="sync", outbox="memory", on_outbox_error="raise", on_invalid="raise"
    )


def _wanted(action: str | None, expected: Mapping[str, Any]) -> dict[str, Any]:
    expected = with_field_names(expected)
    unknown = sorted(expected.keys() - _FIELD_NAMES)
    if unknown:
        raise TypeError(f"an audit event has no {', '.join(unknown)}; it has {', '.join(sorted(_FIELD_NAMES))}")
    return dict(expected) if action is None else {"action": action, **expected}


def _differences(event: AuditEvent, wanted: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields that are not as wanted: the value wanted and the one recorded."""
    recorded = {name: getattr(event, name) for name in wanted}
    return {name: (value, recorded[name]) for name, value in wanted.items() if not _fits(value, recorded[name])}


def _fits(wanted: Any, recorded: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(recorded, Mapping):
        return wanted.keys() == recorded.keys() and all(_fits(wanted[key], recorded[key]) for key in wanted)
    if isinstance(wanted, list | tuple) and isinstance(recorded, list):
        return len(wanted) == len(recorded) and all(map(_fits, wanted, recorded))
    try:
        if wanted == recorded:
            return True
    except Exception:  # a foreign comparison may raise anything
        return False
    return same(wanted, recorded) or bool(loads_exact(_PLAIN.value(wanted)) == recorded)


def _nothing_like(
    wanted: Mapping[str, Any], events: Sequence[AuditEvent], differences: Sequence[dict[str, tuple[Any, Any]]]
) -> str:
    lines = [f"no audit event was recorded with {_said(wanted)}" if wanted else "no audit event was recorded"]
    if not events:
        return lines[0] + ("; none was recorded at all" if wanted else "")
    nearest = sorted(range(len(events)), key=lambda index: len(differences[index]))[:_SHOWN_EVENTS]
    lines.append(f"of {len(events)} recorded, the nearest:")
    for index in nearest:
        lines.append(_headline(events[index]))
        lines.extend(_shown(name, *values) for name, values in differences[index].items())
    return "\n".join(lines)


def _shown(name: str, wanted: Any, recorded: Any) -> str:
    if isinstance(wanted, Mapping) and isinstance(recorded, Mapping):
        wanted, recorded = changed(wanted, recorded)
    return f"      {name}: expected {wanted!r}, recorded {recorded!r}"


def _headline(event: AuditEvent) -> str:
    return f"  - {event.action} {event.entity_type} {event.entity_id} ({event.outcome}, by {event.user_id})"


def _said(wanted: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in wanted.items())
