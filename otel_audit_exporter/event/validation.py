"""Validation: what a pipeline asks of an event, and how the event becomes bytes at the call."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final, Literal

import uuid_utils
from opentelemetry.trace import get_current_span

from otel_audit_exporter.errors import AuditEventError
from otel_audit_exporter.event.encoded_event import EncodedEvent
from otel_audit_exporter.event.fields import (
    CONTEXT_FIELDS,
    FIELD_ALIASES,
    FIELD_TABLE,
    FIELDS,
    INDEX,
    REQUIRED_BY_DEFAULT,
    SURROUNDINGS,
    USUAL_JSON,
    fields_of_kind,
)
from otel_audit_exporter.event.identity import NOBODY, with_field_names
from otel_audit_exporter.event.invalid_event import invalid_body
from otel_audit_exporter.event.json.encoder import Encoder
from otel_audit_exporter.event.serialization import assemble
from otel_audit_exporter.event.surroundings import GIVEN, Found, Ip, truncated
from otel_audit_exporter.runtime.fork_safety import call_in_child

call_in_child(uuid_utils.reseed_rng)  # a child must not draw the ids that its parent draws

Ids = Literal["uuid", "text"]

_NULL: Final = b"null"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_IDEMPOTENCY_NAMESPACE: Final = uuid.UUID("6f0a3b52-7a3c-5c0e-9c39-1d5b8f0e2a77")
_canonical_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_hexadecimal = re.compile(r"[0-9a-f]*").fullmatch

_ARGUMENTS: Final = frozenset(FIELDS) | {"idempotency_key"}


class EventValidator:
    """What one pipeline asks of its events, and how it encodes them.

    ``required``: the fields that a caller must give (``user_id`` only where ``actor_type`` is ``"user"``).
    ``refused``: fields that no column takes and that the settings do not let be folded or dropped. ``ip``: how much
    of a source address is recorded.
    """

    def __init__(
        self,
        *,
        ids: Ids = "uuid",
        encoder: Encoder | None = None,
        required: Iterable[str] = REQUIRED_BY_DEFAULT,
        refused: Iterable[str] = (),
        ip: Ip = "full",
    ) -> None:
        self._encoder = encoder or Encoder()
        self._plain = Encoder()
        self._required = frozenset(required) | {"action"}
        self._refused = frozenset(refused)
        self._documents = tuple((name, at, (name, at) in _OBJECTS) for name, at in fields_of_kind("document", "object"))
        self._ip = ip
        self._id: Callable[[object], bytes] = _uuid_fragment if ids == "uuid" else self._text_id

    @property
    def encoder(self) -> Encoder:
        """What turns values into JSON, redacted."""
        return self._encoder

    def compose(self, given: Mapping[str, Any]) -> EncodedEvent:
        """Check ``given`` (argument name to value) and freeze it into bytes.

        Raises :class:`AuditEventError` with every wrong field. Values are encoded here and now: a later
        change of the caller's objects changes nothing.
        """
        problems: dict[str, str] = {}
        fragments = [_NULL] * len(FIELDS)
        has_more = not _COMMON.issuperset(given)
        if has_more:
            given = with_field_names(given)
        self._put_names(given, fragments, problems)
        self._put_choices(given, fragments, problems)
        self._put_ids(given, fragments, problems)
        self._put_values(given, fragments, problems)
        span = get_current_span().get_span_context()
        if span.is_valid:
            fragments[_TRACE_ID] = b'"%032x"' % span.trace_id
            fragments[_SPAN_ID] = b'"%016x"' % span.span_id
        if has_more:
            self._put_seldom(given, fragments, problems)
        timestamp_ns, fragments[_TIMESTAMP] = _timestamp(given.get("timestamp"), problems)
        record_id = _record_id(given, fragments[_YACHT_ID], problems)
        if self._refused:
            self._refuse_unmapped(fragments, problems)
        if problems:
            raise AuditEventError(problems)
        fragments[_RECORD_ID] = b'"%b"' % record_id.encode()
        action = _plain_text(given["action"])
        return EncodedEvent(
            record_id,
            assemble(fragments),
            action,
            given.get("event_name") or f"{_plain_text(given.get('entity_type', 'audit'))}.{action}",
            timestamp_ns,
            span,
            _digest(fragments) if "idempotency_key" in given or "record_id" in given else None,
        )

    def compose_invalid(self, given: Mapping[str, Any], problems: Mapping[str, str]) -> tuple[str, bytes]:
        """Return an id and bytes for an event that :meth:`compose` refuses, so that somebody can correct it later."""
        given, known = with_field_names(given), dict[str, str]()
        fragments = [_NULL] * len(FIELDS)
        for put in (self._put_names, self._put_choices, self._put_ids, self._put_values, self._put_seldom):
            put(given, fragments, known)
        span = get_current_span().get_span_context()
        if span.is_valid and fragments[_TRACE_ID] == _NULL:
            fragments[_TRACE_ID] = b'"%032x"' % span.trace_id
            fragments[_SPAN_ID] = b'"%016x"' % span.span_id
        fragments[_TIMESTAMP] = _timestamp(given.get("timestamp"), known)[1]
        record_id = _record_id(given, fragments[_YACHT_ID], {}) or str(uuid_utils.uuid7())
        body = invalid_body({**given, "record_id": record_id}, fragments, problems, self._encoder)
        return record_id, body

    def _put_names(self, given: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        for name, position in _NAMES:
            value = given.get(name)
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

    def _put_ids(self, given: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        for name, position in _IDS:
            value = given.get(name)
            if value is None:
                by_user = name != "user_id" or fragments[_ACTOR_TYPE] == _USER
                if name in self._required and by_user:
                    problems[name] = "is missing"
                continue
            if value is NOBODY and name != "entity_id":
                continue
            try:
                fragments[position] = self._id(value)
            except ValueError as error:
                problems[name] = str(error)

    def _put_choices(self, given: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        for name, position, choices, default in _CHOICES:
            value = given.get(name, default)
            try:
                fragments[position] = choices[value]
            except (KeyError, TypeError):
                if isinstance(value, Enum) and (chosen := choices.get(str(value.value))):
                    fragments[position] = chosen
                    continue
                shown = repr(value)[:40] if isinstance(value, str) else _kind(value)
                problems[name] = f"must be one of {', '.join(map(str, choices))}, not {shown}"

    def _put_values(self, given: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        encode = self._encoder.value
        for name, position, must_be_object in self._documents:
            if (value := given.get(name)) is not None:
                fragment = fragments[position] = encode(value)
                if must_be_object and not fragment.startswith(b"{"):
                    problems[name] = "must be a JSON object (a mapping, or the text of one)"

    def _put_seldom(self, given: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        for name, position in _SELDOM:
            value = given.get(name)
            if value is None:
                continue
            try:
                fragments[position] = self._text_id(value)
            except ValueError as error:
                problems[name] = str(error)
        self._put_surroundings(given, fragments, problems)
        self._check_seldom(given, problems)

    def _put_surroundings(self, given: Mapping[str, Any], fragments: list[bytes], problems: dict[str, str]) -> None:
        """Record as much of the source address as the settings allow, and mark what the caller gave."""
        if self._ip != "full" and "source_ip" in given and "source_ip" not in problems:
            address = given["source_ip"]
            kept = truncated(str(address)) if self._ip == "truncated" and address is not None else None
            fragments[_SOURCE_IP] = _NULL if kept is None else self._plain.text(kept)
        for name, position in _MARKED:
            if fragments[position] != _NULL and type(given[name]) is not Found:
                fragments[position] += GIVEN

    def _check_seldom(self, given: Mapping[str, Any], problems: dict[str, str]) -> None:
        for name, digits in _TRACE_IDS:
            value = given.get(name)
            if value is not None and not (isinstance(value, str) and len(value) == digits and _hexadecimal(value)):
                problems[name] = f"must be {digits} hexadecimal digits"
        if not isinstance(given.get("event_name", ""), str):
            problems["event_name"] = f"must be a string, not {_kind(given['event_name'])}"
        for name in given.keys() - _ARGUMENTS:
            field = FIELD_ALIASES.get(name)
            problems[name] = (
                f"differs from {field}, and both are names of one field"
                if field is not None
                else "is not an argument of an audit event"
            )

    def _refuse_unmapped(self, fragments: list[bytes], problems: dict[str, str]) -> None:
        for name in self._refused:
            fragment = fragments[INDEX[name]]
            if name in SURROUNDINGS and not fragment.endswith(GIVEN):  # no caller gave it
                continue
            if fragment not in (_NULL, USUAL_JSON.get(name)):
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


# Precomputed of the table, as every event is checked by them.
_NAMES: Final = tuple(sorted(fields_of_kind("name")))  # the action first
_IDS: Final = fields_of_kind("id")
_OBJECTS: Final = fields_of_kind("object")
_CHOICES: Final = tuple(
    (field.name, INDEX[field.name], {choice: b'"%b"' % choice.encode() for choice in field.choices}, field.usual)
    for field in FIELD_TABLE
    if field.kind == "choice"
)
_TRACE_IDS: Final = tuple((field.name, field.digits) for field in FIELD_TABLE if field.kind == "trace id")
# Fields that few events give: where none of them is given, they are not looked for.
_SELDOM: Final = fields_of_kind("text", "address", "trace id", "record name")
_COMMON: Final = _ARGUMENTS - {name for name, _ in _SELDOM}
_RECORD_ID: Final = INDEX["record_id"]
_SOURCE_IP: Final = INDEX["source_ip"]
_MARKED: Final = tuple((name, INDEX[name]) for name in SURROUNDINGS if name in CONTEXT_FIELDS)
_YACHT_ID: Final = INDEX["yacht_id"]
_TIMESTAMP: Final = INDEX["timestamp"]
_ACTOR_TYPE: Final = INDEX["actor_type"]
_TRACE_ID: Final = INDEX["trace_id"]
_SPAN_ID: Final = INDEX["span_id"]
_USER: Final = USUAL_JSON["actor_type"]
# What the same idempotency key must say again: all but the id, the time, and what is around the call.
_COMPARED: Final = itemgetter(
    *(
        INDEX[field.name]
        for field in FIELD_TABLE
        if field.attribute and field.kind != "record id" and "surroundings" not in field.origins
    )
)


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
        raise ValueError(f"must be a UUID, not {_kind(value)}{_OTHER_IDS if type(value) is int else ''}")
    text = str(value)
    if not text.strip():
        raise ValueError("is empty")
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError(
            f"must be a UUID, and these {len(text)} characters are none{_OTHER_IDS if text.isdecimal() else ''}"
        ) from None


# record_id itself is always a UUID; the others need not be.
_OTHER_IDS: Final = " (where ids are numbers, set OTEL_AUDIT_IDS=text)"


def _record_id(given: Mapping[str, Any], yacht: bytes, problems: dict[str, str]) -> str:
    record_id, key = given.get("record_id"), given.get("idempotency_key")
    if record_id is None and key is None:
        return str(uuid_utils.uuid7())
    if record_id is not None and key is not None:
        problems["idempotency_key"] = "goes without record_id: the id is made of the key"
        return ""
    if record_id is not None:
        try:
            return _as_uuid(record_id)
        except ValueError as error:
            problems["record_id"] = str(error).removesuffix(_OTHER_IDS)
            return ""
    if not isinstance(key, str) or not key.strip():
        problems["idempotency_key"] = "must be a non-empty string"
        return ""
    seed = yacht.decode() + "\n" + key.encode("utf-8", "backslashreplace").decode()
    return str(uuid.uuid5(_IDEMPOTENCY_NAMESPACE, seed))


def _digest(fragments: list[bytes]) -> bytes:
    return blake2b(b"\n".join(_COMPARED(fragments)), digest_size=16).digest()


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
