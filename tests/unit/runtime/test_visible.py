"""Text that shows what it holds."""

from __future__ import annotations

import json

import pytest

from otel_audit_exporter.cli.console import json_text
from otel_audit_exporter.runtime.visible import visible, visible_json

HIDDEN = ["\x07", "\x1b", "\x85", "\x9b", "\u200b", "\u200f", "\u202e", "\u2066", "\ufeff", "\U000e0000", "\U000e0041"]


@pytest.mark.parametrize("char", HIDDEN)
def test_what_cannot_be_seen_is_written_out(char: str) -> None:
    assert char not in visible(f"a{char}b")
    assert visible(f"a{char}b").startswith("a\\")


@pytest.mark.parametrize("char", HIDDEN)
def test_json_says_the_same_and_hides_nothing(char: str) -> None:
    document = json_text({"note": f"a{char}b"})
    assert char not in document
    assert json.loads(document) == {"note": f"a{char}b"}


def test_what_can_be_seen_stays() -> None:
    text = "Zoë 日本語 \U0001f6a2\n\ttab"
    assert visible(text) == text
    assert visible_json(text) == text
