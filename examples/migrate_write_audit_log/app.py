"""Handlers stay as they were: the same function, the same payload."""

import os

from supabase import create_client

from otel_audit_exporter.compat import get_audit_stats, shutdown_audit_logger, write_audit_log_async

db = create_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_SERVICE_ROLE_KEY"])


def order_part(part_id: str, user_id: str, yacht_id: str) -> None:
    write_audit_log_async(
        db,
        {
            "yacht_id": yacht_id,
            "entity_type": "part",
            "action": "order_part",
            "entity_id": part_id,
            "user_id": user_id,
            "new_values": {"ordered": True},
        },
    )


if __name__ == "__main__":
    order_part(
        "33333333-3333-4333-8333-333333333333",
        "11111111-1111-4111-8111-111111111111",
        "22222222-2222-4222-8222-222222222222",
    )
    shutdown_audit_logger(wait=True, timeout=10.0)
    print(get_audit_stats())
