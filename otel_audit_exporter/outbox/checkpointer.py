"""Checkpoints of the outbox, on a thread of the process's own, so that no caller waits for the disk."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.store import OutboxFile
from otel_audit_exporter.runtime.log import logger


class Housekeeper:
    """Checkpoints stores when they have grown. Its thread starts with the first one that has."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # also for a signal handler that audits in the middle of a call
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._grown: SimpleQueue[OutboxFile] = SimpleQueue()

    def grown(self, store: OutboxFile) -> None:
        """Have ``store`` checkpointed soon; returns at once."""
        if self._pid != os.getpid():
            self._lock = threading.RLock()
            self._begin()
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
