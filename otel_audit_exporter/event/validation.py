"""Validation: what a pipeline asks of an event, and how the event becomes bytes at the call."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import blake2b
from typing import Any, Final, Literal

import uuid_utils
from opentelemetry.trace import get_current_span

from otel_audit_exporter.errors import AuditEventError
from otel_audit_exporter.event.encoded_event import EncodedEvent
from otel_audit_exporter.event.fields import ACTOR_TYPES, FIELDS, INDEX, OUTCOMES
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.serialization import UNSAID_JSON, assemble
from otel_audit_exporter.runtime.fork_safety import call_in_child

call_in_child(uuid_utils.reseed_rng)  # a child must not draw the ids that its parent draws

Ids = Literal["uuid", "text"]

_NULL: Final = b"null"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_IDEMPOTENCY_NAMESPACE: Final = uuid.UUID("6f0a3b52-7a3c-5c0e-9c39-1d5b8f0e2a77")
_canonical_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_hexadecimal = re.compile(r"[0-9a-f]*").fullmatch

REQUIRED_BY_DEFAULT: Final = frozenset({"action", "entity_type", "entity_id", "yacht_id", "user_id"})
_ARGUMENTS: Final = frozenset(FIELDS) | {"idempotency_key"}


class EventValidator:
    """What one pipeline asks of its events, and how it encodes them.

    ``required``: the fields that a caller must give (``user_id`` only where ``actor_type`` is ``"user"``).
    ``refused``: fields that no column takes and that the settings do not let be folded or dropped.
    """

    def __init__(
        self,
        *,
        ids: Ids = "uuid",
        encoder: Encoder | None = None,
        required: Iterable[str] = REQUIRED_BY_DEFAULT,
        refused: Iterable[str] = (),
    ) -> None:
        self._encoder = encoder or Encoder()
        self._plain = Encoder()
        self._required = frozenset(required) | {"action"}
        self._refused = frozenset(refused)
        self._id: Callable[[object], bytes] = _uuid_fragment if ids == "uuid" else self._text_id

    @property
    def encoder(self) -> Encoder:
        """What turns values into JSON, redacted."""
        return self._encoder

    def compose(self, said: Mapping[str, Any]) -> EncodedEvent:
        """Check ``said`` (argument name to value) and freeze it into bytes.

        Raises :class:`AuditEventError` with every wrong field. Values are encoded here and now: a later
        change of the caller's objects changes nothing.
        """
        problems: dict[str, str] = {}
        fragments = [_NULL] * len(FIELDS)
        self._put_names(said, fragments, problems)
        self._put_choices(said, fragments, problems)
        self._put_ids(said, fragments, problems)
        self._put_values(said, fragments, problems)
        span = get_current_span().get_span_context()
        if span.is_valid:
            fragments[17] = b'"%032x"' % span.trace_id
            fragments[18] = b'"%016x"' % span.span_id
        if not _USUAL.issuperset(said):
            self._put_surroundings(said, fragments, problems)
        timestamp_ns, fragments[6] = _timestamp(said.get("timestamp"), problems)
        record_id = _record_id(said, fragments[1], problems)
        if self._refused:
            self._refuse_unmapped(fragments, problems)
        if problems:
            raise AuditEventError(problems)
        fragments[0] = b'"%b"' % record_id.encode()
        action = _plain_text(said["action"])
        return EncodedEvent(
            record_id,
            assemble(fragments),
            action,
            said.get("event_name") or f"{_plain_text(said.get('entity_type', 'audit'))}.{action}",
            timestamp_ns,
            span,
            _digest(fragments) if "idempotency_key" in said or "record_id" in said else None,
        )

    def _put_names(self, said: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        for name, position in _NAMES:
            value = said.get(name)
            if value is None:
                if name in self._required:
                    problems[name] = "is missing"
                continue
            if isinstance(value, Enum):
                value = value.value
            if not isinstance(value, str):
                problems[name] = f"must be a string, not {_kind(value)}"
            elif not value or value.isspace():
                problems[name] = "is empty"
            else:
                fragments[position] = self._plain.text(value)

    def _put_ids(self, said: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        for name, position in _IDS:
            value = said.get(name)
            if value is None:
                by_user = name != "user_id" or fragments[10] == UNSAID_JSON["actor_type"]
                if name in self._required and by_user:
                    problems[name] = "is missing"
                continue
            try:
                fragments[position] = self._id(value)
            except ValueError as error:
                problems[name] = str(error)

    def _put_choices(self, said: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        for name, position, choices, default in _CHOICES:
            value = said.get(name, default)
            try:
                fragments[position] = choices[value]
            except (KeyError, TypeError):
                if isinstance(value, Enum) and (chosen := choices.get(str(value.value))):
                    fragments[position] = chosen
                    continue
                shown = repr(value)[:40] if isinstance(value, str) else _kind(value)
                problems[name] = f"must be one of {', '.join(map(str, choices))}, not {shown}"

    def _put_values(self, said: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        if (value := said.get("old_values")) is not None:
            fragments[7] = self._encoder.value(value)
        if (value := said.get("new_values")) is not None:
            fragments[8] = self._encoder.value(value)
        if (value := said.get("metadata")) is not None:
            fragments[12] = _document("metadata", self._encoder.value(value), problems)
        if (value := said.get("signature")) is not None:
            fragments[13] = _document("signature", self._plain.value(value), problems)

    def _put_surroundings(self, said: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        for name, position in _SURROUNDINGS:
            value = said.get(name)
            if value is None:
                continue
            try:
                fragments[position] = self._text_id(value)
            except ValueError as error:
                problems[name] = str(error)
        for name, digits in _TRACE_IDS:
            value = said.get(name)
            if value is not None and not (isinstance(value, str) and len(value) == digits and _hexadecimal(value)):
                problems[name] = f"must be {digits} hexadecimal digits"
        if not isinstance(said.get("event_name", ""), str):
            problems["event_name"] = f"must be a string, not {_kind(said['event_name'])}"
        problems.update(dict.fromkeys(said.keys() - _ARGUMENTS, "is not an argument of an audit event"))

    def _refuse_unmapped(self, fragments: list[bytes], problems: dict[str, str]) -> None:
        for name in self._refused:
            if fragments[INDEX[name]] not in (_NULL, UNSAID_JSON.get(name)):
                problems[name] = "no column takes it (see the `columns` and `unmapped` settings)"

    def _text_id(self, value: object) -> bytes:
        if isinstance(value, Enum):
            value = value.value
        if isinstance(value, bool) or not isinstance(value, str | int | uuid.UUID | uuid_utils.UUID):
            raise ValueError(f"must be a string, an integer or a UUID, not {_kind(value)}")
        if isinstance(value, int):
            return b"%d" % value
        text = str(value)
        if not text or text.isspace():
            raise ValueError("is empty")
        return self._plain.text(text)


_NAMES: Final = (("action", 3), ("entity_type", 2))
_IDS: Final = (("yacht_id", 1), ("entity_id", 4), ("user_id", 5))
_CHOICES: Final = (
    ("outcome", 9, {choice: b'"%b"' % choice.encode() for choice in OUTCOMES}, "success"),
    ("actor_type", 10, {choice: b'"%b"' % choice.encode() for choice in ACTOR_TYPES}, "user"),
)
_SURROUNDINGS: Final = tuple(
    (name, INDEX[name])
    for name in ("on_behalf_of", "source_ip", "request_id", "user_agent", "trace_id", "span_id", "event_name")
)
_TRACE_IDS: Final = (("trace_id", 32), ("span_id", 16))
_USUAL: Final = _ARGUMENTS - {name for name, _ in _SURROUNDINGS}


def _plain_text(value: Any) -> str:
    return value.value if isinstance(value, Enum) else value  # type: ignore[no-any-return]


def _kind(value: object) -> str:
    return type(value).__name__


def _uuid_fragment(value: object) -> bytes:
    if type(value) is str and _canonical_uuid(value):
        return b'"%b"' % value.encode()
    if isinstance(value, uuid.UUID):
        return b'"%b"' % str(value).encode()
    return b'"%b"' % _as_uuid(value).encode()


def _as_uuid(value: object) -> str:
    if not isinstance(value, str | uuid.UUID | uuid_utils.UUID):
        raise ValueError(f"must be a UUID, not {_kind(value)}")
    text = str(value)
    if not text.strip():
        raise ValueError("is empty")
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError(f"must be a UUID, and these {len(text)} characters are none") from None


def _record_id(said: Mapping[str, Any], yacht: bytes, problems: dict[str, str]) -> str:
    given, key = said.get("record_id"), said.get("idempotency_key")
    if given is None and key is None:
        return str(uuid_utils.uuid7())
    if given is not None and key is not None:
        problems["idempotency_key"] = "goes without record_id: the id is made of the key"
        return ""
    if given is not None:
        try:
            return _as_uuid(given)
        except ValueError as error:
            problems["record_id"] = str(error)
            return ""
    if not isinstance(key, str) or not key.strip():
        problems["idempotency_key"] = "must be a non-empty string"
        return ""
    seed = yacht.decode() + "\n" + key.encode("utf-8", "backslashreplace").decode()
    return str(uuid.uuid5(_IDEMPOTENCY_NAMESPACE, seed))


def _document(name: str, fragment: bytes, problems: dict[str, str]) -> bytes:
    if not fragment.startswith(b"{"):
        problems[name] = "must be a JSON object (a mapping, or the text of one)"
    return fragment


def _digest(fragments: list[bytes]) -> bytes:
    said = fragments[1:6] + fragments[7:14]
    return blake2b(b"\n".join(said), digest_size=16).digest()


# The running second and its text, replaced as one value: a timestamp costs one format, not one calendar.
_running_second: tuple[int, str] = (-1, "")


def _now() -> tuple[int, bytes]:
    global _running_second
    second, rest = divmod(time.time_ns(), 1_000_000_000)
    cached, text = _running_second
    if cached != second:
        text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _running_second = (second, text)
    microseconds = rest // 1000
    return second * 1_000_000_000 + microseconds * 1000, f'"{text}.{microseconds:06d}+00:00"'.encode()


def _timestamp(value: object, problems: dict[str, str]) -> tuple[int, bytes]:
    if value is None:
        return _now()
    if not isinstance(value, datetime):
        problems["timestamp"] = f"must be an aware datetime, not {_kind(value)}"
    elif value.tzinfo is None or value.utcoffset() is None:
        problems["timestamp"] = "must be an aware datetime, and this one has no time zone"
    else:
        try:
            moment = value.astimezone(UTC)
        except OverflowError:
            problems["timestamp"] = "is out of the range of UTC dates"
        else:
            text = moment.isoformat(timespec="microseconds")
            return (moment - _EPOCH) // _MICROSECOND * 1000, f'"{text}"'.encode()
    return 0, _NULL
