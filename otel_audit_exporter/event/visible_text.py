"""Text on one line, and in a cell of CSV, that is shown and not obeyed."""

from __future__ import annotations

import re
from typing import Final

from otel_audit_exporter.runtime.visible import visible

_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_FORMULA: Final = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the full-width ones, too


def shown_on_a_line(text: str) -> str:
    """Return text on one line, with nothing in it that cannot be seen."""
    return visible(text.replace("\n", "\\n").replace("\t", "\\t"))


def csv_cell(text: str, *, said_as_text: bool = True) -> str:
    """Return a cell that no spreadsheet takes for a formula, on one line."""
    line = shown_on_a_line(text)
    return f"'{line}" if said_as_text and line.startswith(_FORMULA) and not _NUMBER.fullmatch(line) else line
