"""What mkdocs does beside Markdown: it fills in what the code and other files say, so that no text is there twice.

A page asks for it in a comment: `<!-- insert: settings -->`, `fields`, `commands`, `readme`, `changelog`, `bench`, or
`example NAME` for the README and the sources of an example. The comments `<!-- setup ... -->` hold what a test runs
before the block below; they are left out of the site.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from posixpath import relpath
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
INSERT: Final = re.compile(r"^<!-- insert: (\w+)(?: (\w+))? -->$", re.MULTILINE)
SETUP: Final = re.compile(r"^<!-- setup[a-z ]*\n.*?^-->\n", re.DOTALL | re.MULTILINE)
_BENCH: Final = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)
_ROLE: Final = re.compile(r":(?:class|func|meth|mod|data|attr|exc):<code>~?\.?([^<]+)</code>")
_LINK: Final = re.compile(r"(?<=\]\()(?!https?:|#|/)([^)\s]+)(?=\))")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Fill in what a page asks for."""
    filled = INSERT.sub(lambda asked: inserted(asked[1], asked[2] or "", config["repo_url"]), markdown)
    return SETUP.sub("", with_own_links(filled, page.file.src_uri, config["site_url"]))


def on_files(files: Any, *, config: Any) -> Any:
    """Show the benchmark's pictures where it has left them."""
    from mkdocs.structure.files import File

    for picture in sorted((ROOT / "tests" / "benchmarks" / "results").glob("*.svg")):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_content(html: str, *, page: Any, config: Any, files: Any) -> str:
    """Show a docstring's references as code."""
    return _ROLE.sub(r"<code>\1</code>", html)


def inserted(what: str, name: str, repo_url: str) -> str:
    """Return the Markdown for one request."""
    if what == "example":
        return example(name, repo_url)
    makers: dict[str, Callable[[], str]] = {
        "settings": settings,
        "fields": fields,
        "commands": commands,
        "readme": lambda: (ROOT / "README.md").read_text(encoding="utf-8"),
        "changelog": lambda: (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "examples": lambda: _body(ROOT / "examples", repo_url),
        "bench": bench,
    }
    return makers[what]()


def settings() -> str:
    """Return the table of settings."""
    from otel_audit_exporter.config.options import settings_table

    return settings_table()


def fields() -> str:
    """Return the table of an event's fields."""
    from otel_audit_exporter.event.fields import fields_table

    return fields_table()


def bench() -> str:
    """Return the README's table of costs."""
    found = _BENCH.search((ROOT / "README.md").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError("the README has no table of costs")
    return found[0]


def commands() -> str:
    """Return every command with its arguments and options."""
    import typer

    from otel_audit_exporter.cli.app import app

    group = typer.main.get_command(app)
    return "\n\n".join(_described(group, ("otel-audit",)))


def _described(command: Any, path: tuple[str, ...]) -> list[str]:
    parts = [f"{'#' * min(len(path), 3)} `{' '.join(path)}`" if len(path) > 1 else "", _help(command.help)]
    rows = [_row(parameter) for parameter in command.params if not parameter.hidden]
    if rows:
        parts.append("\n".join(["| | | default |", "| --- | --- | --- |", *rows]))
    for name, child in sorted(getattr(command, "commands", {}).items()):
        parts += _described(child, (*path, name))
    return [part for part in parts if part]


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = (*parameter.opts, *parameter.secondary_opts) if is_option else (parameter.name.upper(),)
    shown = ", ".join(f"`{name}`" for name in names)
    default = parameter.default
    is_told = default not in (None, False, (), [], "") and not callable(default)
    text = f"`{getattr(default, 'value', default)}`" if is_told else ""
    return f"| {shown} | {_cell(_help(parameter.help))} | {_cell(text)} |"


def _help(text: str | None) -> str:
    """Return a help's paragraphs, each on one line."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").replace("\b", "").split("\n\n")).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def example(name: str, repo_url: str) -> str:
    """Return what an example's README says, and its sources."""
    folder = ROOT / "examples" / name
    parts = [_body(folder, repo_url)]
    for file in sorted((*folder.glob("*.py"), *folder.glob("*.yaml"))):
        language = {".py": "python", ".yaml": "yaml"}[file.suffix]
        source = file.read_text(encoding="utf-8").rstrip()
        parts.append(f'```{language} title="examples/{name}/{file.name}"\n{source}\n```')
    return "\n\n".join(parts)


def _body(folder: Path, repo_url: str) -> str:
    """Return a README without its title; its links lead to the repository."""
    text = (folder / "README.md").read_text(encoding="utf-8").partition("\n")[2].strip()
    base = f"{repo_url}/tree/main/{folder.relative_to(ROOT).as_posix()}"
    return _LINK.sub(lambda link: f"{base}/{link[1]}", text)


def with_own_links(markdown: str, page: str, site_url: str) -> str:
    """Have links to the site's own address lead to the page's file, so that a broken one is found."""

    def relative(link: re.Match[str]) -> str:
        path, mark, anchor = link[1].partition("#")
        target = f"{path}index.md" if path.endswith("/") or not path else path
        if path.endswith("/") and not (ROOT / "docs" / "pages" / target).exists():
            target = f"{path.rstrip('/')}.md"
        return relpath(target, PurePosixPath(page).parent) + mark + anchor

    return re.sub(rf"{re.escape(site_url)}([^)\s\"]*)", relative, markdown)
