"""Sources: what a column takes of an event, which is a field or a path into one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from otel_audit_exporter.event.fields import DEFAULT_COLUMNS, FIELD_ALIASES, FIELDS, JSON_FIELDS

_PATH: Final = re.compile(r'(?P<field>[A-Za-z_]+)(?P<keys>(?:\.(?:"[^"]*"|[^".]+))*)')
_KEY: Final = re.compile(r'\.(?:"(?P<quoted>[^"]*)"|(?P<bare>[^".]+))')

# The names by which a source may call a field.
_FIELD_NAMES: Final[Mapping[str, str]] = {
    **DEFAULT_COLUMNS,
    **FIELD_ALIASES,
    **{name: name for name in FIELDS},
}


class Source(NamedTuple):
    """A field, or with ``keys`` one value inside it."""

    field: str
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ".".join((self.field, *(f'"{key}"' if _must_be_quoted(key) else key for key in self.keys)))

    def find(self, document: Any) -> Any:
        """Return the value at the path in the field's document; None where there is none."""
        for key in self.keys:
            if not isinstance(document, Mapping):
                return None
            document = document.get(key)
        return document


def parse_source(text: str) -> Source:
    """Read a source: ``user_id``, ``created_by`` (a default column's name), ``metadata.severity``, ``metadata."b.c"``.

    Raises ``ValueError`` that says what is wrong and what is allowed.
    """
    match = _PATH.fullmatch(text.strip())
    field = _FIELD_NAMES.get(match["field"]) if match else None
    if match is None or field is None:
        raise ValueError(f"no field is called {text}; fields are {', '.join(FIELDS)}")
    keys = tuple(key["bare"] if key["quoted"] is None else key["quoted"] for key in _KEY.finditer(match["keys"]))
    if keys and field not in JSON_FIELDS:
        documents = ", ".join(name for name in FIELDS if name in JSON_FIELDS)
        raise ValueError(f"{text}: only {documents} hold documents, so only into these a path can lead")
    return Source(field, keys)


def _must_be_quoted(key: str) -> bool:
    return not key or "." in key
