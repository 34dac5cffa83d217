"""A process that says events to many destinations until it is killed; what a call has accepted, it writes down."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from otel_audit_exporter import audit_event, configure_audit, flush_audit
from tests.support.events import arguments

DATABASES = [None, "acme", "beta", "gamma"]
TRAILS = ["default", "ledger"]
DESTINATIONS = [(trail, database) for trail in TRAILS for database in DATABASES]


def configure(files: Path) -> None:
    def resolve(name: str) -> Mapping[str, Any]:
        return {"path": str(files / f"{name}.db")}

    configure_audit(
        "sqlite", path=str(files / "main.db"), trails={"ledger": {"table": "ledger_events"}}, databases=resolve
    )


def say_until_killed(files: Path, ledger: Path, thread: int) -> None:
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = thread
    while True:
        trail, database = DESTINATIONS[number % len(DESTINATIONS)]
        said = arguments(action=f"{trail}@{database}", entity_id=uuid4(), trail=trail, database=database)
        record_id = audit_event(**said).record_id
        os.write(descriptor, f"{record_id} {trail} {database}\n".encode())
        number += 1


def main() -> None:
    files, ledger = Path(sys.argv[1]), Path(sys.argv[2])
    configure(files)
    if sys.argv[3:] == ["drain"]:
        print("drained" if drain() else "not drained")
        return
    for thread in range(3):
        threading.Thread(target=say_until_killed, args=(files, ledger, thread), daemon=True).start()
    print("says", flush=True)
    threading.Event().wait()


def drain() -> bool:
    """Deliver what all processes have left; nobody says which destinations that is for."""
    from otel_audit_exporter.outbox.inspection import orphans_under
    from tests.stack.waiting import wait_until

    # What the first look did not take comes with the next one, a minute later.
    wait_until(lambda: not list(orphans_under(os.environ["OTEL_AUDIT_OUTBOX_DIR"])), "somebody has every log", 150)
    return flush_audit(60_000)


if __name__ == "__main__":
    main()
