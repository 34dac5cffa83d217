"""Secrets inside text: under a key that the text names, or known by their form.

Text is not understood, it is searched: JSON that is cut short, a form, a query, a header, a DSN, the text of an
exception. What is found is replaced, and everything else stays the same.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from operator import itemgetter
from string import ascii_letters
from typing import Final
from urllib.parse import unquote_plus

from otel_audit_exporter.event.secret_keys import HAS_LEET, LEET, SecretNames, folded, last_letters

Hides = Callable[[str], bool]

REDACTED: Final = "[REDACTED]"

# --- is there anything to look for? -----------------------------------------------------------------------------------

# One character that a kind of secret must have is found far quicker than the kind itself: most texts have none of
# them, and of the others few pass the second look. What passes is looked through, so this may say yes too often.
_UNDERSCORE: Final = re.compile(
    r"_(?:(?<=[sr]k_)|(?<=gh[pousr]_)|(?<=pat_)|(?<=secret_)|(?<=sbp_)|(?<=npm_)|(?<=hf_)|(?<=v1_)|(?<=shp.._)"
    r"|(?<=whsec_)|(?<=sntry._))"
)
_HYPHEN: Final = re.compile(
    r"-(?:----BEGIN|-\w|(?<=sk-)|(?<=xox.-)|(?<=xapp-)|(?<=glpat-)|(?<=pypi-)|(?<=sq0...-)|(?<=AGE-SECRET-))"
)
_VAULT: Final = re.compile(r"hv[sb]\.")
_CAPITAL_B: Final = re.compile(r"B(?:earer|asic|EARER|ASIC)\s")
_CAPITAL_A: Final = re.compile(r"A(?:KIA|SIA|Iza)")
# Letters become small ones, what stands between a key and its value becomes one mark, and all else goes.
_MARKS: Final = b":="
_SMALL_LETTERS: Final = bytes(ord(":") if code in _MARKS else code for code in range(256)).lower()
_LAST_THREE: Final = itemgetter(slice(-3, None))
_NEITHER: Final = bytes(code for code in range(256) if not chr(code).isascii() or chr(code) not in ascii_letters + ":=")


def may_hold_secret(text: str, names: SecretNames) -> bool:
    """Say whether a text has anything that a secret in it would have; quick, and rarely true of plain words."""
    return (
        ((":" in text or "=" in text) and _may_name_secret(text, names))
        or ("-" in text and _HYPHEN.search(text) is not None)
        or ("_" in text and _UNDERSCORE.search(text) is not None)
        or ("J" in text and "eyJ" in text)
        or ("A" in text and _CAPITAL_A.search(text) is not None)
        or ("%5" in text)
        or (">" in text and "<" in text)
        or ("@" in text and ("://" in text or "(" in text))
        or ("," in text and (('"' in text and '",' in text) or ("'" in text and "'," in text)))
        or ('"' in text and 'name="' in text)
        or ("B" in text and _CAPITAL_B.search(text) is not None)
        or ("." in text and _may_hold_dotted(text))
    )


def _may_hold_dotted(text: str) -> bool:
    """Say whether a text has the beginning of a secret that has a dot in it."""
    return (
        ("G" in text and "SG." in text)
        or ("9" in text and "ya29." in text)
        or _VAULT.search(text) is not None
        or "hooks.slack" in text
    )


def _may_name_secret(text: str, names: SecretNames) -> bool:
    """Say whether anything before a colon or an equals sign ends as the name of a secret may."""
    if "" not in names.endings and not _may_end_as_name(text, names):
        return False
    if "\\u" in text or "%" in text or ")=(" in text:  # escaped letters, and several keys before one mark
        return True
    plain = folded(text)
    if names.any_may_end(_letters_before_marks(plain)):
        return True
    return HAS_LEET.search(plain) is not None and names.any_may_end(_letters_before_marks(plain.translate(LEET)))


def _may_end_as_name(text: str, names: SecretNames) -> bool:
    """Say whether the last letters before a mark are those of a secret's name."""
    if text.isascii():
        parts = _letters_and_marks(text).split(b":")
        return not names.ascii_endings.isdisjoint(map(_LAST_THREE, parts[:-1]))
    ends = list(map(last_letters, text.replace("=", ":").split(":")[:-1]))
    return not names.endings.isdisjoint([*ends, *(end[-2:] for end in ends)])


def _letters_and_marks(text: str) -> bytes:
    return text.encode().translate(_SMALL_LETTERS, _NEITHER)


def _letters_before_marks(text: str) -> list[str]:
    """Return the small letters before each colon or equals sign."""
    if text.isascii():
        return _letters_and_marks(text).decode().split(":")[:-1]
    return ["".join(filter(str.isalpha, part)) for part in text.lower().replace("=", ":").split(":")[:-1]]


# --- secrets that are known by their form -----------------------------------------------------------------------------

_FORMS: Final = re.compile(
    r"""
    (?P<pem>-----BEGIN\ [A-Z0-9 ]*PRIVATE\ KEY(?:\ BLOCK)?-----)[\s\S]*?(?:(?=-----END)|\Z)
  | \beyJ[\w\-]{8,}\.[\w\-]{8,}(?:\.[\w\-]*){1,3}                                            # JWT
  | (?<![\w\-])(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{8,}                                       # Stripe
  | (?<![\w\-])(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w\-]{16,})           # GitHub, GitLab
  | (?<![\w\-])(?:xox[a-z]-[\w\-]{10,}|xapp-[\w\-]{10,}|https://hooks\.slack\.com/services/\S{10,})
  | (?<![\w\-])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])                                         # AWS
  | (?<![\w\-])AIza[\w\-]{35}|(?<![\w\-])ya29\.[\w\-]{20,}                                   # Google
  | (?<![\w\-])(?:sb_secret_[\w\-]{8,}|sbp_[A-Za-z0-9]{20,})                                 # Supabase
  | (?<![\w\-])sk-(?:ant-|proj-|or-|svcacct-)?[\w\-]{20,}                                    # OpenAI, Anthropic
  | (?<![\w\-])SG\.[\w\-]{16,}\.[\w\-]{16,}                                                  # SendGrid
  | (?<![\w\-])(?:npm_[A-Za-z0-9]{30,}|pypi-[\w\-]{30,}|hf_[A-Za-z0-9]{20,}|dop_v1_[a-f0-9]{40,})
  | (?<![\w\-])(?:shp(?:at|ca|pa|ss)_[a-fA-F0-9]{20,}|whsec_[A-Za-z0-9+/=]{16,}|sq0[a-z]{3}-[\w\-]{20,})
  | (?<![\w\-])(?:hv[sb]\.[\w\-]{20,}|dckr_pat_[\w\-]{20,}|sntry[su]_[\w=\-]{20,}|AGE-SECRET-KEY-1[A-Z0-9]{20,})
    """,
    re.VERBOSE,
)
_SCHEME: Final = re.compile(r"""(?i)\b(bearer)(\s+)(?=[^\s"',;]*[0-9])([A-Za-z0-9._~+/\-]{12,}=*)""")
_BASIC: Final = re.compile(r"(?i)\b(basic\s+)([A-Za-z0-9+/]{6,}={0,2})")
_USER_INFO: Final = re.compile(
    r"""((?<![A-Za-z0-9+.\-])[A-Za-z][A-Za-z0-9+.\-]{1,40}://[^\s/:@?\#"'<>]{0,200}:)
    (?!\d{1,5}[/?\#])([^\s"'<>@]{1,300}(?:@[^\s"'<>@/]{1,300})*)(?=@[^\s/@"'])""",
    re.VERBOSE,
)
_GO_DSN: Final = re.compile(r"(?<![\w./\-])([\w.\-]{1,200}:)([^\s@/]{1,300})(?=@(?:tcp|unix)\()")


def _hide_forms(text: str) -> str:
    if "://" in text:
        text = _USER_INFO.sub(rf"\1{REDACTED}", text)
    if "@" in text:
        text = _GO_DSN.sub(rf"\1{REDACTED}", text)
    text = _FORMS.sub(lambda found: f"{found['pem'] or ''}{REDACTED}", text)
    text = _SCHEME.sub(rf"\1\2{REDACTED}", text)
    return _BASIC.sub(_basic, text)


def _basic(found: re.Match[str]) -> str:
    try:
        decoded = base64.b64decode(found[2] + "=" * (-len(found[2]) % 4), validate=True)
    except (binascii.Error, ValueError):
        return found[0]
    return f"{found[1]}{REDACTED}" if b":" in decoded else found[0]


# --- secrets under a key that the text names --------------------------------------------------------------------------

_KEYED: Final = re.compile(
    r"""
    # JSON, and what Python prints of a dict
    (?P<quote>(?<!\\)\\*["'])(?P<quoted>(?:\\u[0-9a-fA-F]{4}|[^"'\\\r\n]){1,200})(?P=quote)\s*(?:=>|[:=,])\s*
    # a part of a form
  | \bname=\\*"(?P<part>[^"\\\r\n]{1,100})\\*"
    (?:(?:\r\n|\n|\\r\\n)[^\r\n\\]+){0,5}(?:\r\n\r\n|\n\n|\\r\\n\\r\\n)
    # form and query text, DSNs, calls, settings
  | (?<![\w.\-\[\]%+$@])(?P<assigned>[\w.\-\[\]%+$@]{1,200})["']?\]?\s?(?:=>|:?=(?!=))\s?
    # headers, YAML
  | (?P<column>(?:^|(?<=\n)|(?<=\\n)|(?<=\\r)|(?<=[^\w\s]['"]))[ \t]*[\w.\-]{2,60})[ \t]*:[ \t]+(?=\S)
    # XML
  | <(?P<element>[\w.:\-]{2,60})(?:\s[^<>\r\n]*)?>(?=[^<\s])
    # a command line
  | (?<![\w\-])--(?P<option>[\w\-]{2,60})[ ](?=[^\s\-])
    # PostgreSQL's word on a key
  | \((?P<columns>[\w, "]{2,200})\)=(?=\()
    """,
    re.VERBOSE,
)
_QUOTED_VALUE: Final = re.compile(
    r"""[bBuUrR]?(?P<q>\\*["'])(?P<content>(?:(?!(?P=q))(?:\\.|[^\\])|\\(?!["']))*+)(?P=q)?""", re.DOTALL
)
_BARE_VALUE: Final = re.compile(r"[^&;,\s\"'<>(){}\[\]\\|]+")
_LINE: Final = re.compile(r"[^\r\n]+?(?=\\r|\\n|[\r\n]|['\"]?\s*$|['\"][,\]}])", re.M)
_WORD: Final = re.compile(r"\S+(?=[ \t]*(?:\r|\n|\\[rn]|$))")
_PAIR_START: Final = re.compile(r"[\[(,{]\s*[\[(]\s*[bBuU]?\Z")
_SCHEME_VALUE: Final = re.compile(r"(?i)(?:bearer|basic|digest|token)\s+\S+")
_BRACKETS_OR_STRING: Final = re.compile(r"""["'](?:\\.|[^"'\\])*+["']?|[\[\](){}]""", re.S)
_HEADERS: Final = frozenset({
    "authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-auth-token", "x-csrf-token",
    "x-xsrf-token", "x-amz-security-token", "api-key", "apikey",
})  # fmt: skip
_BRACKETS: Final = {"{": "}", "[": "]", "(": ")"}


def _hidden_spans(text: str, hides: Hides) -> Iterator[tuple[int, int]]:
    """Give where the values of secret keys start and end, from left to right."""
    at = 0
    while found := _KEYED.search(text, at):
        at = found.end()
        span = _span(text, found, hides)
        if span is None:
            at = max(found.start() + 1, _end_of_key(found))
            continue
        if span[0] < span[1]:
            yield span
        at = max(at, span[1])


def _end_of_key(found: re.Match[str]) -> int:
    """Return where to look further: what follows a key that is no secret may be a key itself."""
    return max(map(found.end, ("quoted", "part", "element", "assigned", "column", "option", "columns"))) + 1


def _span(text: str, found: re.Match[str], hides: Hides) -> tuple[int, int] | None:
    """Return where the value of the key that was found lies; None where it is no secret."""
    if (key := found["columns"]) is not None:
        return _bracketed(text, found.end()) if any(map(hides, key.split(","))) else None
    if (key := found["column"]) is not None:
        return _rest_of_line(text, found.end(), key.strip()) if hides(key.strip()) else None
    if (key := found["quoted"]) is not None:
        if "," in text[found.end("quoted") : found.end()] and not _is_pair(text, found):
            return None
        return _value(text, found.end()) if hides(_unescaped(key)) else None
    if (key := found["element"]) is not None:
        return (found.end(), _end_of(text, found.end(), "<")) if hides(key.rpartition(":")[2]) else None
    if (key := found["part"]) is not None:
        return (found.end(), _end_of(text, found.end(), "\r\n", "\n", "\\r\\n")) if hides(key) else None
    key = found["assigned"] or found["option"] or ""
    return _value(text, found.end()) if hides(unquote_plus(key)) else None


def _is_pair(text: str, found: re.Match[str]) -> bool:
    """Distinguish a pair in a list of pairs, ("password", "hunter2"), from any two strings in a row."""
    return _PAIR_START.search(text, max(0, found.start() - 20), found.start()) is not None


def _unescaped(key: str) -> str:
    if "\\" not in key:
        return key
    try:
        return str(json.loads(f'"{key}"'))
    except ValueError:
        return key


def _value(text: str, start: int) -> tuple[int, int]:
    opener = text[start : start + 1]
    if opener in _BRACKETS and opener:
        return _bracketed(text, start)
    if quoted := _QUOTED_VALUE.match(text, start):
        return quoted.span("content")
    if scheme := _SCHEME_VALUE.match(text, start):
        return scheme.span()
    bare = _BARE_VALUE.match(text, start)
    if bare is None or bare[0] in ("null", "None", "undefined", REDACTED):
        return start, start
    return bare.span()


def _bracketed(text: str, start: int) -> tuple[int, int]:
    """Return where a bracket opens and closes, at the end of the text where it does not; strings are skipped."""
    depth, at = 0, start
    for mark in _BRACKETS_OR_STRING.finditer(text, start):
        at = mark.end()
        if mark[0] in _BRACKETS:
            depth += 1
        elif mark[0] in _BRACKETS.values():
            depth -= 1
            if depth == 0:
                return start, at
    return start, len(text)


def _rest_of_line(text: str, start: int, key: str) -> tuple[int, int] | None:
    """Return the value of a header, which is all of the line, or of another key, where it is one word."""
    if text[start : start + 1] in ('"', "'"):
        return _value(text, start)
    found = (_LINE if key.lower() in _HEADERS else _WORD).match(text, start)
    return None if found is None else found.span()


def _end_of(text: str, start: int, *ends: str) -> int:
    return min((at for end in ends if (at := text.find(end, start)) >= 0), default=len(text))


def hide_in_text(text: str, hides: Hides) -> str:
    """Return a text without the secrets in it; the text itself where there are none."""
    parts, at = [], 0
    for start, end in _hidden_spans(text, hides):
        if start >= at:
            parts += [text[at:start], REDACTED]
            at = end
    result = _hide_forms("".join([*parts, text[at:]]) if parts else text)
    return text if result == text else result
