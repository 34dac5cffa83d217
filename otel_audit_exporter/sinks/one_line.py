"""A server's message as one line of a log: no control character in it can forge another line."""

from __future__ import annotations

import re
from typing import Final

_SPACES: Final = re.compile(r"\s+")
_CODE_CHARACTERS: Final = 64


def one_line(text: str) -> str:
    """Return text with a space for each run of white space, and visible escapes for what cannot be seen."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in _SPACES.sub(" ", text.strip()))


def short_code(code: str) -> str:
    """Return an error code as one short line: codes are short, and what is not comes from somebody else."""
    line = one_line(code)
    return line if len(line) <= _CODE_CHARACTERS else f"{line[:_CODE_CHARACTERS]}..."


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
