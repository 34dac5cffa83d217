"""The pages, and the code in them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ROOT / "docs" / "pages"
README: Final = ROOT / "README.md"
_BLOCK: Final = re.compile(
    r"(?:^<!-- setup(?: (?P<kind>[a-z ]+))?\n(?P<setup>.*?)^-->\n)?^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code of one page: what the page shows, and what has to run before it, which the page does not show."""

    page: str
    number: int
    language: str
    code: str
    setup: str
    kind: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}"


def all_pages() -> dict[str, str]:
    """Return every page by its name, and the README."""
    pages = {path.relative_to(PAGES).as_posix(): path.read_text(encoding="utf-8") for path in PAGES.rglob("*.md")}
    return {"README.md": README.read_text(encoding="utf-8"), **dict(sorted(pages.items()))}


def blocks() -> Iterator[Block]:
    """Yield every block of code."""
    for page, text in all_pages().items():
        for number, found in enumerate(_BLOCK.finditer(text), 1):
            yield Block(
                page, number, found["language"], found["code"], found["setup"] or "", (found["kind"] or "").strip()
            )


def hooks() -> ModuleType:
    """Return what fills the pages in, as mkdocs runs it."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
