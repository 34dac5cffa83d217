"""The page on the outbox's files says where each byte is: a log that was written is read by it alone."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import pytest

from tests.docs.pages import all_pages

PAGE = all_pages()["architecture/outbox-files.md"]
LEAVES_A_LOG = """
import os, signal, sys, uuid
from otel_audit_exporter import audit_event, configure_audit
configure_audit("sqlite", path="audit.db", outbox_dir="outbox", schedule_delay_millis=600_000)
ids = {name: uuid.uuid4() for name in ("entity_id", "yacht_id", "user_id")}
for action in ("first", "second"):
    audit_event(action, entity_type="part", **ids)
os.kill(os.getpid(), signal.SIGKILL)
"""


def rows(section: str) -> list[tuple[int, int, str]]:
    """Return the table of a section: the first byte, the last one, and what is there."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (\d+)(?: to (\d+))? \| (.*) \|$", text, re.MULTILINE)
    return [(int(first), int(last or first), what) for first, last, what in found]


def place(section: str, words: str) -> slice:
    (found,) = [slice(first, last + 1) for first, last, what in rows(section) if words in what]
    return found


def number(data: bytes, section: str, words: str) -> int:
    return int.from_bytes(data[place(section, words)], "little")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-c", LEAVES_A_LOG], cwd=tmp_path, check=False)
    (found,) = tmp_path.glob("outbox/*/*.log")
    return found


@pytest.mark.parametrize("section", ["A segment", "A frame", "`ended`"])
def test_no_byte_is_left_out(section: str) -> None:
    ends = [(first, last) for first, last, _ in rows(section)]
    assert ends[0][0] == 0
    assert all(before + 1 == first for (_, before), (first, _) in pairwise(ends))


def test_the_files_that_are_listed_are_those_of_a_log(log: Path) -> None:
    names = {re.sub(r"^\d{3}-|^\w+(?=\.spare)", "", file.name) for file in log.iterdir()}
    assert {"lock", "log.json", "ended"} <= names
    assert all(re.sub(r"^\d{8}", "", name) in PAGE for name in names)


def test_a_segment_and_its_first_frame_are_read_by_the_page(log: Path) -> None:
    data = (log / "000-00000001.seg").read_bytes()
    assert data[place("A segment", "OTELAUD")] == b"OTELAUD\x02"
    log_id = data[place("A segment", "the log's id")]
    assert log_id.hex() == json.loads((log / "log.json").read_text())["id"]
    assert number(data, "A segment", "the size of the file") == len(data)
    assert number(data, "A segment", "CRC-32") == crc32(data[: place("A segment", "CRC-32").start])

    frame = data[64:]
    seed = crc32(log_id + struct.pack("<II", 0, 1))
    payload = frame[8 : 8 + number(frame, "A frame", "the size of what follows")]
    assert number(frame, "A frame", "CRC-32") == crc32(payload, seed)
    assert number(frame, "A frame", "the tag") == 1 << 56 | 1
    assert struct.unpack("<d", frame[place("A frame", "when it was accepted")])[0] > 1.7e9
    assert b'"first"' in payload[16:]


def test_the_records_of_what_has_ended_are_read_by_the_page(log: Path) -> None:
    record = (log / "ended").read_bytes()[:32]
    log_id = bytes.fromhex(json.loads((log / "log.json").read_text())["id"])
    assert number(record, "`ended`", "the type") == 16
    assert number(record, "`ended`", "the length") == 32
    assert number(record, "`ended`", "or the segment's size") == (log / "000-00000001.seg").stat().st_size
    assert number(record, "`ended`", "CRC-32") == crc32(record[:28], crc32(log_id))
