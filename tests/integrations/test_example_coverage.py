"""The examples are audited whole, and a handler of theirs that forgets its event fails a test that names it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.servers import environment

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
PROJECT: Final = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_KEY": "sb_secret_of_the_test"}
IDS: Final = """
USER, YACHT, PART = (f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "123")
"""
FASTAPI: Final = """
def test_every_change_is_audited(audit_log):
    from fastapi.testclient import TestClient
    from main import app

    with TestClient(app, headers={"x-user": USER, "x-yacht": YACHT}) as client:
        created = client.post("/receivings", json={"vendor": "Shipyard", "total": "1.50"})
        client.put(f"/receivings/{created.json()['id']}", json={"vendor": "Shipyard", "total": "2"})
        audit_log.assert_every_mutation_recorded(app)
"""
FLASK: Final = """
def test_every_change_is_audited(audit_log):
    from shop import app

    app.test_client().post(f"/parts/{PART}/order", headers={"x-user": USER, "x-yacht": YACHT})
    audit_log.assert_every_mutation_recorded(app)
"""
DJANGO: Final = """
def test_every_change_is_audited(audit_log):
    from shop import application
    from django.test import Client

    Client().post(f"/parts/{PART}/order", headers={"x-user": USER, "x-yacht": YACHT})
    audit_log.assert_every_mutation_recorded(application)
"""
# What is taken out of the handlers, and the line that names the route then.
EVENT: Final = r"^ +audit_event\(.*\)\n"
AUDITED: Final = r"^@audited\((?:.|\n)*?^\)\n"


def run(name: str, test: str, folder: Path, forgotten: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a test of an example's copy, in which a handler may have forgotten its event."""
    shutil.copytree(EXAMPLES / name, folder, dirs_exist_ok=True)
    (folder / "test_coverage.py").write_text(IDS + test, encoding="utf-8")
    if forgotten is not None:
        (module,) = (path for path in (folder / "main.py", folder / "shop.py") if path.exists())
        code, count = re.subn(forgotten, "", module.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
        assert count == 1
        module.write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_coverage.py"],
        cwd=folder,
        env=environment(folder, PYTHONPATH=os.pathsep.join(map(str, (folder, EXAMPLES.parent))), **PROJECT),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("name", "test"), [("fastapi_supabase", FASTAPI), ("flask_app", FLASK), ("django_app", DJANGO)]
)
def test_every_change_in_an_example_is_audited(name: str, test: str, tmp_path: Path) -> None:
    whole = run(name, test, tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr


@pytest.mark.parametrize(
    ("name", "test", "forgotten", "named"),
    [
        ("fastapi_supabase", FASTAPI, EVENT, "POST /receivings"),
        ("fastapi_supabase", FASTAPI, AUDITED, "PUT /receivings/{receiving_id}"),
        ("flask_app", FLASK, EVENT, "POST /parts/<uuid:part_id>/order"),
        ("django_app", DJANGO, EVENT, "POST /parts/<uuid:part_id>/order"),
    ],
    ids=["fastapi-event", "fastapi-decorator", "flask", "django"],
)
def test_a_forgotten_event_in_an_example_is_named(
    name: str, test: str, forgotten: str, named: str, tmp_path: Path
) -> None:
    lacking = run(name, test, tmp_path, forgotten)
    assert lacking.returncode == 1
    assert f"{named}: recorded no audit event" in lacking.stdout
