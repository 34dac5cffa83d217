"""Which file systems carry a mapped log: told by real mounts where they may be made, else by their table."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_audit_exporter.outbox import file_system as module
from otel_audit_exporter.outbox.file_system import file_system_of, mapping_problem


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path | None]:
    """A tmpfs; None where this user may not mount one."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    done = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    yield folder if done else None
    if done:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_mounted_file_system_is_recognised(mounted: Path | None, tmp_path: Path) -> None:
    assert file_system_of(tmp_path) != ""
    if mounted is not None:
        assert (file_system_of(mounted), mapping_problem(mounted)) == ("tmpfs", None)


MOUNTS = """
22 1 0:21 / /proc rw - proc proc rw
30 1 {device} / / rw,relatime shared:1 - {kind} /dev/vda1 rw
31 1 253:7 / /below rw - ext4 /dev/vdb rw
32 1 0:99 / /btrfs rw - btrfs /dev/vdc rw
""".strip()


@pytest.mark.parametrize(
    ("kind", "below", "problem"),
    [
        ("ext4", "", None),
        ("xfs", "", None),
        ("tmpfs", "", None),
        ("btrfs", "", "its file system is btrfs"),
        ("nfs4", "", "its file system is nfs4"),
        ("fuse.sshfs", "", "its file system is fuse.sshfs"),
        ("overlay", "253:7", None),
        ("overlay", "0:99", "its file system is btrfs"),
        ("overlay", "9:9", "its file system cannot be told (no mount has its device)"),
    ],
)
def test_the_type_decides_and_of_an_overlay_the_one_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, below: str, problem: str | None
) -> None:
    device = tmp_path.stat().st_dev
    mounts = MOUNTS.format(kind=kind, device=f"{device >> 8 & 0xFFF}:{device & 0xFF | (device >> 12) & 0xFFF00}")
    read_text = Path.read_text

    def read(path: Path, *args: str, **options: str) -> str:
        return mounts if str(path) == "/proc/self/mountinfo" else read_text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(module, "_device_of_a_map", lambda folder: below)
    assert mapping_problem(tmp_path) == problem


def test_the_device_of_a_map_is_found_without_leaving_files(tmp_path: Path) -> None:
    assert module._device_of_a_map(tmp_path).count(":") == 1
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_than_on_linux_none_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "darwin" in str(mapping_problem(tmp_path))


def test_a_mount_table_that_cannot_be_read_means_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, **_: str) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", fail)
    assert "Permission denied" in str(mapping_problem(tmp_path))
