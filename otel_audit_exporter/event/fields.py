"""The table of an event's fields: each field is declared once, and the other modules follow the table.

The ``audit.*`` names are those of the draft OpenTelemetry Audit signal (OTEP 0267).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal[
    "record id", "id", "name", "time", "document", "object", "choice", "text", "address", "trace id", "record name"
]
"""How a value is checked and encoded.

``record id``: a UUID, made where none is given. ``id``: a UUID, or with ``ids="text"`` any text or integer. ``name``:
a text. ``time``: an aware datetime. ``document``: any value, as JSON. ``object``: a JSON object. ``choice``: one of
``choices``. ``text``: text, an integer or a UUID. ``address``: text, usually an IP address. ``trace id``: hexadecimal.
``record name``: a text that names the log record.
"""

Origin = Literal["call", "context", "surroundings", "record"]
"""Where a value may come from.

``call``: an argument of ``audit_event``. ``context``: an ``audit_context``. ``surroundings``: what a middleware or the
current span knows. ``record``: the log record of other code.
"""

_CALL: Final[frozenset[Origin]] = frozenset({"call", "record"})
_CALL_OR_CONTEXT: Final[frozenset[Origin]] = frozenset({"call", "context", "record"})
_AROUND: Final[frozenset[Origin]] = frozenset({"context", "surroundings", "record"})
_SPAN: Final[frozenset[Origin]] = frozenset({"surroundings", "record"})


class Field(NamedTuple):
    """One field of an audit event.

    ``attribute``: its log record attribute; None: OpenTelemetry carries it in the record itself. ``column``: its column
    in the default table, if it has one. ``usual``: the value of an event that gives none. ``required``: a caller must
    give it where a column takes it. ``alias``: a second name for
    callers. ``meaning``: for the documentation.
    """

    name: str
    kind: Kind
    origins: frozenset[Origin]
    meaning: str
    attribute: str | None = None
    column: str | None = None
    choices: tuple[str, ...] = ()
    usual: str | None = None
    required: bool = False
    digits: int = 0
    alias: str | None = None


OUTCOMES: Final = ("success", "failure", "unknown")
ACTOR_TYPES: Final = ("user", "service", "system")

# The order is the format of an event's bytes (see serialization): new fields go to the end. The fields of the default
# table's columns come first, in the order of its columns.
FIELD_TABLE: Final = (
    Field(
        name="record_id",
        kind="record id",
        origins=_CALL,
        attribute="audit.record.id",
        column="id",
        meaning="the row's id, a UUID; made where none is given",
    ),
    Field(
        name="yacht_id",
        kind="id",
        origins=_CALL_OR_CONTEXT,
        attribute="audit.tenant.id",
        column="yacht_id",
        required=True,
        alias="tenant_id",
        meaning="the tenant; also called `tenant_id`",
    ),
    Field(
        name="entity_type",
        kind="name",
        origins=_CALL,
        attribute="audit.target.type",
        column="entity_type",
        required=True,
        meaning="what kind of thing it was done to",
    ),
    Field(
        name="action",
        kind="name",
        origins=_CALL,
        attribute="audit.action",
        column="action",
        required=True,
        meaning="what was done",
    ),
    Field(
        name="entity_id",
        kind="id",
        origins=_CALL,
        attribute="audit.target.id",
        column="entity_id",
        required=True,
        meaning="which thing it was done to",
    ),
    Field(
        name="user_id",
        kind="id",
        origins=_CALL_OR_CONTEXT,
        attribute="audit.actor.id",
        column="created_by",
        required=True,
        alias="actor_id",
        meaning="who did it; also called `actor_id`; required only where `actor_type` is `user`",
    ),
    Field(
        name="timestamp",
        kind="time",
        origins=_CALL,
        column="created_at",
        meaning="when it happened, in UTC; the time of the call where none is given",
    ),
    Field(
        name="old_values",
        kind="document",
        origins=_CALL,
        attribute="audit.change.old_values",
        column="old_values",
        meaning="the state before",
    ),
    Field(
        name="new_values",
        kind="document",
        origins=_CALL,
        attribute="audit.change.new_values",
        column="new_values",
        meaning="the state after",
    ),
    Field(
        name="outcome",
        kind="choice",
        origins=_CALL,
        attribute="audit.outcome",
        choices=OUTCOMES,
        usual="success",
        meaning="`success`, `failure` or `unknown`",
    ),
    Field(
        name="actor_type",
        kind="choice",
        origins=_CALL_OR_CONTEXT,
        attribute="audit.actor.type",
        choices=ACTOR_TYPES,
        usual="user",
        meaning="`user`, `service` or `system`",
    ),
    Field(
        name="on_behalf_of",
        kind="text",
        origins=_CALL_OR_CONTEXT,
        attribute="audit.on_behalf_of.id",
        meaning="the user for whom the actor acts",
    ),
    Field(
        name="metadata",
        kind="object",
        origins=_CALL_OR_CONTEXT,
        attribute="audit.metadata",
        meaning="a JSON object of anything else",
    ),
    Field(
        name="signature",
        kind="object",
        origins=_CALL,
        attribute="audit.signature",
        meaning="the application's own signature, a JSON object",
    ),
    Field(
        name="source_ip",
        kind="address",
        origins=_AROUND,
        attribute="audit.source.id",
        meaning="the address that the request came from",
    ),
    Field(
        name="request_id",
        kind="text",
        origins=_AROUND,
        attribute="request.id",
        meaning="the request's id",
    ),
    Field(
        name="user_agent",
        kind="text",
        origins=_AROUND,
        attribute="user_agent.original",
        meaning="the client's program, as the request names it",
    ),
    Field(
        name="trace_id",
        kind="trace id",
        origins=_SPAN,
        digits=32,
        meaning="the trace of the current span",
    ),
    Field(
        name="span_id",
        kind="trace id",
        origins=_SPAN,
        digits=16,
        meaning="the current span",
    ),
    Field(
        name="event_name",
        kind="record name",
        origins=_CALL,
        meaning="the log record's event name, `<entity_type>.<action>` where none is given; kept only where a column "
        "takes it",
    ),
)

FIELDS: Final = tuple(field.name for field in FIELD_TABLE)
INDEX: Final = {name: position for position, name in enumerate(FIELDS)}

DEFAULT_COLUMNS: Final[Mapping[str, str]] = {field.column: field.name for field in FIELD_TABLE if field.column}
"""The columns of the default table, and the field that each takes: the first of ``FIELDS``, in their order."""

# Fields whose value is a JSON document; as an attribute they are the text of that document.
JSON_FIELDS: Final = frozenset(field.name for field in FIELD_TABLE if field.kind in ("document", "object"))

ATTRIBUTE_OF: Final[Mapping[str, str]] = {field.name: field.attribute for field in FIELD_TABLE if field.attribute}
FIELD_OF: Final[Mapping[str, str]] = {attribute: name for name, attribute in ATTRIBUTE_OF.items()}

FIELD_ALIASES: Final[Mapping[str, str]] = {field.alias: field.name for field in FIELD_TABLE if field.alias}
"""The second names that callers may use, and the field that each is."""

AUDIT_ACTION: Final = ATTRIBUTE_OF["action"]
AUDIT_RECORD_ID: Final = ATTRIBUTE_OF["record_id"]
AUDIT_SOURCE_TYPE: Final = "audit.source.type"

USUAL: Final[Mapping[str, str | None]] = {field.name: field.usual for field in FIELD_TABLE}
"""What each field is of an event that gives no value for it."""
USUAL_JSON: Final = {name: b'"%b"' % value.encode() for name, value in USUAL.items() if value is not None}
"""The same as JSON, of the fields for which it is not null."""

REQUIRED_BY_DEFAULT: Final = frozenset(field.name for field in FIELD_TABLE if field.required)
CONTEXT_FIELDS: Final = frozenset(field.name for field in FIELD_TABLE if "context" in field.origins)
SURROUNDINGS: Final = tuple(field.name for field in FIELD_TABLE if "surroundings" in field.origins)

# What a caller may give in a call or in an audit context for the row; what only names the log record is not for it.
CALLER_FIELDS: Final = tuple(
    field.name for field in FIELD_TABLE if field.origins & {"call", "context"} and field.kind != "record name"
)

SCOPE_NAME: Final = "otel_audit_exporter"


def fields_of_kind(*kinds: Kind) -> tuple[tuple[str, int], ...]:
    """Return name and position of each field of these kinds."""
    return tuple((field.name, INDEX[field.name]) for field in FIELD_TABLE if field.kind in kinds)


def fields_table() -> str:
    """Return the fields as the Markdown table of the documentation."""
    lines = ["| field | log record | default column | meaning |", "| --- | --- | --- | --- |"]
    for field in FIELD_TABLE:
        carried = f"`{field.attribute}`" if field.attribute else f"the record's own `{field.name}`"
        column = f"`{field.column}`" if field.column else ""
        lines.append(f"| `{field.name}` | {carried} | {column} | {field.meaning} |")
    return "\n".join(lines)
