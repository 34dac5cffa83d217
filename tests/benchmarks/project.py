"""The real stack, in a process of its own: started when the first measurement needs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.benchmarks.apart import plain_environment

_ROOT: Final = Path(__file__).parents[2]
_END_SECONDS: Final = 30.0
TABLE: Final = "public.pms_audit_log"


class Project:
    """A Supabase project with PostgreSQL, PostgREST and a gateway that can be slow, hang or refuse."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._access: dict[str, str] = {}

    @property
    def supabase(self) -> dict[str, str]:
        """The arguments of the Supabase exporter."""
        access = self._started()
        return {"exporter": "supabase", "url": access["url"], "key": access["key"]}

    @property
    def postgres(self) -> dict[str, str]:
        """The arguments of the PostgreSQL exporter."""
        return {"exporter": "postgres", "dsn": self._started()["dsn"]}

    @contextmanager
    def slowed(self, seconds: float) -> Iterator[None]:
        """Have every response come so much later."""
        if not seconds:
            yield
            return
        with self._until_cleared("slow", seconds=seconds):
            yield

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Have every request hang before the database sees it."""
        with self._until_cleared("hang"):
            yield

    def refuse(self) -> None:
        """Refuse every connection."""
        self._tell("refuse")

    def accept(self) -> None:
        """Accept connections again."""
        self._tell("clear")

    def empty_table(self) -> None:
        """Have every side find the same: an empty table, and nothing left for the server to write."""
        with psycopg.connect(self._started()["dsn"], autocommit=True) as connection:
            connection.execute(f"TRUNCATE {TABLE}")
            connection.execute("CHECKPOINT")

    def count(self) -> int:
        """Return how many rows are in the table."""
        with psycopg.connect(self._started()["dsn"]) as connection:
            found = connection.execute(f"SELECT count(*) FROM {TABLE}").fetchone()
        assert found is not None
        return int(found[0])

    def close(self) -> None:
        """End the stack."""
        if self._process is not None:
            self._process.stdin.close()  # type: ignore[union-attr]  # it is a pipe
            self._process.wait(_END_SECONDS)

    @contextmanager
    def _until_cleared(self, command: str, **said: Any) -> Iterator[None]:
        self._tell(command, **said)
        try:
            yield
        finally:
            self._tell("clear")

    def _started(self) -> dict[str, str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.project_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=_ROOT,
                env=plain_environment(),
                text=True,
            )
            self._access = self._read()
        return self._access

    def _tell(self, command: str, **said: Any) -> None:
        self._started()
        assert self._process is not None
        assert self._process.stdin is not None
        print(json.dumps({"command": command, **said}), file=self._process.stdin, flush=True)
        self._read()

    def _read(self) -> dict[str, str]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the stack ended; what it said is above")
        answer: dict[str, str] = json.loads(line)
        return answer
