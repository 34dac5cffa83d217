"""A question is narrowed to what most of its rows have in common, and to one alternative at a time."""

from otel_audit_exporter.table.readers.columns import Column
from otel_audit_exporter.table.readers.conditions import AllOf, AnyOf, Compare, Condition, Null, OneOf, Prefix
from otel_audit_exporter.table.readers.narrowing import as_most_are, left_out_apart, open_columns, with_one_alternative

TENANT, ACTION, TYPE, ENTITY = (Column(name) for name in ("yacht_id", "action", "entity_type", "entity_id"))
TIMED = Null(Column("created_at"), negated=True)
OF_TENANTS = OneOf(TENANT, ("a", "b"))
NOT_LOOKED_AT = AnyOf((OneOf(ACTION, ("audit.viewed",), negated=True), Null(ACTION)))
IDS = AllOf((Compare(ENTITY, ">=", "0100"), Compare(ENTITY, "<=", "01ff")))
TEXT = AnyOf((Prefix(ACTION, "re"), Prefix(TYPE, "re"), IDS))
ASKED: list[Condition] = [TIMED, OF_TENANTS, NOT_LOOKED_AT, TEXT]


def row(
    tenant: str = "a", action: str | None = "x", entity_type: str | None = "x", entity: str | None = None
) -> dict[str, object]:
    return {"yacht_id": tenant, "action": action, "entity_type": entity_type, "entity_id": entity}


def test_rows_may_differ_in_their_tenant_and_in_what_a_text_is_found_in() -> None:
    assert open_columns(ASKED) == [TENANT, ACTION, TYPE, ENTITY]
    assert open_columns([TIMED, NOT_LOOKED_AT, Compare(ACTION, "=", "x")]) == []


def test_what_is_left_out_is_told_apart() -> None:
    assert left_out_apart(ASKED) == ([TIMED, OF_TENANTS, TEXT], OneOf(ACTION, ("audit.viewed",)))
    assert left_out_apart([TIMED, OF_TENANTS, TEXT, OneOf(ACTION, ("x",), negated=True)]) is None


def test_what_most_rows_have_takes_the_place_of_each_choice() -> None:
    rows = [row(action="reply"), row("b", action="receive"), row("b", action="receive"), row("b", entity_type="re")]
    assert as_most_are(ASKED, rows) == [
        TIMED,
        Compare(TENANT, "=", "b"),
        NOT_LOOKED_AT,
        Compare(ACTION, "=", "receive"),
    ]


def test_an_id_inside_the_range_takes_the_place_of_the_text() -> None:
    assert as_most_are([TEXT], [row(entity="01ab")]) == [Compare(ENTITY, "=", "01ab")]
    assert as_most_are([IDS], [row(entity="01ab")]) == [Compare(ENTITY, "=", "01ab")]


def test_a_row_without_the_values_leaves_the_conditions_as_they_are() -> None:
    assert as_most_are([TEXT], [row(action=None, entity_type=None, entity="02")]) == [TEXT]
    assert as_most_are([TEXT], [row(action=None, entity_type=None)]) == [TEXT]


def test_the_alternative_that_most_rows_fulfil_is_asked_for_by_itself() -> None:
    rows = [row("b", action="reply"), row("b", entity="01ab"), row("a", entity="01cd")]
    assert list(with_one_alternative([TIMED, OF_TENANTS, NOT_LOOKED_AT, TEXT], rows)) == [
        ([TIMED, Compare(TENANT, "=", "b"), NOT_LOOKED_AT, TEXT], Compare(TENANT, "=", "b")),
        ([TIMED, OF_TENANTS, NOT_LOOKED_AT, IDS], IDS),
    ]


def test_where_no_row_tells_an_alternative_none_is_asked_for() -> None:
    assert list(with_one_alternative([TIMED, NOT_LOOKED_AT, TEXT], [row(entity="02")])) == []
