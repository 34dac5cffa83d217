"""Logs for tests: in memory, mapped or written; the orphan that a kill leaves of one, and what is read of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from otel_audit_exporter.outbox.adoption import Findings, open_orphan
from otel_audit_exporter.outbox.directory import DESCRIPTION_NAME, FORMAT_VERSION, LOCK_NAME
from otel_audit_exporter.outbox.ended import EndedFile
from otel_audit_exporter.outbox.log import ENDED_NAME, OutboxLog
from otel_audit_exporter.outbox.reader import StripeReader
from otel_audit_exporter.outbox.segment import FileKind, MappedSegment, WrittenSegment
from otel_audit_exporter.outbox.space import Quota, SegmentSpace

LOG_ID = bytes(range(16))
KINDS: dict[str, FileKind | None] = {"memory": None, "mapped": MappedSegment, "written": WrittenSegment}
Event = tuple[int, int, bytes]
"""Stripe, number and bytes."""


def file_log(path: Path, kind: FileKind = MappedSegment, *, durable: bool = False, max_bytes: int = 2**30) -> OutboxLog:
    """Make a log in a folder, as a process does."""
    path.mkdir(parents=True)
    (path / LOCK_NAME).touch()
    (path / DESCRIPTION_NAME).write_text(json.dumps({"format": FORMAT_VERSION, "id": LOG_ID.hex(), "pid": 1}))
    space = SegmentSpace(Quota(max_bytes), path, kind, durable=durable)
    log = OutboxLog(LOG_ID, space, EndedFile(path / ENDED_NAME, LOG_ID, durable=durable), path=path)
    log.start()
    return log


def memory_log(max_bytes: int = 2**30) -> OutboxLog:
    """Make a log in memory."""
    log = OutboxLog(LOG_ID, SegmentSpace(Quota(max_bytes)), None, path=None)
    log.start()
    return log


def make_log(kind: str, path: Path) -> OutboxLog:
    """Make a log of one of ``KINDS``."""
    of = KINDS[kind]
    return memory_log() if of is None else file_log(path, of)


@dataclass
class Orphan:
    """A log that was opened by another process, and what was found in it."""

    log: OutboxLog
    found: Findings

    @property
    def events(self) -> list[Event]:
        """Every event that it gives."""
        return read_all(self.log)[0]


def open_copy(path: Path, to: Path, damage: Callable[[Path], object] = lambda path: None) -> Orphan:
    """Copy a log as a kill would leave it, damage the copy, and open it as the next process does."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(path, to)
    damage(to)
    log, found = open_orphan(to, LOG_ID, SegmentSpace(Quota(2**40), to, WrittenSegment), durable=False)
    return Orphan(log, found)


def read_all(log: OutboxLog, rows: int = 1000) -> tuple[list[Event], list[tuple[int, int, int]]]:
    """Return a log's events, stripe by stripe, and what of the others is lost as (stripe, first, last)."""
    events: list[Event] = []
    lost: list[tuple[int, int, int]] = []
    for stripe in sorted(log.stripes, key=lambda stripe: stripe.index):
        reader = StripeReader(stripe)
        while reader.number < stripe.at[2]:
            got = reader.read(rows, 2**20)
            missing = (part for first, last in got.lost for part in stripe.ended.missing(first, last))
            lost += ((stripe.index, first, last) for first, last in missing)
            for _, numbers, _, bodies in got.parts:
                events += ((stripe.index, number, body) for number, body in zip(numbers, bodies, strict=True))
    return events, lost


def said(log: OutboxLog, bodies: Iterator[bytes] | list[bytes]) -> list[Event]:
    """Append events, and return them as they are to be read."""
    written = []
    for body in bodies:
        stripe, number, *_ = log.append(body)
        written.append((stripe.index, number, body))
    return written


def event_bytes(number: int, size: int = 100) -> bytes:
    """Return an event's bytes that no other number has."""
    text = b'["event %d",' % number
    return text + b"x" * max(size - len(text) - 1, 0) + b"]"
