"""The pages on threads and locks name those that the code has."""

from __future__ import annotations

import re

from otel_audit_exporter.runtime import fork_safety
from tests.docs.pages import ROOT, all_pages

PAGES = all_pages()


def test_every_thread_of_the_library_is_on_the_page() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "otel_audit_exporter").rglob("*.py")]
    calls = [call for source in sources for call in re.findall(r"(?:new_thread|SenderThread)\([^)]*\)", source)]
    names = {name for call in calls for name in re.findall(r'f?"((?:otel-)?audit-[a-z-]+?)-?["{]', call)}
    assert len(names) >= 8
    assert [name for name in names if f"`{name}" not in PAGES["architecture/threads.md"]] == []


def test_the_order_of_locks_is_the_codes() -> None:
    listed = re.findall(r"^\d\. (.*)$", fork_safety.__doc__ or "", re.MULTILINE)
    named = re.findall(r"``([^`]+)``", "\n".join(listed))
    shown = re.findall(r"^\| \d \| (.*?) \|", PAGES["architecture/locks.md"], re.MULTILINE)
    assert len(shown) == len(listed)
    assert [name for name in re.findall(r"`([^`]+)`", "\n".join(shown)) if name in named] == named
