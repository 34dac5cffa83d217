"""Values of the standard library and of well-known packages, recorded by what they say.

The packages are not imported, nor what is rare or slow to import of the standard library: a class is known by the
names of its bases.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta, timezone
from ipaddress import _BaseAddress, _BaseNetwork
from pathlib import PurePath
from typing import Any, Final

from otel_audit_exporter.event.json.shapes import Items, Members, Ready, Shape, StandIn, Text

Reader = Callable[[Any], Shape]

_NULL: Final = Ready(b"null")


def duration_text(value: timedelta) -> str:
    """Return a duration as ISO 8601 has it, such as `P1DT2H3M4.5S`; PostgreSQL's interval takes it."""
    sign, value = ("-", -value) if value.days < 0 else ("", value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06d}".rstrip("0") if value.microseconds else ""
    parts = [f"{hours}H" * bool(hours), f"{minutes}M" * bool(minutes), f"{seconds}{fraction}S"]
    if not (seconds or fraction):
        parts.pop()
    days, clock = f"{value.days}D" * bool(value.days), "".join(parts)
    return f"{sign}P{days}" + (f"T{clock}" if clock else "" if days else "T0S")


def named_reader(cls: type) -> Reader | None:
    """Return how a value of a package that need not be installed is read; None for any other class."""
    names = _names_of(cls)
    return next((reader for listed, reader in _BY_NAME if not names.isdisjoint(listed)), None)


def standard_reader(cls: type) -> Reader | None:
    """Return how a value of the standard library is read, or an identifier; None for any other class."""
    reader = next((reader for base, reader in _BY_CLASS if issubclass(cls, base)), None)
    is_printed = cls.__name__.lower() in _IDENTIFIERS or not _PRINTED.isdisjoint(_names_of(cls))
    return reader or (_printed if is_printed else None)


def _names_of(cls: type) -> set[str]:
    return {f"{base.__module__}.{base.__qualname__}" for base in cls.__mro__}


def _printed(value: object) -> Shape:
    return Text("".join((str(value),)))  # join: str() may return a subclass


def _path(value: Any) -> Shape:
    return StandIn(os.fspath(value))


def _pattern(value: re.Pattern[Any]) -> Shape:
    return StandIn(value.pattern)


def _duration(value: timedelta) -> Shape:
    return Text(duration_text(value))


def _view(value: Any) -> Shape:
    return Items(list(value))


def _nothing(value: object) -> Shape:
    return _NULL


def _numpy_scalar(value: Any) -> Shape:
    plain = value.item()
    return _printed(value) if type(plain) is type(value) else StandIn(plain)


def _listed(value: Any) -> Shape:
    return StandIn(value.tolist())


def _data_frame(value: Any) -> Shape:
    return StandIn(value.to_dict("records"))


def _named_row(value: Any) -> Shape:
    return Members(list(zip(value._fields, tuple(value), strict=False)))


# What is a UUID by another name: of uuid_utils, python-ulid, bson, ...
_IDENTIFIERS: Final = frozenset({"uuid", "ulid", "guid", "ksuid", "objectid"})
_PRINTED: Final = frozenset({"fractions.Fraction", "zoneinfo.ZoneInfo"})
_BY_CLASS: Final[tuple[tuple[Any, Reader], ...]] = (
    ((_BaseAddress, _BaseNetwork, complex, timezone), _printed),
    (timedelta, _duration),
    (PurePath, _path),
    (re.Pattern, _pattern),
    ((type({}.keys()), type({}.values()), type({}.items())), _view),
)
_BY_NAME: Final[tuple[tuple[frozenset[str], Reader], ...]] = (
    (frozenset({"sqlalchemy.engine.row.Row"}), _named_row),
    # Times of nanoseconds, of which item() makes a bare number.
    (frozenset({"numpy.datetime64", "numpy.timedelta64"}), _printed),
    (frozenset({"numpy.generic"}), _numpy_scalar),
    (frozenset({"numpy.ndarray", "pandas.core.series.Series", "pandas.core.indexes.base.Index"}), _listed),
    (frozenset({"pandas.core.frame.DataFrame"}), _data_frame),
    (frozenset({"pandas._libs.missing.NAType", "pandas._libs.tslibs.nattype.NaTType"}), _nothing),
    (frozenset({"pandas._libs.interval.Interval", "pandas._libs.tslibs.period._Period"}), _printed),
    (frozenset({"django.utils.functional.Promise", "django.db.models.fields.files.FieldFile"}), _printed),
    (frozenset({"babel.support.LazyProxy", "speaklater._LazyString", "flask_babel.speaklater.LazyString"}), _printed),
)
