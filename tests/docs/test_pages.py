"""The pages say what is so: generated tables are whole, links lead somewhere, the README is short."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import otel_audit_exporter
from otel_audit_exporter.config.options import SETTINGS
from otel_audit_exporter.event.fields import FIELD_TABLE
from tests.docs.pages import PAGES, README, ROOT, all_pages, hooks

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
CONFIGURATION = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
SITE = re.findall(r"^site_url: (\S+)$", CONFIGURATION, re.MULTILINE)[0]
REPOSITORY = re.findall(r"^repo_url: (\S+)$", CONFIGURATION, re.MULTILINE)[0]


def test_the_readme_is_short_and_every_link_in_it_absolute() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.encode()) <= 10_000
    assert [link for link in links_of(text) if not link.startswith("https://")] == []


def test_absolute_links_lead_to_pages_and_files() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [README, *(ROOT / ".github").glob("*.md"), ROOT / "examples" / "monitoring" / "README.md"]
    links = {link for text in texts for link in links_of(text.read_text(encoding="utf-8"))}
    links = {link for link in links if link.startswith("https://")} | {*project["urls"].values()}
    pages = {link.removeprefix(SITE).partition("#")[0] for link in links if link.startswith(SITE)}
    files = {link.removeprefix(f"{REPOSITORY}/blob/main/") for link in links if "/blob/main/" in link}
    assert [page for page in pages if not _is_page(page)] == []
    assert [file for file in files if not (ROOT / file).is_file()] == []
    assert [link for link in links if not link.startswith((SITE, REPOSITORY))] == []


def _is_page(page: str) -> bool:
    whole = PAGES / page
    return whole.is_file() or (whole / "index.md").is_file() or whole.with_name(f"{whole.name}.md").is_file()


def links_of(text: str) -> list[str]:
    return [first or second for first, second in LINK.findall(text)]


def test_relative_links_lead_to_pages() -> None:
    broken = [
        (page, link)
        for page, text in all_pages().items()
        for link in links_of(text)
        if not link.startswith(("https://", "#")) and page != "README.md"
        if not _is_made(link) and not (PAGES / page).parent.joinpath(link.partition("#")[0]).is_file()
    ]
    assert broken == []


def _is_made(link: str) -> bool:
    return (ROOT / "tests" / "benchmarks" / "results" / Path(link).name).is_file()


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r"([\w/-]+\.md)$", CONFIGURATION.partition("\nnav:\n")[2], re.MULTILINE)
    assert sorted(listed) == sorted(page for page in all_pages() if page != "README.md")


def test_every_setting_and_every_field_is_in_the_reference() -> None:
    settings, fields = hooks().settings(), hooks().fields()
    assert [one.argument for one in SETTINGS if f"`{one.argument}`" not in settings] == []
    assert [one.name for one in FIELD_TABLE if f"| `{one.name}` |" not in fields] == []


def test_every_command_and_its_options_are_in_the_reference() -> None:
    commands = hooks().commands()
    assert {"otel-audit emit", "otel-audit dead-letters edit", "otel-audit outbox readdress", "otel-audit schema"} <= {
        *re.findall(r"^#+ `(.+)`$", commands, re.MULTILINE)
    }
    assert {"`--add`", "`--reason`", "`--timeout`", "`--watch`"} <= {*re.findall(r"`--[\w-]+`", commands)}


def test_every_public_name_is_in_the_reference() -> None:
    text = all_pages()["reference/python.md"]
    assert {*re.findall(r"^::: otel_audit_exporter\.(\w+)$", text, re.MULTILINE)} >= {*otel_audit_exporter.__all__}


def test_examples_are_shown_with_their_sources_and_links_into_the_repository() -> None:
    shown = hooks().example("aws_lambda", REPOSITORY)
    assert 'title="examples/aws_lambda/function.py"' in shown
    assert f"({REPOSITORY}/tree/main/examples/aws_lambda/function.py)" in shown
    assert "OTEL_AUDIT_PROFILE=ephemeral python invoke.py" in shown


@pytest.mark.parametrize(
    ("page", "link", "target"),
    [
        ("index.md", f"{SITE}start/flask/", "start/flask.md"),
        ("index.md", f"{SITE}start/", "start/index.md"),
        ("guides/events.md", f"{SITE}operations/promises/#what-is-not", "../operations/promises.md#what-is-not"),
        ("index.md", f"{SITE}pictures/flow.svg", "pictures/flow.svg"),
    ],
)
def test_links_to_the_own_site_become_links_to_its_files(page: str, link: str, target: str) -> None:
    assert hooks().with_own_links(f"[x]({link})", page, SITE) == f"[x]({target})"


def test_what_runs_before_a_block_is_not_shown() -> None:
    assert hooks().SETUP.sub("", "a\n<!-- setup for pytest\nx = 1\n-->\n```python\n") == "a\n```python\n"


def test_no_text_of_three_lines_is_there_twice() -> None:
    seen: dict[str, str] = {}
    twice = []
    for page, text in all_pages().items():
        lines = [
            line for line in text.splitlines() if len(line) > 60 and not line.startswith(("![", "from ", "import "))
        ]
        for three in zip(lines, lines[1:], lines[2:], strict=False):
            first = seen.setdefault("\n".join(three), page)
            if first != page:
                twice.append((first, page, three[0]))
    assert twice == []


def test_the_help_of_make_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: help (.+)$", makefile, re.MULTILINE)
    told = makefile.partition("\nhelp:\n")[2].partition("\n\n")[0]
    assert [target for target in targets.split() if f"make {target}" not in told] == []
