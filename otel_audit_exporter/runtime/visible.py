"""Text that shows what it holds: nothing in it steers a terminal or a browser, or hides from the eye."""

from __future__ import annotations

import re
from typing import Final

# C0 but for line ends and tabs, DEL and C1, zero-width characters and joiners, bidirectional controls, other invisible
# formats, lone surrogates, and the tags of U+E0000 to U+E007F.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """Return the text with what cannot be seen written as ``\\u202e``, and so on."""
    return _UNSEEN.sub(lambda found: _escaped(ord(found[0])), text)


def visible_json(document: str) -> str:
    """Return an equal JSON document without invisible characters."""
    return _UNSEEN.sub(lambda found: _json_escaped(ord(found[0])), document)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escaped(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
