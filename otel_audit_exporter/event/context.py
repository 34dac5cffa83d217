"""The audit context: who acts, for whom and from where. OpenTelemetry's context carries it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from opentelemetry import context as otel_context

from otel_audit_exporter.errors import AuditConfigurationError, AuditEventError
from otel_audit_exporter.event.audit_event import AuditEvent
from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import CONTEXT_FIELDS, FIELD_ALIASES
from otel_audit_exporter.event.identity import is_system, with_field_names
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.routing import ROUTE_FIELDS
from otel_audit_exporter.event.seen_requests import SeenRequest
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock

P = ParamSpec("P")
R = TypeVar("R")

_FIELDS: Final = CONTEXT_FIELDS | ROUTE_FIELDS
_ACCEPTED: Final = _FIELDS | FIELD_ALIASES.keys()
_KEY: Final = otel_context.create_key("otel-audit-scope")
# The same scope again: tracing libraries attach a bare OpenTelemetry context of their own (for a Celery task or a
# request, made of its headers alone), and who acts must survive that.
_INNERMOST: Final[ContextVar[Scope | None]] = ContextVar("otel-audit-scope", default=None)
_PLAIN: Final = Encoder()


class EventCollector(Protocol):
    """Is given every event that is accepted below the scope which it is set on."""

    def add(self, event: Any) -> None:
        """Take one accepted event."""


class _Tokens(NamedTuple):
    innermost: Token[Scope | None]
    otel: Any


class ScopeTree:
    """The scopes that share a root: one lock, and a version by which each sees whether its merged fields are old."""

    __slots__ = ("late", "lock", "version")

    def __init__(self) -> None:
        self.lock = ForkSafeLock()
        self.version = 0
        self.late: Callable[[], bool] | None = None  # names the actor once it is known, and returns whether it is

    def ask_late(self) -> None:
        """Ask who acts, as long as nobody knew; what the asking itself records does not ask again."""
        ask, self.late = self.late, None
        if ask is not None and not ask():
            self.late = ask


class Scope:
    """One open ``audit_context``: its own fields over those of the one around it. Safe to use from any thread."""

    __slots__ = ("_family", "_fields", "_merged", "collector", "parent", "request", "tokens")

    def __init__(self, fields: Mapping[str, Any], parent: Scope | None) -> None:
        self.parent = parent
        self.collector: EventCollector | None = None if parent is None else parent.collector
        self.request: SeenRequest | None = None if parent is None else parent.request
        self.tokens: dict[int, _Tokens] = {}
        self._family: ScopeTree = ScopeTree() if parent is None else parent._family
        self._fields = dict(fields)
        self._merged: tuple[int, dict[str, Any]] | None = None

    def update(self, **fields: Any) -> None:
        """Lay ``fields`` over those of this scope, for everything below it.

        Raises :class:`AuditEventError` that names every wrong field; nothing is changed then.
        """
        checked = checked_fields(fields)
        with self._family.lock:
            self._fields = overlay(self._fields, checked)
            self._family.version += 1

    def note_event(self) -> None:
        """Note that an event was said here."""
        if self.request is not None:
            self.request.recorded = True

    def ask_at_events(self, ask: Callable[[], bool]) -> None:
        """Have ``ask`` called at each event here until it has named the actor and returned True."""
        self._family.late = ask

    def merged(self) -> dict[str, Any]:
        """Return the fields in force here; not to be changed by the caller."""
        if self._family.late is not None:
            self._family.ask_late()
        version = self._family.version  # read first: a change meanwhile makes the result old at once
        if self._merged is not None and self._merged[0] == version:
            return self._merged[1]
        fields = self._fields if self.parent is None else overlay(self.parent.merged(), self._fields)
        self._merged = (version, fields)
        return fields


def overlay(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``inner`` over ``outer``: the inner one wins, and metadata is merged key by key.

    Where the inner one names the system as the actor, the outer one's user did not act.
    """
    if not FIELD_ALIASES.keys().isdisjoint(inner):
        inner = with_field_names(inner)
    fields = {**outer, **inner}
    if "actor_type" in inner and "user_id" not in inner and is_system(inner["actor_type"]):
        fields.pop("user_id", None)
    if "metadata" in inner and "metadata" in outer:
        outer_document, inner_document = _document(outer["metadata"]), _document(inner["metadata"])
        if outer_document is not None and inner_document is not None:
            fields["metadata"] = {**outer_document, **inner_document}
    return fields


def _document(metadata: object) -> Mapping[str, Any] | None:
    """Return metadata as a mapping; None where it is not recorded as one."""
    if metadata is None or isinstance(metadata, Mapping):
        return metadata
    value = loads_exact(_PLAIN.value(metadata))
    return value if isinstance(value, dict) else None


def checked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not None, metadata copied; :class:`AuditEventError` names every wrong one."""
    given = with_field_names({name: value for name, value in fields.items() if value is not None})
    problems: dict[str, str] = dict.fromkeys(
        given.keys() - _ACCEPTED,
        f"is not a field of an audit context ({', '.join(sorted(_FIELDS))})",
    )
    if "metadata" in given:
        given["metadata"] = loads_exact(_PLAIN.value(given["metadata"]))  # a copy, to its depth
        if not isinstance(given["metadata"], dict):
            problems["metadata"] = "must be a JSON object (a mapping, or the text of one)"
    try:
        AuditEvent(action="audit_context", **{name: given[name] for name in given.keys() & _ACCEPTED})
    except AuditEventError as error:
        problems.update(error.problems)
    if problems:
        raise AuditEventError(problems, call="audit context")
    return given


def current_scope() -> Scope | None:
    """Return the innermost open scope."""
    scope = otel_context.get_value(_KEY)
    return scope if isinstance(scope, Scope) else _INNERMOST.get()


def attach_scope(scope: Scope, owner: object) -> None:
    """Make ``scope`` the innermost one, until ``owner`` detaches it."""
    otel_token = otel_context.attach(otel_context.set_value(_KEY, scope))
    scope.tokens[id(owner)] = _Tokens(_INNERMOST.set(scope), otel_token)


def detach_scope(owner: object) -> None:
    """Detach the innermost scope that ``owner`` attached.

    Where that was in another context (the two halves of a generator that two tasks run), the one at hand is left
    as it is: it is not the one to restore, and ends with its task.
    """
    scope = current_scope()
    while scope is not None and id(owner) not in scope.tokens:
        scope = scope.parent
    if scope is None:
        return
    tokens = scope.tokens[id(owner)]
    try:
        _INNERMOST.reset(tokens.innermost)
    except ValueError:
        return
    del scope.tokens[id(owner)]
    otel_context.detach(tokens.otel)


class audit_context:  # noqa: N801  # reads as a statement: `with audit_context(...):`
    """Fill in who acts, and from where, for every audit event below: a context manager and a decorator.

    Carried by OpenTelemetry's ``Context``: it holds in everything that is called below it, in tasks that are made
    there, in ``asyncio.to_thread``, and in threads that carry the context. Contexts nest: the inner one wins, field
    by field, and ``metadata`` is merged key by key. The values of the event itself win over every context.

    ``with`` and ``async with`` give the open context, whose ``update(**fields)`` does what
    :func:`update_audit_context` does for the innermost one. As a decorator it works for functions, coroutine
    functions and (asynchronous) generator functions, and is opened again at every call; between the steps of a
    generator it does not hold for the caller.

    :param fields: ``yacht_id`` (or ``tenant_id``), ``user_id`` (or ``actor_id``), ``actor_type``, ``on_behalf_of``,
        ``source_ip``, ``request_id``, ``user_agent``, ``metadata`` (a JSON object, copied here), and ``trail`` and
        ``database``, the names of where events go. None is as good as
        left out. ``NOBODY`` as user or tenant hides that of an outer context, and ``actor_type="system"`` the user.
    :raises AuditEventError: names every wrong field.
    """

    def __init__(self, **fields: Any) -> None:
        self._fields = checked_fields(fields)

    def __enter__(self) -> Scope:
        scope = Scope(self._fields, current_scope())
        attach_scope(scope, self)
        return scope

    def __exit__(self, *exc_info: object) -> None:
        detach_scope(self)

    async def __aenter__(self) -> Scope:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        if isinstance(function, staticmethod | classmethod):  # decorated outside of @staticmethod: it stays one
            return type(function)(self(function.__func__))
        if isinstance(function, type) or not callable(function):
            raise AuditConfigurationError("audit_context(...) decorates functions, not classes or other objects")
        if inspect.isasyncgenfunction(function):
            return cast("Callable[P, R]", self._around_async_generator(function))
        if inspect.isgeneratorfunction(function):
            return cast("Callable[P, R]", self._around_generator(function))
        if inspect.iscoroutinefunction(function):
            return cast("Callable[P, R]", self._around_coroutine(function))
        return self._around_function(function)

    def _around_function(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def in_context(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return in_context

    def _around_coroutine(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def in_context(*args: P.args, **kwargs: P.kwargs) -> Any:
            with self:
                return await function(*args, **kwargs)

        return in_context

    def _around_generator(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        def in_context(*args: P.args, **kwargs: P.kwargs) -> Generator[Any, Any, Any]:
            steps = StepwiseScope(self._fields)
            generator = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(generator.send, None)
            while True:
                try:
                    with steps.next():
                        item = step()
                except StopIteration as stop:
                    return stop.value
                step = yield from _yield_item(generator, item, steps)

        return in_context

    def _around_async_generator(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def in_context(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[Any, Any]:
            steps = StepwiseScope(self._fields)
            generator = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(generator.asend, None)
            while True:
                try:
                    with steps.next():
                        item = await step()
                except StopAsyncIteration:
                    return
                try:
                    step = functools.partial(generator.asend, (yield item))
                except GeneratorExit:
                    with steps.next():
                        await generator.aclose()
                    raise
                except BaseException as error:
                    step = functools.partial(generator.athrow, error)

        return in_context


def _yield_item(
    generator: Generator[Any, Any, Any], item: Any, steps: StepwiseScope
) -> Generator[Any, Any, Callable[[], Any]]:
    """Yield one item of ``generator`` to its consumer, and return what the consumer wants next."""
    try:
        return functools.partial(generator.send, (yield item))
    except GeneratorExit:
        with steps.next():
            generator.close()
        raise
    except BaseException as error:
        return functools.partial(generator.throw, error)


class StepwiseScope:
    """One scope around work that is done step by step, as generators do: open while it runs, and not in between."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = checked_fields(fields)
        self._scope: Scope | None = None
        self._inside: otel_context.Context | None = None

    @contextmanager
    def next(self) -> Generator[Scope]:
        """Open the scope for the next step."""
        if self._scope is None:
            self._scope = Scope(self._fields, current_scope())
        attach_scope(self._scope, self)
        # What the work left attached at its last step (a span, say) is current again in this one.
        inside = None if self._inside is None else otel_context.attach(self._inside)
        try:
            yield self._scope
        finally:
            self._inside = otel_context.get_current()
            if inside is not None:
                otel_context.detach(inside)
            detach_scope(self)


def update_audit_context(**fields: Any) -> None:
    """Change the innermost open :class:`audit_context`, for everything below it.

    All code that runs in that context sees the change, also one from another task or thread: so FastAPI's sync
    dependencies, which run in threads, can name the user once they know. One context per request keeps users apart:
    the middlewares open it.

    :param fields: as those of :class:`audit_context`; None counts as left out, ``metadata`` is merged.
    :raises AuditEventError: names every wrong field; nothing is changed.
    :raises AuditConfigurationError: no context is open.
    """
    scope = current_scope()
    if scope is None:
        checked_fields(fields)
        raise AuditConfigurationError(
            "no audit context is open here: open one with `with audit_context(...)`, or add AuditMiddleware of "
            "otel_audit_exporter.integrations, which opens one for every request"
        )
    scope.update(**fields)
