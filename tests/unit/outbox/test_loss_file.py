"""The file of losses is made by whoever comes first, and written by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import portalocker
import pytest

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.outbox.loss_file import LossFile


@pytest.fixture
def held(tmp_path: Path) -> Iterator[LossFile]:
    """A file that somebody else writes just now."""
    file = LossFile(tmp_path)
    with file.path.open("wb") as theirs:
        portalocker.lock(theirs, portalocker.LockFlags.EXCLUSIVE)
        yield file


def test_a_file_that_another_process_makes_just_now_is_no_trouble(
    held: LossFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as it was when this one looked
    held.make()


def test_a_change_says_that_another_process_writes(held: LossFile) -> None:
    with pytest.raises(OutboxError, match=r"are being written by another process"):
        held.change(lambda records: records)
