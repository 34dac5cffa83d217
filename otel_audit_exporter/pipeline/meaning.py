"""What arguments mean, for comparing two set-ups: a notebook's cell that runs again makes its functions again."""

from __future__ import annotations

from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any

from otel_audit_exporter.pipeline.exporter import AuditExporter


def meaning_of(value: Any, inside: frozenset[int] = frozenset()) -> Any:
    """Return what can be compared in the place of ``value``: of a function its code and what it closes over."""
    if id(value) in inside:  # a function that closes over itself
        return "itself"
    inside |= {id(value)}
    if isinstance(value, FunctionType):
        return _of_function(value, inside)
    if isinstance(value, CodeType):
        return _of_code(value, inside)
    if isinstance(value, AuditExporter) and value.has_settings_only:
        return type(value), value.target, meaning_of(value.settings.values, inside)
    if isinstance(value, Mapping):
        return {name: meaning_of(one, inside) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(meaning_of(one, inside) for one in value)
    return value


def _of_function(function: FunctionType, inside: frozenset[int]) -> Any:
    try:
        closed_over = tuple(meaning_of(cell.cell_contents, inside) for cell in function.__closure__ or ())
    except ValueError:  # a variable that has no value yet
        return function
    defaults = meaning_of((function.__defaults__, function.__kwdefaults__), inside)
    return _of_code(function.__code__, inside), defaults, closed_over, id(function.__globals__)


def _of_code(code: CodeType, inside: frozenset[int]) -> Any:
    """Return all of the code but where it stands in its file."""
    constants = tuple((type(one), meaning_of(one, inside)) for one in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags, constants
