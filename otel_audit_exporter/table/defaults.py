"""A column's default in the database: a constant, or something that is computed for each row."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

COMPUTED: Final = object()
"""Stands for a default that is not one value."""

_CAST: Final = re.compile(r"::[\w. \"]+(?:\([\d, ]+\))?(?P<array>\[\])*$")
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_ARRAY: Final = re.compile(r"""\{(?:[^{}",]+(?:,[^{}",]+)*)?\}""")


def constant_of(expression: str, type_: str) -> Any:
    """Return the constant that a default's SQL is, as JSON has it; `COMPUTED` where it is none."""
    text = expression.strip()
    while found := _CAST.search(text):
        text = text[: found.start()].strip()
        if text.startswith("(") and text.endswith(")"):
            text = text[1:-1].strip()
    if text.upper() == "NULL":
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _NUMBER.fullmatch(text):
        return orjson.loads(text)
    if len(text) > 1 and text[0] == text[-1] == "'" and "'" not in text[1:-1].replace("''", ""):
        return described_constant(text[1:-1].replace("''", "'"), type_)
    return COMPUTED


def described_constant(text: str, type_: str) -> Any:
    """Return the constant that the text of a value stands for in a column of this type."""
    base = type_.lower()
    try:
        if base.startswith("json"):
            return orjson.loads(text)
        if base.endswith("[]"):
            return [one.strip() for one in text[1:-1].split(",") if one] if _ARRAY.fullmatch(text) else COMPUTED
        if base in ("smallint", "integer", "bigint", "numeric", "real", "double precision"):
            return orjson.loads(text)
    except orjson.JSONDecodeError:
        return COMPUTED
    if base in ("boolean", "bool"):
        return {"t": True, "true": True, "f": False, "false": False}.get(text.lower(), COMPUTED)
    if base.startswith(("timestamp", "date", "time")) and text.lower() in ("now", "today"):
        return COMPUTED
    return text
