"""The event that every side writes: nine attributes, two small documents."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from otel_audit_exporter import PendingReceipt, audit_event, configure_audit
from otel_audit_exporter.pipeline.pipeline import AuditPipeline

YACHT: Final = str(uuid.uuid4())
USER: Final = str(uuid.uuid4())
ENTITY: Final = str(uuid.uuid4())
OLD: Final = {"status": "ordered", "quantity": 3}
NEW: Final = {"status": "received", "quantity": 3, "notes": "ok", "unit_price": 1.5}

Call = Callable[[], object]


def call() -> None:
    """Say one event, as a handler does."""
    audit_event(
        "create",
        entity_type="receiving",
        entity_id=ENTITY,
        yacht_id=YACHT,
        user_id=USER,
        old_values=OLD,
        new_values=NEW,
    )


def say(*, new_values: Any, old_values: Any = None) -> PendingReceipt:
    """Say one event with other values, where nobody measures the call."""
    return audit_event(
        "create",
        entity_type="receiving",
        entity_id=ENTITY,
        yacht_id=YACHT,
        user_id=USER,
        old_values=old_values,
        new_values=new_values,
    )


def call_with(new_values: dict[str, Any]) -> Call:
    """Return the call of an event with these new values."""

    def say() -> None:
        audit_event(
            "create",
            entity_type="receiving",
            entity_id=ENTITY,
            yacht_id=YACHT,
            user_id=USER,
            new_values=new_values,
        )

    return say


# What is said: the usual event is of about 500 bytes; forty text fields are of 2 kB together.
CALLS: Final[dict[str, Call]] = {
    "usual": call,
    "large": call_with({"text": "sixty-four kB of it " * 3200}),
    "texts": call_with(
        {f"field_{number}": "fifty characters of text, in a sentence: no more." for number in range(40)}
    ),
}


def pipeline_in(directory: Path, **options: Any) -> AuditPipeline:
    """Configure the pipeline of this process, with its outbox in ``directory``."""
    return configure_audit(outbox_dir=str(directory), **options)


def table_row() -> dict[str, Any]:
    """Return one event as the row that an application inserts by itself."""
    return {
        "id": str(uuid.uuid4()),
        "yacht_id": YACHT,
        "entity_type": "receiving",
        "action": "create",
        "entity_id": ENTITY,
        "created_by": USER,
        "old_values": OLD,
        "new_values": NEW,
    }
