"""Any value to JSON, without recursion: the way for all values that the quick encoder does not take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation

from otel_audit_exporter.event.json.parser import JSON_OPENERS, NOT_JSON, JsonNumber, JsonObject, parse_json
from otel_audit_exporter.event.json.shapes import UNPRINTABLE, Binary, Items, Members, Ready, Shape, StandIn, Text
from otel_audit_exporter.event.json.strings import json_string, visible
from otel_audit_exporter.event.json.types import base64_object, key_text, shape_of
from otel_audit_exporter.event.redaction import REDACTED, Redactor

_CYCLE = b'"<cycle>"'
_REDACTED = json_string(REDACTED)
_HIDDEN = object()  # stands for a value that a pair or a named tuple marks as secret
_STAND_INS = 16  # an enum of an enum of ...: more than anyone means

# What is written before a value, the key that it stands under (None in an array), and the value.
_Child = tuple[bytes, str | None, object]


class _Level:
    """A container that is being written."""

    __slots__ = ("asks", "children", "closing", "depth", "sources", "starts")

    def __init__(self, sources: list[object], asks: bool, depth: int) -> None:
        self.sources = sources  # kept alive, so that no other object gets their ids
        self.asks = asks
        self.depth = depth
        self.children: Iterator[_Child] = iter(())
        self.closing = b"]"
        self.starts: list[int] | None = None  # of a set: where each element's parts start


class ValueWalk:
    """Writes one value as JSON; `run` once.

    `changed` says afterwards whether anything was redacted.
    """

    def __init__(
        self,
        redactor: Redactor,
        max_value_bytes: int | None,
        path: Iterable[str] = (),
        *,
        members: bool = True,
    ) -> None:
        self.changed = False
        self._members = members
        self._redactor = redactor
        self._asks = redactor.hook is not None
        self._searches = redactor.enabled or self._asks
        self._limit = max_value_bytes
        self._path = list(path)
        self._parts: list[bytes] = []
        self._levels: list[_Level] = []
        self._on_the_way: set[int] = set()

    def run(self, value: object) -> bytes:
        """Return the JSON of the value."""
        self._put(value, self._asks)
        while self._levels:
            level = self._levels[-1]
            child = next(level.children, None)
            if child is None:
                self._close()
            else:
                self._put_child(level, child)
        return b"".join(self._parts)

    def _put_child(self, level: _Level, child: _Child) -> None:
        before, key, value = child
        if level.starts is not None:
            level.starts.append(len(self._parts))
        self._parts.append(before)
        del self._path[level.depth :]
        if key is None:
            self._put(value, level.asks)
            return
        self._path.append(key)
        if value is not None and self._redactor.hides(key):
            self.changed = True
            self._parts.append(_REDACTED)
        else:
            self._put(value, level.asks)

    def _put(self, value: object, asks: bool) -> None:
        if value is _HIDDEN:
            self.changed = True
            self._parts.append(_REDACTED)
            return
        if asks:
            value, asks = self._ask_hook(value)
        if type(value) is str:  # nearly always, so without a detour
            self._parts.append(self._string(value, asks))
            return
        sources = [value]
        shape = shape_of(value, members=self._members)
        while isinstance(shape, StandIn) and len(sources) <= _STAND_INS:
            sources.append(shape.value)
            shape = shape_of(shape.value, members=self._members)
        if isinstance(shape, (Members, Items)):
            self._open(shape, sources, asks)
        else:
            self._parts.append(self._leaf(shape, asks))

    def _leaf(self, shape: Shape, asks: bool) -> bytes:
        match shape:
            case Text(text):
                return self._string(text, asks)
            case Binary(data):
                data = self._bytes(data, asks)
                kept = data if self._limit is None else data[: self._limit]
                return base64_object(kept, cut=len(data) - len(kept))
            case Ready(json):
                return json
        return UNPRINTABLE.json

    def _string(self, text: str, asks: bool) -> bytes:
        if self._searches:
            text = self._without_secrets(text, asks)
        return json_string(text if self._limit is None else _cut(text, self._limit))

    def _bytes(self, data: bytes, asks: bool) -> bytes:
        """Redact inside bytes that are text."""
        if not self._searches:
            return data
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return data
        shown = self._without_secrets(text, asks)
        return data if shown is text else shown.encode(errors="surrogatepass")

    def _without_secrets(self, text: str, asks: bool) -> str:
        if text[:1] in JSON_OPENERS:
            inside = self._parsed(text, asks)
            if inside is not NOT_JSON:
                return self._search(text, inside, asks)
        shown = self._redactor.text(text)
        self.changed |= shown is not text
        return shown

    def _open(self, shape: Members | Items, sources: list[object], asks: bool) -> None:
        ids = {id(source) for source in sources}
        if not ids.isdisjoint(self._on_the_way):
            self._parts.append(_CYCLE)
            return
        self._on_the_way |= ids
        self._hide_pairs(shape, type(sources[-1]))
        level = _Level(sources, asks, len(self._path))
        if isinstance(shape, Members):
            level.children, level.closing = _members(shape), b"}"
            self._parts.append(b"{")
        else:
            level.children = _items(shape)
            level.starts = [] if shape.unordered else None
            self._parts.append(b"[")
        self._levels.append(level)

    def _hide_pairs(self, shape: Members | Items, cls: type) -> None:
        """Hide what stands beside the name of a secret, not under it."""
        redactor = self._redactor
        if isinstance(shape, Members):
            if redactor.enabled and redactor.names_secret(shape.pairs):
                shape.pairs[:] = [(key, self._hidden(key, value)) for key, value in shape.pairs]
            return
        values, names, hidden = shape.values, getattr(cls, "_fields", None), list[int]()
        if isinstance(names, tuple):
            hidden = [index for index, name in enumerate(names[: len(values)]) if redactor.is_secret_name(name)]
        in_array = bool(self._levels) and self._levels[-1].closing == b"]"
        if in_array and len(values) == 2 and redactor.is_secret_name(values[0]):
            hidden.append(1)
        for index in hidden:
            values[index] = _HIDDEN if values[index] is not None else None

    def _hidden(self, key: object, value: object) -> object:
        return _HIDDEN if value is not None and self._redactor.holds_pair_value(key_text(key)) else value

    def _close(self) -> None:
        level = self._levels.pop()
        if level.starts:
            self._sort(level.starts)
        self._parts.append(level.closing)
        self._on_the_way.difference_update(map(id, level.sources))

    def _sort(self, starts: list[int]) -> None:
        """Put the elements of a set in the order of their text, so that equal sets read the same."""
        ends = [*starts[1:], len(self._parts)]
        elements = [b"".join(self._parts[start:end]) for start, end in zip(starts, ends, strict=True)]
        del self._parts[starts[0] :]
        elements.sort(key=_text_order)
        self._parts.append(b",".join(elements))

    def _ask_hook(self, value: object) -> tuple[object, bool]:
        """Return what the hook wants recorded, and whether to ask about what is inside that too."""
        shown = _as_shown(value)
        answer = self._redactor.ask_hook(tuple(self._path), shown)
        if answer is shown:
            return value, True
        self.changed = True
        return answer, False

    def _parsed(self, text: str, asks: bool) -> object:
        """Return what a text is as JSON; `NOT_JSON` also where nothing in it can be a secret."""
        return parse_json(text, lenient=True) if asks or '"' in text else NOT_JSON

    def _search(self, text: str, inside: object, asks: bool) -> str:
        """Redact inside a text whose JSON has been read; where nothing is hidden it comes back as it is."""
        if not asks and not self._may_hide(inside):
            return text
        walk = ValueWalk(self._redactor, self._limit, self._path)
        walk._asks = asks
        written = walk.run(inside)
        self.changed |= walk.changed
        return written.decode() if walk.changed else text

    def _may_hide(self, inside: object) -> bool:
        """Say whether what came out of a text has anything to redact, or to look into; far quicker than a walk."""
        rest = [inside]
        while rest:
            value = rest.pop()
            if isinstance(value, dict):
                if not self._redactor.clears(value):
                    return True
                rest.extend(value.values())
            elif isinstance(value, JsonObject):
                return True
            elif isinstance(value, str):
                if value[:1] in JSON_OPENERS or self._redactor.text(value) is not value:
                    return True
            elif isinstance(value, list):
                if len(value) == 2 and self._redactor.is_secret_name(value[0]):
                    return True
                rest.extend(value)
        return False


def _cut(text: str, max_bytes: int) -> str:
    data = visible(text).encode()
    if len(data) <= max_bytes:
        return text
    kept = data[:max_bytes].decode(errors="ignore")
    return f"{kept}[{len(data) - len(kept.encode())} bytes cut]"


def _items(shape: Items) -> Iterator[_Child]:
    between = b"" if shape.unordered else b","
    for index, value in enumerate(shape.values):
        yield between if index else b"", None, value


def _members(shape: Members) -> Iterator[_Child]:
    keys = [key_text(key) for key, _ in shape.pairs]
    names = [json_string(key) for key in keys]
    if not shape.verbatim and len(set(names)) < len(names):
        names = _numbered(keys)
    between = b""
    for key, name, (_, value) in zip(keys, names, shape.pairs, strict=True):
        yield b"%b%b:" % (between, name), key, value
        between = b","


def _numbered(keys: list[str]) -> list[bytes]:
    """Rename different keys that have one text, such as 1 and "1", to "1" and "1 #2": jsonb would keep only one."""
    names = {json_string(key) for key in keys}
    taken: set[bytes] = set()
    result = []
    for key in keys:
        name, count = json_string(key), 1
        while name in taken or (count > 1 and name in names):
            count += 1
            name = json_string(f"{key} #{count}")
        taken.add(name)
        result.append(name)
    return result


def _text_order(element: bytes) -> tuple[bytes, bytes]:
    return (element[1:-1] if element.startswith(b'"') else element), element


def _as_shown(value: object) -> object:
    """Return what a hook is to see of the values that only JSON text has."""
    if isinstance(value, JsonNumber):
        try:
            return Decimal(value.text)
        except InvalidOperation:  # an exponent beyond even that
            return value.text
    return dict(value) if isinstance(value, JsonObject) else value
