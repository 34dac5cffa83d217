"""Folding: how fields that no column takes are kept in a document, and how they are read back.

Folded fields stand under ``_audit`` of the document. A document that is no object, or that a reader could take for a
folded one, stands under ``value`` beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.event.fields import FIELDS, USUAL
from otel_audit_exporter.event.invalid_event import CORRECTED

AUDIT_KEY: Final = "_audit"
VALUE_KEY: Final = "value"
METADATA_KEY: Final = "metadata"
_FOLD_INTO: Final = ("new_values", "metadata", "old_values")
_NULL: Final = b"null"
_MENTIONS_AUDIT: Final = b'"_audit":'
_FOLDABLE: Final = frozenset(FIELDS) | {CORRECTED}


def fold_target(taken: Collection[str]) -> str | None:
    """Return the field into which others are folded, of those that columns take."""
    return next((name for name in _FOLD_INTO if name in taken), None)


def fold(document: bytes, folded: Mapping[str, bytes]) -> bytes:
    """Return the JSON ``document`` with the JSON of these fields under ``_audit``."""
    kept = orjson.dumps({name: orjson.Fragment(value) for name, value in folded.items()})
    if document == _NULL:
        return b'{"_audit":' + kept + b"}"
    if not document.startswith(b"{") or _must_be_wrapped(document):
        return b'{"value":' + document + b',"_audit":' + kept + b"}"
    return merged(document, b'{"_audit":' + kept + b"}")


def may_pass_for_folded(document: bytes) -> bool:
    """Return whether a reader would take the caller's own document for one with folded fields."""
    return _MENTIONS_AUDIT in document and _unfolded(loads_exact(document)) is not None


def mentions_audit(text: bytes) -> bool:
    """Return whether :func:`may_pass_for_folded` has to be asked of a document in this text."""
    return _MENTIONS_AUDIT in text


def unfold(document: Any, fields: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the document without what was folded into it, and the folded fields.

    ``fields``: what the columns hold. Where a column holds another value than a folded field, ``_audit`` is the
    caller's own. A column that the table got later holds the usual value, and the folded one counts.
    """
    unfolded = _unfolded(document)
    if unfolded is None or any(fields.get(name) not in (None, USUAL.get(name)) for name in unfolded[1]):
        return document, {}
    rest, folded = unfolded
    if CORRECTED not in folded:
        return unfolded
    # Who has corrected an event is no field: it stays in the document, for everybody who reads it.
    kept = {AUDIT_KEY: {CORRECTED: folded[CORRECTED]}}
    rest = {**({} if rest is None else rest if isinstance(rest, dict) else {VALUE_KEY: rest}), **kept}
    return rest, {name: value for name, value in folded.items() if name != CORRECTED}


def gather(metadata: bytes, parts: Mapping[str, bytes], names: Collection[str]) -> bytes:
    """Return metadata with these parts as its first members; ``names``: all parts that it may get.

    A caller's document that has one of these names itself stands under ``metadata``, so that nothing is lost and
    what the caller wrote passes for no part.
    """
    if _says_any(metadata, (METADATA_KEY, *names)):
        metadata = b'{"metadata":' + metadata + b"}"
    return merged(orjson.dumps({name: orjson.Fragment(part) for name, part in parts.items()}), metadata)


def scatter(metadata: Any, names: Collection[str]) -> tuple[Any, dict[str, Any]]:
    """Return metadata without the parts that were gathered in it, and these parts."""
    if not isinstance(metadata, dict):
        return metadata, {}
    parts = {name: value for name, value in metadata.items() if name in names and isinstance(value, str | int)}
    if not parts:
        return metadata, {}
    rest = {name: value for name, value in metadata.items() if name not in parts}
    return (rest[METADATA_KEY] if list(rest) == [METADATA_KEY] else rest or None), parts


def merged(document: bytes, more: bytes) -> bytes:
    """Return the object ``document`` with the members of the object ``more`` after its own."""
    if document in (_NULL, b"{}"):
        return more
    if more in (_NULL, b"{}"):
        return document
    return document[:-1] + b"," + more[1:]


def _must_be_wrapped(document: bytes) -> bool:
    if _MENTIONS_AUDIT not in document and not document.startswith(b'{"value":'):
        return False
    value = loads_exact(document)
    return AUDIT_KEY in value or list(value) == [VALUE_KEY]


def _unfolded(document: Any) -> tuple[Any, dict[str, Any]] | None:
    folded = document.get(AUDIT_KEY) if isinstance(document, dict) else None
    if not isinstance(folded, dict) or folded.keys() - _FOLDABLE:
        return None
    rest = {name: value for name, value in document.items() if name != AUDIT_KEY}
    if not folded and list(rest) != [VALUE_KEY]:
        return None
    return (rest[VALUE_KEY] if list(rest) == [VALUE_KEY] else rest or None), folded


def _says_any(metadata: bytes, names: Collection[str]) -> bool:
    mentioned = [name for name in names if b'"%b":' % name.encode() in metadata]
    return bool(mentioned) and not loads_exact(metadata).keys().isdisjoint(mentioned)
