"""JSON strings that PostgreSQL takes: what it cannot store is made visible instead."""

from __future__ import annotations

import re

import orjson

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_NUL_ESCAPE = b"\\u0000"
_BACKSLASH = 92


def json_string(text: str) -> bytes:
    """Return a JSON string; NUL and lone surrogates become the visible text `\\u0000`, `\\udXXX`."""
    try:
        written = orjson.dumps(text)
    except orjson.JSONEncodeError:
        return orjson.dumps(visible(text))
    return orjson.dumps(visible(text)) if may_hold_nul(written) else written


def visible(text: str) -> str:
    """Return the text with each NUL and lone surrogate as six characters that can be read and stored."""
    return _UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def may_hold_nul(written: bytes) -> bool:
    """Say whether JSON that orjson wrote may have a NUL in a string; quick where it has no escapes at all."""
    return _BACKSLASH in written and _NUL_ESCAPE in written
