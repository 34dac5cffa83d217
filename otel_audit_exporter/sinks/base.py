"""What every sink is: something that takes rows, and says whose fault it is when it does not."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, Protocol, runtime_checkable

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.one_line import one_line, short_code
from otel_audit_exporter.sinks.verdict import Fault, Verdict

_NO_LIMIT_SECONDS: Final = threading.TIMEOUT_MAX / 2  # the longest that can be waited for, with room for sums

JSON_COLUMNS: Final = frozenset({"old_values", "new_values", "metadata", "signature"})
"""The columns that hold JSON documents, where nobody says which they are."""

_DROPPED: Final = Verdict(
    Fault.RECORD,
    "see which BEFORE INSERT trigger of the table passes over the row (RETURN NULL, RAISE(IGNORE)), and have it let the"
    " row through",
)

_NO_FILE_LEFT: Final = Verdict(
    Fault.TRANSIENT, "raise the limit of open files (ulimit -n), or see what leaves files open"
)


class SinkError(Exception):
    """Say that an insert was not acknowledged; it carries no secret and no value of a row.

    ``verdict`` says what to do. ``code`` is the SQLSTATE, PostgREST's or SQLite's error name, ``status`` the
    HTTP status, ``retry_after`` the seconds that the server asked to be left alone for; each None where there
    was none. ``message`` is one sentence for people. In code and message control characters are made visible: one line
    is one line. ``stored``: the positions of rows that are stored all the same; the error is that of the others.
    """

    def __init__(
        self,
        verdict: Verdict,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        stored: Collection[int] = (),
    ) -> None:
        self.verdict = verdict
        self.message = one_line(message)
        self.code = None if code is None else short_code(code)
        self.status = status
        self.retry_after = retry_after
        self.stored = stored
        super().__init__(self.message)

    def __str__(self) -> str:
        known = [f"HTTP {self.status}" if self.status else "", self.code or ""]
        where = ", ".join(part for part in known if part)
        return f"{self.message} ({where})" if where else self.message


@runtime_checkable
class Sink(Protocol):
    """Takes rows: bytes of JSON objects that all have the same keys, the columns.

    Safe to call from several threads at once. A sink keeps nothing: a row is stored, or it is the caller's.
    """

    @property
    def name(self) -> str:
        """Say which kind of sink it is: ``"supabase"``, ``"postgres"``, ``"sqlite"``, ``"memory"``."""

    @property
    def target(self) -> str:
        """Say where rows go, for people: no key and no password."""

    def insert(self, rows: Sequence[bytes], deadline: float) -> None:
        """Store every row whose id is not there yet, all or none.

        Returns only when each row is stored or its id was there already. ``deadline`` is a value of
        ``Clock.monotonic()``, for everything together, and holds even if the peer never answers. Raises
        :class:`SinkError`, after which either nothing is stored, or nobody knows (``verdict.perhaps_stored``), or
        the rows at its ``stored`` are and of the others the same is true: the same rows may be inserted again.
        """

    def close(self) -> None:
        """Close every connection; a later insert opens a new one."""

    def renew_after_fork(self) -> None:
        """Forget the parent's connections and locks, in a forked child, without touching the connections."""


def deadline_after(timeout_millis: float | None) -> float:
    """Return the ``Clock.monotonic()`` at which so many milliseconds are over; None: no limit."""
    seconds = _NO_LIMIT_SECONDS if timeout_millis is None else min(timeout_millis / 1000, _NO_LIMIT_SECONDS)
    return Clock.monotonic() + seconds


def seconds_left(deadline: float) -> float:
    """Say how long it is to ``deadline``, a value of ``Clock.monotonic()``: never negative."""
    return max(deadline - Clock.monotonic(), 0.0)


def not_stored(stored: Collection[int] = ()) -> SinkError:
    """Return the error of rows that the table took without a word and does not have; ``stored``: those that it has."""
    return SinkError(_DROPPED, "the table took the row and did not store it: a trigger drops it", stored=stored)


def unproved(error: SinkError, stored: Collection[int] = ()) -> SinkError:
    """Return the error of a look-up that failed after an insert: of rows not ``stored`` for sure nobody knows."""
    return SinkError(
        replace(error.verdict, perhaps_stored=True),
        error.message,
        code=error.code,
        status=error.status,
        retry_after=error.retry_after,
        stored=stored,
    )


def no_file_left() -> SinkError | None:
    """Return the error of a process that cannot open one file more; None where it can.

    Ask where something cannot be opened: the libraries' own errors blame the name server, the certificates or the
    database file.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return SinkError(_NO_FILE_LEFT, "too many files are open in this process or on this machine")
    return None
