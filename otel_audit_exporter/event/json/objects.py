"""Objects of applications and of their ORMs, recorded by their columns or members, without loading anything.

What an ORM has not loaded is not asked for: reading it would run a query in the caller's thread, inside his
transaction. Its place is taken by `NOT_LOADED`, so that nobody takes it for a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from otel_audit_exporter.event.json.shapes import Members, Shape
from otel_audit_exporter.runtime.log import logger

NOT_LOADED: Final = "<not loaded>"
_CLASSES_REMEMBERED: Final = 1000
_told: set[type] = set()

Reader = Callable[[Any], Shape]


def database_object_reader(cls: type) -> Reader | None:
    """Return how an object of SQLAlchemy or Django is read; None for any other class."""
    if hasattr(getattr(cls, "__mapper__", None), "column_attrs"):
        return _sqlalchemy_object
    if hasattr(getattr(cls, "_meta", None), "concrete_fields"):
        return _django_object
    return None


def warn_once(cls: type, message: str) -> None:
    """Log a warning about a class, once in the life of the process."""
    if cls in _told:
        return
    if len(_told) >= _CLASSES_REMEMBERED:
        _told.clear()
    _told.add(cls)
    logger.warning("%s.%s: %s", cls.__module__, cls.__qualname__, message)


def plain_members(value: object, is_plain: Callable[[object], bool]) -> list[tuple[object, object]] | None:
    """Return the public members of an object that keeps nothing but plain values; None for any other object.

    Properties are not read, because they may do anything. An object that has every attribute gives None, too.
    """
    if hasattr(type(value), "__getattr__"):
        return None
    pairs = list(_own_members(value))
    if not pairs or not all(is_plain(member) for _, member in pairs):
        return None
    return pairs


def _own_members(value: object) -> Iterator[tuple[object, object]]:
    for name in _slots(type(value)):
        try:
            yield name, object.__getattribute__(value, name)
        except AttributeError:  # never filled
            continue
    own = getattr(value, "__dict__", None)
    if type(own) is dict:
        yield from ((name, member) for name, member in list(own.items()) if not str(name).startswith("_"))


def _slots(cls: type) -> Iterator[str]:
    for base in reversed(cls.__mro__):
        slots = base.__dict__.get("__slots__", ())
        yield from (name for name in ((slots,) if isinstance(slots, str) else slots) if not name.startswith("_"))


def _sqlalchemy_object(value: Any) -> Shape:
    mapper = type(value).__mapper__
    loaded, state = value.__dict__, value._sa_instance_state
    known = _sqlalchemy_key(mapper, state)
    stored = state.key is not None  # else what is not there was never given
    pairs: list[tuple[object, object]] = []
    for attribute in mapper.column_attrs:
        name = attribute.key
        if name in loaded:
            pairs.append((name, loaded[name]))
        elif stored:
            pairs.append((name, known.get(name, NOT_LOADED)))
    return _members(value, pairs)


def _sqlalchemy_key(mapper: Any, state: Any) -> dict[str, object]:
    """Return the values of the primary key, which are known even where all else has expired."""
    if state.key is None:
        return {}
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    return dict(zip(names, state.key[1], strict=False))


def _django_object(value: Any) -> Shape:
    loaded = value.__dict__
    names = [field.attname for field in type(value)._meta.concrete_fields]
    return _members(value, [(name, loaded.get(name, NOT_LOADED)) for name in names])


def _members(value: object, pairs: list[tuple[object, object]]) -> Shape:
    missing = [str(name) for name, member in pairs if member is NOT_LOADED]
    if missing:
        warn_once(
            type(value),
            f"{', '.join(missing)} were not loaded when an audit event was written, and are recorded as "
            f'"{NOT_LOADED}": refresh the object before (SQLAlchemy expires it at each commit), or name the values',
        )
    return Members(pairs)
