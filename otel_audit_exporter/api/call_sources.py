"""Where the values of an audited call come from: its arguments, its result, and callables of the application."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from otel_audit_exporter.runtime.awaiting import awaited

Source = Callable[["Arguments", Any], Any]
"""Returns a value, or an awaitable of it, given the arguments of a call and its result."""

RESULT: Final = "result"
_STATUS: Final = ("status_code", "status")
_FIRST_FAILURE: Final = 400


class Arguments(dict[str, Any]):
    """The arguments of one call by parameter name, as keys or as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Sources:
    """Makes sources for the calls of one function, whose parameters are known."""

    def __init__(self, signature: inspect.Signature) -> None:
        self._parameters = signature.parameters
        keywords = (name for name, one in signature.parameters.items() if one.kind is one.VAR_KEYWORD)
        self.keywords = next(keywords, None)

    def of(self, given: Any) -> Source:
        """Return how to get a value: from an argument or a part of it, from a callable, or as it is."""
        if isinstance(given, str):
            name, *path = given.split(".")
            if name in self._parameters:
                return lambda arguments, result: _follow(path, arguments[name])
            if name == RESULT:
                return lambda arguments, result: _follow(path, result)
            if self.keywords:  # may come as one of **kwargs
                return lambda arguments, result: _follow(path, arguments[name]) if name in arguments else given
        elif callable(given):
            count = _takes(given)
            return lambda arguments, result: given(*(arguments, result)[:count])
        return lambda arguments, result: given

    def of_identifier(self, given: Any) -> Source:
        """Do as :meth:`of`; of a tuple, the first one that is there."""
        return _first_of([self.of(one) for one in given]) if isinstance(given, tuple) else self.of(given)


def of_result(given: Callable[..., Any]) -> Source:
    """Return a source that calls ``given`` with the result, or with the arguments and the result where it takes two."""
    takes_both = _takes(given) > 1
    return lambda arguments, result: given(arguments, result) if takes_both else given(result)


def _first_of(sources: list[Source]) -> Source:
    def first(arguments: Arguments, result: Any) -> Any:
        missing: Exception | None = None
        for source in sources:
            try:
                value = source(arguments, result)
            except Exception as error:
                missing = error
            else:
                if value is not None:
                    return value
        if missing is not None:
            raise missing
        return None

    return first


def outcome_of_response(result: Any) -> str:
    """Return the outcome that a result stands for: a Response with a status of 4xx or 5xx is a failure."""
    if not hasattr(result, "headers"):
        return "success"
    for name in _STATUS:
        status = getattr(result, name, None)
        if isinstance(status, int) and not isinstance(status, bool):
            return "failure" if status >= _FIRST_FAILURE else "success"
    return "success"


class Unknown:
    """Stands for a value whose source raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _follow(path: list[str], value: Any) -> Any:
    for step in path:
        value = value[step] if isinstance(value, Mapping) else getattr(value, step)
    return value


def _takes(function: Callable[..., Any]) -> int:
    """Return how many of two positional arguments a callable takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 2
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) for parameter in parameters
    )


async def all_awaited(values: dict[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        try:
            values[name] = await awaited(value)
        except Exception as error:
            values[name] = Unknown(error)
    return values


def without_awaitables(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that are there already: a cancelled task must not wait for the others."""
    for value in values.values():
        if inspect.iscoroutine(value):
            value.close()
    return {name: value for name, value in values.items() if not inspect.isawaitable(value)}


def all_there(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values, those that would have to be awaited as unknown."""
    known = without_awaitables(values)
    unknown = Unknown(TypeError("a coroutine, where the function is none"))
    return {name: known.get(name, unknown) for name in values}
