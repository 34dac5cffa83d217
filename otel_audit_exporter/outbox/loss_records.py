"""What was lost, by cause, and who has acknowledged it: the records of a destination that all its processes read.

Events in the dead letters are not among them, as those are kept; what was rejected or lost with a damaged file is.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

LossKind = Literal["rejected", "lost"]
KEPT_SECONDS: Final = 86_400.0
SEVERAL_CAUSES: Final = "several causes: see the log"
FILE_BYTES: Final = 4096  # one page: it is written whole or not at all
_MAGIC: Final = "otel-audit losses 1"
_TEXT_LENGTH: Final = 160
_KEPT_ACKNOWLEDGEMENTS: Final = 5


@dataclass(frozen=True, slots=True)
class Loss:
    """Events of one kind that are kept nowhere, for one cause. Times are seconds since the epoch.

    ``rejected``: never accepted. ``lost``: accepted, and gone with a damaged file. ``example`` is one event's action,
    entity type and entity id.
    """

    kind: LossKind
    cause: str
    remedy: str
    example: str
    count: int
    first_at: float
    last_at: float

    def __add__(self, other: Loss) -> Loss:
        newest = max(self, other, key=lambda one: one.last_at)
        first, last = min(self.first_at, other.first_at), max(self.last_at, other.last_at)
        return replace(newest, count=self.count + other.count, first_at=first, last_at=last)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody has seen what was lost up to then: ``count`` events, those in the dead letters left out."""

    at: float
    by: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class LossRecords:
    """The losses that nobody has acknowledged, and the latest acknowledgements, the oldest first."""

    losses: tuple[Loss, ...] = ()
    acknowledgements: tuple[Acknowledgement, ...] = ()

    @property
    def acknowledged_at(self) -> float:
        """When somebody acknowledged losses last; 0.0: never."""
        return self.acknowledgements[-1].at if self.acknowledgements else 0.0

    def count(self, kind: LossKind) -> int:
        """Return how many events of a kind were lost."""
        return sum(loss.count for loss in self.losses if loss.kind == kind)

    def added(self, losses: Iterable[Loss], now: float) -> LossRecords:
        """Return the records with these losses, and without what is older than a day."""
        by_cause: dict[tuple[str, str], Loss] = {}
        for loss in [*self.losses, *(_shortened(one) for one in losses)]:
            known = by_cause.get((loss.kind, loss.cause))
            by_cause[loss.kind, loss.cause] = loss if known is None else known + loss
        return replace(self, losses=tuple(by_cause.values())).recent(now)

    def recent(self, now: float) -> LossRecords:
        """Return the records without the losses that are older than a day."""
        return replace(self, losses=tuple(loss for loss in self.losses if now - loss.last_at < KEPT_SECONDS))

    def acknowledged(self, now: float, by: str, reason: str) -> LossRecords:
        """Return the records after somebody has acknowledged all losses."""
        count = sum(loss.count for loss in self.losses)
        given = Acknowledgement(now, by[:_TEXT_LENGTH], reason[:_TEXT_LENGTH], count)
        return LossRecords((), (*self.acknowledgements, given)[-_KEPT_ACKNOWLEDGEMENTS:])

    def to_bytes(self) -> bytes:
        """Return exactly :data:`FILE_BYTES` bytes; where the causes do not fit, the rarest are counted together."""
        records = self
        while len(written := records._written()) > FILE_BYTES:
            records = records._smaller()
        return written.ljust(FILE_BYTES - 1, b" ") + b"\n" if len(written) < FILE_BYTES else written

    def _written(self) -> bytes:
        document = json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()
        return f"{_MAGIC} {zlib.crc32(document):08x}\n".encode() + document

    def _smaller(self) -> LossRecords:
        if len(self.acknowledgements) > 1:
            return replace(self, acknowledgements=self.acknowledgements[1:])
        if len(self.losses) > 1:
            *others, rarer, rarest = sorted(self.losses, key=lambda loss: -loss.count)
            joined = replace(rarer + rarest, kind=rarer.kind, cause=SEVERAL_CAUSES, example="")
            return replace(self, losses=(*others, joined))
        return LossRecords()

    @classmethod
    def from_bytes(cls, written: bytes) -> LossRecords:
        """Return what :meth:`to_bytes` wrote; nothing for a new file. Raises ValueError where it is damaged."""
        head, _, document = written.partition(b"\n")
        if not head.strip(b"\0 "):
            return cls()
        document = document.rstrip(b" \n\0")
        if head != f"{_MAGIC} {zlib.crc32(document):08x}".encode():
            raise ValueError("the records of losses are damaged, or of another version")
        found = json.loads(document)
        return cls(_all(Loss, found["losses"]), _all(Acknowledgement, found["acknowledgements"]))


def _all(kind: type[Any], found: Sequence[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(kind(**one) for one in found)


def _shortened(loss: Loss) -> Loss:
    texts = {name: getattr(loss, name)[:_TEXT_LENGTH] for name in ("cause", "remedy", "example")}
    return replace(loss, **texts)
