"""Whose the outbox is. To become another user takes root: elsewhere only the first tests are there."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_audit_exporter import (
    AuditConfigurationError,
    OutboxError,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_stats,
    shutdown_audit,
)
from otel_audit_exporter.outbox import ownership
from otel_audit_exporter.runtime.log import RateLimitedLogger
from tests.support.events import arguments
from tests.support.running import run_in_child

NOBODY, SOMEBODY = 65534, 54321


@pytest.fixture
def base(bare_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An outbox directory that every user can reach."""
    monkeypatch.setattr(ownership, "_warnings", RateLimitedLogger(1e9))
    above = Path(tempfile.mkdtemp(prefix="outbox-"))
    above.chmod(0o755)
    (above / "outbox").mkdir(mode=0o700)
    yield above / "outbox"
    shutil.rmtree(above)


def configure(base: Path) -> None:
    configure_audit("postgres", dsn="postgresql://127.0.0.1:1/x", outbox_dir=base)


def folder_in(base: Path) -> Path:
    """Make a destination's folder as a process does, and return it."""
    configure(base)
    shutdown_audit(0)
    (folder,) = base.iterdir()
    return folder


def test_a_link_in_the_place_of_the_folder_is_refused(base: Path) -> None:
    folder = folder_in(base)
    elsewhere = base.parent / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    with pytest.raises(AuditConfigurationError, match="is a link or no folder"):
        configure(base)


def test_a_folder_that_others_can_write_to_is_closed(base: Path) -> None:
    folder = folder_in(base)
    folder.chmod(0o777)
    configure(base)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_directory_that_everybody_can_rename_in_is_warned_of_once(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base.chmod(0o777)
    for _ in range(2):
        configure(base)
        shutdown_audit(0)
    assert caplog.text.count("set the sticky bit") == 1


if os.geteuid() == 0:

    def as_nobody(task: Callable[[], object]) -> bool:
        """Do something in a forked child that has become another user."""

        def become() -> None:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            task()

        return run_in_child(become, 60)

    def emit_and_hold() -> None:
        audit_event(**arguments())
        assert get_audit_stats().pending == 1
        assert not flush_audit(0)

    def refused(words: str) -> Callable[[], None]:
        def task() -> None:
            with pytest.raises(OutboxError, match=words):
                audit_event(**arguments())

        return task

    def test_roots_directory_that_everybody_can_write_to_is_used(base: Path) -> None:
        base.chmod(0o777)

        def task() -> None:
            configure(base)
            emit_and_hold()

        assert as_nobody(task)

    @pytest.mark.parametrize("whose", ["outbox", "folder"])
    def test_what_belongs_to_somebody_else_is_refused_with_the_remedy(base: Path, whose: str) -> None:
        folder = folder_in(base)
        base.chmod(0o777)
        os.chown(base if whose == "outbox" else folder, SOMEBODY, SOMEBODY)

        def task() -> None:
            with pytest.raises(AuditConfigurationError, match=f"belongs to user {SOMEBODY}.*chown -R {NOBODY}"):
                configure(base)

        assert as_nobody(task)

    def test_a_file_that_somebody_else_has_planted_is_not_delivered(base: Path) -> None:
        configure(base)
        audit_event(**arguments())
        shutdown_audit(0)
        (log,) = base.glob("*/*.log")
        (segment,) = log.glob("*.seg")
        os.chown(segment, SOMEBODY, SOMEBODY)
        configure(base)
        assert get_audit_stats().recovered == 0
        os.chown(segment, 0, 0)
        shutdown_audit(0)
        configure(base)
        assert get_audit_stats().recovered == 1

    @pytest.mark.parametrize("forks", [True, False])
    def test_what_root_has_made_serves_the_directorys_owner(base: Path, forks: bool) -> None:
        os.chown(base, NOBODY, NOBODY)

        def in_one_process() -> None:
            configure(base)
            audit_event(**arguments())
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            for _ in range(400):  # more than one segment takes
                audit_event(**arguments(new_values={"long": "x" * 1000}))
            assert get_audit_stats().pending == 401

        if forks:
            configure(base)
            audit_event(**arguments())
            assert as_nobody(emit_and_hold)
        else:
            assert run_in_child(in_one_process, 60)
        assert {path.stat().st_uid for path in base.rglob("*")} == {NOBODY}

    def test_a_worker_that_cannot_use_roots_directory_gets_a_remedy(base: Path) -> None:
        configure(base)
        audit_event(**arguments())
        assert as_nobody(refused(f"runs as user {NOBODY}.*chown -R {NOBODY} {base}"))
