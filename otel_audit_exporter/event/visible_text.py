"""Text that is shown and not obeyed: what steers a terminal, a browser or a spreadsheet becomes visible."""

from __future__ import annotations

import re
from typing import Any, Final

_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_FORMULA: Final = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the full-width ones, too


def shown(text: str, keep: str = "") -> str:
    """Return text in which every character that cannot be seen is escaped, but for those in ``keep``.

    That are control characters, bidirectional controls, zero-width characters, tags, separators, and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def shown_on_a_line(text: str) -> str:
    """Return text on one line, with nothing in it that cannot be seen."""
    return shown(text.replace("\n", "\\n").replace("\t", "\\t"))


def shown_in_json(text: str) -> str:
    """Return the same JSON in which every character that cannot be seen is escaped, as JSON escapes it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _json_escape(char) for char in text)


def csv_cell(text: str, *, said_as_text: bool = True) -> str:
    """Return a cell that no spreadsheet takes for a formula, on one line."""
    line = shown_on_a_line(text)
    return f"'{line}" if said_as_text and line.startswith(_FORMULA) and not _NUMBER.fullmatch(line) else line


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "replace").decode()


def _json_escape(char: Any) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
