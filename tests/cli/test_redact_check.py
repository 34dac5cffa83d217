"""`otel-audit redact-check`: what would be hidden is told, and not printed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.cli.conftest import Workspace

SECRET = "hunter2Correct9Horse"
EVENT = {
    "user": {"name": "ada", "db_password": SECRET, "token_count": 3},
    "headers": [["host", "x"], ["Authorization", f"Bearer {SECRET}"]],
    "note": f"https://ada:{SECRET}@example.com",
    "pair": {"name": "otp", "value": SECRET},
}


def check(workspace: Workspace, text: str, *flags: str) -> list[str]:
    file = workspace.directory / "values.txt"
    file.write_text(text, encoding="utf-8")
    done = workspace.run("redact-check", *flags, str(file))
    assert done.code == 0, done.err
    assert SECRET not in done.out + done.err
    return done.out.splitlines()


def test_each_value_of_a_document_is_printed_with_its_place(workspace: Workspace) -> None:
    assert check(workspace, json.dumps(EVENT)) == [
        "shown    user.name  ada",
        "hidden   user.db_password  [REDACTED]",
        "shown    user.token_count  3",
        "shown    headers[0][0]  host",
        "shown    headers[0][1]  x",
        "shown    headers[1][0]  Authorization",
        "hidden   headers[1][1]  [REDACTED]",
        "in part  note  https://ada:[REDACTED]@example.com",
        "shown    pair.name  otp",
        "hidden   pair.value  [REDACTED]",
    ]


def test_lines_of_json_and_of_text_are_printed_by_number(workspace: Workspace) -> None:
    lines = [json.dumps({"password": SECRET}), "", f"password={SECRET}&a=1", "plain\x1b[31m"]
    assert check(workspace, "\n".join(lines)) == [
        "hidden   line 1: password  [REDACTED]",
        "in part  line 3  password=[REDACTED]&a=1",
        r"shown    line 4  plain\x1b[31m",
    ]


def test_the_list_of_keys_is_the_environments(workspace: Workspace, environment: Callable[[str, object], None]) -> None:
    environment("OTEL_AUDIT_REDACT_KEYS", "iban")
    (finding,) = check(workspace, json.dumps({"iban": SECRET}), "--json")
    assert json.loads(finding) == {"verdict": "hidden", "path": "iban", "recorded": "[REDACTED]"}


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_reported(workspace: Workspace, name: str) -> None:
    done = workspace.run("redact-check", name)
    assert (done.code, done.out) == (1, "")
    assert name in done.err
