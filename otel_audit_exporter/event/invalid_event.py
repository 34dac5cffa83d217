"""An invalid event, as it is kept until somebody corrects it.

Its bytes are those of an event, each field as the encoder writes it. After the fields comes an object with the rest:
the reasons by field, arguments that no event has, and the fields that the caller gave as "nobody".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import FIELDS, INDEX
from otel_audit_exporter.event.identity import NOBODY
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.serialization import assemble_with, more_of, split

REASONS: Final = "reasons"
NOBODY_IN: Final = "nobody"
CORRECTED: Final = "corrected"
UNKNOWN: Final = "unknown"
_NULL: Final = b"null"


def invalid_body(
    given: Mapping[str, Any], fragments: list[bytes], problems: Mapping[str, str], encoder: Encoder
) -> bytes:
    """Return the bytes of a wrong event: ``fragments`` where they are right, else what was given, redacted."""
    for name in FIELDS:
        value = given.get(name)
        if value is not None and (name in problems or fragments[INDEX[name]] == _NULL):
            fragments[INDEX[name]] = _NULL if value is NOBODY else encoder.value(value)
    more: dict[str, Any] = {REASONS: dict(problems)}
    more[NOBODY_IN] = [name for name in FIELDS if given.get(name) is NOBODY]
    unknown = encoder.value({name: value for name, value in given.items() if name not in INDEX})
    return assemble_with(fragments, b'%b,"%b":%b}' % (json.dumps(more).encode()[:-1], UNKNOWN.encode(), unknown))


def reasons_of(body: bytes) -> dict[str, str]:
    """Return what is wrong with each field of an invalid event; nothing where its bytes cannot be read."""
    return dict(more_in(body).get(REASONS, {}))


def kind_of(problems: Iterable[str]) -> tuple[str, ...]:
    """Return what is wrong in general: the fields, and whether there are arguments that no event has."""
    return tuple(sorted({name if name in INDEX else UNKNOWN for name in problems}))


def unknown_of(body: bytes) -> dict[str, Any]:
    """Return the arguments that no event has."""
    found = more_in(body).get(UNKNOWN)
    return found if isinstance(found, dict) else {}


def more_in(body: bytes) -> dict[str, Any]:
    """Return what an event's bytes hold beside its fields."""
    more = more_of(split(body))
    found = None if more is None else loads_exact(more)
    return found if isinstance(found, dict) else {}


def correction_of(fragments: list[bytes]) -> bytes | None:
    """Return the JSON of who has corrected an event, taken from its fragments; None where nobody has."""
    more = more_of(fragments)
    if more is None:
        return None
    del fragments[len(FIELDS) :]
    found = loads_exact(more)
    entries = found.get(CORRECTED) if isinstance(found, dict) else None
    return None if entries is None else json.dumps(entries).encode()
