"""``@audited``: the audit event of a function, written when it has returned or raised."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from logging import ERROR
from typing import Any, Final, ParamSpec, TypeVar, cast
from uuid import UUID

import orjson

from otel_audit_exporter.api.call_sources import (
    Arguments,
    Source,
    Sources,
    Unknown,
    all_awaited,
    all_there,
    of_result,
    outcome_of_response,
    without_awaitables,
)
from otel_audit_exporter.api.events import ActorType, Identifier, audit_event
from otel_audit_exporter.errors import AuditConfigurationError, AuditError, AuditEventError
from otel_audit_exporter.event.context import current_scope, overlay
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.observability.causes import Cause
from otel_audit_exporter.observability.examples import describe_arguments
from otel_audit_exporter.pipeline.current import current_pipeline, say_once
from otel_audit_exporter.runtime.awaiting import awaited
from otel_audit_exporter.runtime.log import rejections_logged_by_caller

P = ParamSpec("P")
R = TypeVar("R")

# Of these an event may be recorded without: what cannot be found out is left out, and the log says so.
_MAY_BE_LEFT_OUT: Final = frozenset({"new_values", "metadata", "on_behalf_of", "idempotency_key", "signature"})
_IDENTIFIERS: Final = frozenset({"entity_id", "yacht_id", "user_id", "tenant_id", "actor_id"})
_IMMUTABLE: Final = (str, bytes, int, float, type(None), Decimal, date, time, UUID, Enum)
_PLAIN: Final = Encoder()


def audited(
    action: str | Callable[..., Any],
    *,
    entity_type: str | Callable[..., Any],
    entity_id: Identifier | tuple[Any, ...] | Callable[..., Any],
    new_values: Any = None,
    old_values: Any = None,
    yacht_id: Identifier | tuple[Any, ...] | Callable[..., Any] | None = None,
    user_id: Identifier | tuple[Any, ...] | Callable[..., Any] | None = None,
    metadata: Any = None,
    actor_type: ActorType | None = None,
    on_behalf_of: Identifier | Callable[..., Any] | None = None,
    event_name: str | None = None,
    idempotency_key: str | Callable[..., Any] | None = None,
    as_span_event: bool = False,
    tenant_id: Identifier | tuple[Any, ...] | Callable[..., Any] | None = None,
    actor_id: Identifier | tuple[Any, ...] | Callable[..., Any] | None = None,
    trail: str | None = None,
    database: str | Callable[..., Any] | None = None,
    signature: Any = None,
    outcome: Callable[..., Any] | None = outcome_of_response,
    when: Callable[..., Any] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Record an audit event for every call of the decorated function or coroutine function.

    When it returns, the event has outcome ``"success"``, or ``"failure"`` where it returns a Response (of Starlette,
    Flask, Django, ...) with a status of 4xx or 5xx. When it raises, ``"failure"``, with the exception's type (never
    its message) under ``exception`` of ``metadata``, and the exception goes on unchanged; one that merely stops the
    work (``CancelledError``, ``KeyboardInterrupt``, ``SystemExit``) leaves ``"unknown"``. The signature of the
    function stays what it is, so that FastAPI endpoints may be decorated (below the route's decorator).

    ``outcome`` is called with the result, or with ``(arguments, result)`` where it takes two, and returns
    ``"success"``, ``"failure"`` or ``"unknown"``, or whether it was a success; ``outcome=None``: what returns is a
    success. ``when`` is called likewise: where it returns false, nothing is recorded. An exception is recorded
    whatever they would say.

    Each of ``entity_id``, ``new_values``, ``old_values``, ``yacht_id`` (or ``tenant_id``), ``user_id`` (or
    ``actor_id``), ``metadata``, ``signature``, ``on_behalf_of``, ``idempotency_key`` and ``database`` is one of:

    - the name of a parameter of the function (or of an argument among its ``**kwargs``), for that argument, or a
      path from it through attributes and keys (``"payload.part.id"``); ``"result"`` is what the function returned.
      Any other string is a plain value;
    - a callable, called when the function has ended with ``(arguments, result)``, or with as many of them as it
      takes: ``arguments`` has every argument by name (``arguments["id"]``, or ``arguments.id``), defaults included,
      and ``result`` is None where the function raised. For coroutine functions it may be one itself;
    - a plain value.

    An identifier may also be a tuple of these: the first one that is there counts
    (``entity_id=("part_id", "result.id")``). ``action`` and ``entity_type`` are plain values or callables.

    ``old_values`` is taken **before** the function runs, and copied; its callable gets the arguments only. The other
    arguments are those of :func:`audit_event`.

    A callable that raises keeps no function from running. Where the event can do without its value (old and new
    values, ``metadata``, ``signature``, ``on_behalf_of``, ``idempotency_key``), it is recorded without, and an error
    is logged. It is recorded where ``when`` raises, and with ``"unknown"`` where ``outcome`` does.

    After a success an event that cannot be recorded raises as ``audit_event`` does: :class:`AuditEventError`,
    :class:`OutboxError`. After an exception it is logged, as nothing may hide the exception: so let ``entity_id``
    come from the arguments where failures are to be recorded.

    :raises AuditConfigurationError: at the decoration, for what is no function or coroutine function (a generator
        function has no one moment at which it is done), and for an ``outcome`` or ``when`` that is no callable.
    """
    sources = {
        "entity_id": entity_id,
        "new_values": new_values,
        "yacht_id": yacht_id,
        "user_id": user_id,
        "metadata": metadata,
        "on_behalf_of": on_behalf_of,
        "idempotency_key": idempotency_key,
        "tenant_id": tenant_id,
        "actor_id": actor_id,
        "database": database,
        "signature": signature,
    }
    names = {"action": action, "entity_type": entity_type}
    sources |= {name: value for name, value in names.items() if callable(value)}
    fixed = {
        **{name: value for name, value in names.items() if not callable(value)},
        "trail": trail,
        "actor_type": actor_type,
        "event_name": event_name,
        "as_span_event": as_span_event,
    }

    judges = {"outcome": outcome, "when": when}
    for name, judge in judges.items():
        if not (judge is None or callable(judge)):
            raise AuditConfigurationError(f"audited({name}=...) is a callable that gets the result, or None")

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if isinstance(function, staticmethod | classmethod):  # decorated outside of @staticmethod: it stays one
            return type(function)(decorate(function.__func__))
        _refuse_what_has_no_end(function)
        plan = _Plan(function, fixed, sources, old_values, judges)
        wrap = _around_coroutine if _is_coroutine_function(function) else _around_function
        wrapper = functools.wraps(function)(wrap(function, plan))
        wrapper.__signature__ = plan.signature  # type: ignore[attr-defined]  # what inspect and FastAPI look at
        return cast("Callable[P, R]", wrapper)

    return decorate


class _Plan:
    """What to record of every call of one function."""

    def __init__(
        self,
        function: Callable[..., Any],
        fixed: Mapping[str, Any],
        sources: Mapping[str, Any],
        old: Any,
        judges: Mapping[str, Callable[..., Any] | None],
    ) -> None:
        self.signature = _signature(function)
        self.fixed = fixed
        self.label = fixed.get("action") or getattr(function, "__qualname__", "a function")
        made = Sources(self.signature)
        self.keywords = made.keywords
        self.sources = {
            name: made.of_identifier(source) if name in _IDENTIFIERS else made.of(source)
            for name, source in sources.items()
            if source is not None
        }
        self.judges = {name: of_result(judge) for name, judge in judges.items() if judge is not None}
        self.old = None if old is None else made.of(old)

    def begin(self, args: Any, kwargs: Any) -> _Call | None:
        """Return the call with these arguments; None where they do not fit, as the function itself will say."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:
            return None
        bound.apply_defaults()
        more = bound.arguments[self.keywords] if self.keywords else {}
        return _Call(self, Arguments({**more, **bound.arguments}))


class _Call:
    """One call of a decorated function."""

    def __init__(self, plan: _Plan, arguments: Arguments) -> None:
        self._plan = plan
        self._arguments = arguments
        self._said: dict[str, Any] = dict(plan.fixed)

    def before(self) -> Any:
        """Return the state before, or an awaitable of it."""
        return None if self._plan.old is None else self._plan.old(self._arguments, None)

    def lose(self, name: str, error: Exception, instead: str = "without it") -> None:
        """Go on without a value whose source raised, and say so."""
        label, kind = self._plan.label, _type_name(error)
        message = "audit: %s of %s raised %s: the event is recorded %s"
        say_once(ERROR, (name, label, kind), message, name, label, kind, instead)

    def keep_old(self, values: Any) -> None:
        """Keep the state before as it is now."""
        if values is not None:
            self._said["old_values"] = _snapshot(values)

    def values(self, result: Any) -> dict[str, Any]:
        """Return what the sources give, or awaitables of it; the exception of one that raised."""
        return self._asked(self._plan.sources, result)

    def values_of_success(self, result: Any) -> dict[str, Any]:
        """Do as :meth:`values`, and ask what the result means, too."""
        return self.values(result) | self._asked(self._plan.judges, result)

    def _asked(self, sources: Mapping[str, Source], result: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, source in sources.items():
            try:
                values[name] = source(self._arguments, result)
            except Exception as error:
                values[name] = Unknown(error)
        return values

    def succeed(self, values: dict[str, Any]) -> None:
        """Record that the function has returned, unless ``when`` is against it."""
        outcome, when = self._outcome(values.pop("outcome", None)), values.pop("when", True)
        if isinstance(when, Unknown):
            self.lose("when", when.error, "in any case")
        elif not when:
            return
        unknown = {name: value for name, value in values.items() if isinstance(value, Unknown)}
        known = {name: values[name] for name in values.keys() - unknown}
        if unknown.keys() <= _MAY_BE_LEFT_OUT:
            for name, value in unknown.items():
                self.lose(name, value.error)
            self._record(known, outcome=outcome)
            return
        error = AuditEventError({name: f"its source raised {_type_name(one.error)}" for name, one in unknown.items()})
        if _is_kept(error, {**self._said, **known}):
            return
        _note_rejected(error, self._plan.fixed)
        raise error from next(iter(unknown.values())).error

    def _outcome(self, judged: Any) -> Any:
        if isinstance(judged, Unknown):
            self.lose("outcome", judged.error, "with the outcome unknown")
            return "unknown"
        if judged is None:
            return "success"
        return {True: "success", False: "failure"}[judged] if isinstance(judged, bool) else judged

    def fail(self, error: BaseException, values: Mapping[str, Any]) -> None:
        """Record that the function has raised; never raises."""
        known = {name: value for name, value in values.items() if not isinstance(value, Unknown)}
        known = overlay(known, {"metadata": {"exception": _type_name(error)}})
        try:
            with rejections_logged_by_caller():
                self._record(known, outcome="failure" if isinstance(error, Exception) else "unknown")
        except Exception as problem:
            label, kind = self._plan.label, _type_name(error)
            say_once(
                ERROR,
                ("not recorded", label, kind, _type_name(problem)),
                "audit: %s raised %s, and that was not recorded: %s",
                label,
                kind,
                problem if isinstance(problem, AuditError) else _type_name(problem),
            )

    def _record(self, values: Mapping[str, Any], **more: Any) -> None:
        audit_event(**{**self._said, **values, **more})


def _around_function(function: Callable[..., Any], plan: _Plan) -> Callable[..., Any]:
    def audited_call(*args: Any, **kwargs: Any) -> Any:
        call = plan.begin(args, kwargs)
        if call is None:
            return function(*args, **kwargs)
        try:
            try:
                call.keep_old(_not_awaitable(call.before()))
            except Exception as error:
                call.lose("old_values", error)
            result = function(*args, **kwargs)
        except BaseException as error:
            call.fail(error, without_awaitables(call.values(None)))
            raise
        if inspect.iscoroutine(result):  # a coroutine function inside an ordinary decorator
            return _finish(call, result)
        call.succeed(all_there(call.values_of_success(result)))
        return result

    return audited_call


def _around_coroutine(function: Callable[..., Any], plan: _Plan) -> Callable[..., Any]:
    async def audited_call(*args: Any, **kwargs: Any) -> Any:
        call = plan.begin(args, kwargs)
        if call is None:
            return await function(*args, **kwargs)
        return await _finish(call, _run(call, function, args, kwargs))

    return audited_call


async def _run(call: _Call, function: Callable[..., Awaitable[R]], args: Any, kwargs: Any) -> R:
    try:
        call.keep_old(await awaited(call.before()))
    except Exception as error:
        call.lose("old_values", error)
    return await function(*args, **kwargs)


async def _finish(call: _Call, work: Coroutine[Any, Any, R]) -> R:
    try:
        result = await work
    except BaseException as error:
        values = call.values(None)
        if isinstance(error, Exception):
            values = await all_awaited(values)
        call.fail(error, without_awaitables(values))
        raise
    call.succeed(await all_awaited(call.values_of_success(result)))
    return result


def _snapshot(value: Any) -> Any:
    """Return a value as it is now: as JSON text, unless it cannot change."""
    if isinstance(value, _IMMUTABLE):
        return value
    written = _PLAIN.value(value)
    return written.decode() if written[:1] in (b"{", b"[") else orjson.loads(written)


def _not_awaitable(value: Any) -> Any:
    if inspect.iscoroutine(value):
        value.close()
        raise AuditConfigurationError("audited: old_values of a function that is no coroutine function cannot be one")
    return value


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # annotations that name what is not there (yet)
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            return inspect.signature(function, annotation_format=Format.FORWARDREF)
        return inspect.signature(function)


def _is_coroutine_function(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _refuse_what_has_no_end(function: object) -> None:
    if isinstance(function, type) or not callable(function):
        raise AuditConfigurationError("audited(...) decorates functions, not classes or other objects")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise AuditConfigurationError(
            "audited(...) cannot decorate a generator function, which has no one moment at which it is done: call "
            "audit_event() where the work is done"
        )


def _type_name(error: BaseException) -> str:
    """Return the fully qualified name of an exception's type, as OpenTelemetry's ``exception.type`` has it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_kept(error: AuditEventError, said: Mapping[str, Any]) -> bool:
    """Keep an event of which a source has raised, where wrong ones are kept (``on_invalid``)."""
    pipeline, scope = current_pipeline(), current_scope()
    if pipeline is None or pipeline.settings.on_invalid == "raise":
        return False
    said = {name: value for name, value in said.items() if value is not None and name != "as_span_event"}
    pipeline.keep_invalid(error, said if scope is None else overlay(scope.merged(), said))
    return True


def _note_rejected(error: AuditEventError, said: Mapping[str, Any]) -> None:
    pipeline = current_pipeline()
    if pipeline is not None:
        pipeline.reject(Cause(str(error), "correct what audited() is given"), describe_arguments(said))
