"""Nothing in here knows where rows go."""

from uuid import UUID

from otel_audit_exporter import audit_context, audited, configure_audit

PART = UUID("33333333-3333-4333-8333-333333333333")
stock = {PART: {"name": "impeller", "stock": 3}}


@audited(
    "use_part",
    entity_type="part",
    entity_id="part_id",
    old_values=lambda call: stock[call.part_id],
    new_values="result",
)
def use_part(part_id: UUID) -> dict[str, object]:
    stock[part_id] = {**stock[part_id], "stock": stock[part_id]["stock"] - 1}
    return stock[part_id]


def main() -> None:
    configure_audit()
    with audit_context(user_id="11111111-1111-4111-8111-111111111111", yacht_id="22222222-2222-4222-8222-222222222222"):
        use_part(PART)


if __name__ == "__main__":
    main()
