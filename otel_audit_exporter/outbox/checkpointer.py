"""Checkpoints of the outbox, on a thread of the process's own, so that no caller waits for the disk."""

from __future__ import annotations

import threading
from queue import SimpleQueue

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.store import OutboxFile
from otel_audit_exporter.runtime.fork_safety import ForkSafeLock, register_renewed
from otel_audit_exporter.runtime.log import logger


class Housekeeper:
    """Checkpoints stores when they have grown. Its thread starts with the first one that has."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self.renew_after_fork()
        register_renewed(self)

    def renew_after_fork(self) -> None:
        """In a forked child: no thread yet; the first store that has grown starts one."""
        self._thread: threading.Thread | None = None
        self._grown: SimpleQueue[OutboxFile] = SimpleQueue()

    def grown(self, store: OutboxFile) -> None:
        """Have ``store`` checkpointed soon; returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="otel-audit-housekeeper", daemon=True)
                self._thread.start()
        self._grown.put(store)

    def _serve(self) -> None:
        while True:
            grown = {self._grown.get()}
            while not self._grown.empty():  # one checkpoint is enough for all that was asked for
                grown.add(self._grown.get())
            for store in grown:
                _checkpoint(store)


def _checkpoint(store: OutboxFile) -> None:
    try:
        store.checkpoint()
    except OutboxError as error:
        logger.warning("audit: the outbox grows, its checkpoint failed: %s", error)


housekeeper = Housekeeper()
