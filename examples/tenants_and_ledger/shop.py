"""What the shop does, whoever writes it down."""

from typing import Any

USER = "11111111-1111-4111-8111-111111111111"
PART = "33333333-3333-4333-8333-333333333333"
TENANTS = {"acme": "22222222-2222-4222-8222-222222222222", "blue": "22222222-2222-4222-8222-222222222223"}

stock = {tenant_id: {PART: {"name": "impeller", "price": 12, "ordered": False}} for tenant_id in TENANTS.values()}


def path_of(name: str) -> str:
    return f"{name}.db"


def order(tenant_id: str, part_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Order a part, and return it as it was and as it is."""
    before = stock[tenant_id][part_id]
    after = stock[tenant_id][part_id] = {**before, "ordered": True}
    return before, after
