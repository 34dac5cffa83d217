"""The pytest plugin, used as a user would: in a project and a pytest process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import audit_event, configure_audit, shutdown_audit
from otel_audit_exporter.testing import AuditLog

APPLICATION = """
    import uuid

    from otel_audit_exporter import audit_event, configure_audit

    YACHT, USER = uuid.uuid4(), uuid.uuid4()


    def start():
        return configure_audit("supabase", redact_keys=["pin"])


    def create_part(part_id, **values):
        return audit_event("create_part", entity_type="part", entity_id=part_id, yacht_id=YACHT, user_id=USER,
                           new_values=values)
"""


class Project:
    """A throw-away project with an application and its tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("shop.py", APPLICATION)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OTEL_"))}
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments],
            cwd=self.folder,
            env={**environ, "XDG_STATE_HOME": str(self.folder / "state"), "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_fixture_catches_events_without_configuration_or_files(project: Project) -> None:
    project.write(
        "test_shop.py",
        """
        import uuid
        from shop import create_part

        def test_recorded(audit_log):
            part = uuid.uuid4()
            receipt = create_part(part, name="impeller")
            event = audit_log.assert_recorded(action="create_part", entity_id=part, new_values={"name": "impeller"})
            assert event.record_id == receipt.record_id
            assert receipt.state == "stored"
            assert receipt.result(timeout=5).record_id == receipt.record_id

        def test_isolated(audit_log):
            audit_log.assert_nothing_recorded()
            assert audit_log.events == []
        """,
    )
    result = project.pytest("-W", "error")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout
    assert not (project.folder / "state").exists()
    assert not list(project.folder.glob("*.db*"))


def test_a_failure_shows_the_nearest_events_and_what_differs(project: Project) -> None:
    project.write(
        "test_shop.py",
        """
        import uuid
        from shop import create_part

        def test_fails(audit_log):
            create_part(uuid.uuid4(), name="bilge pump", stock=3)
            part = uuid.UUID(int=7)
            create_part(part, name="impeller", stock=3)
            audit_log.assert_recorded(action="create_part", entity_id=part, new_values={"name": "impeller", "stock": 4})

        def test_nothing(audit_log):
            create_part(uuid.UUID(int=8), name="impeller")
            audit_log.assert_nothing_recorded()
        """,
    )
    result = project.pytest()
    assert result.returncode == 1
    said = result.stdout
    nearest = said.index("create_part part 00000000-0000-0000-0000-000000000007")
    assert nearest < said.index("create_part part ", nearest + 20)
    assert "new_values: expected {'stock': 4}, recorded {'stock': 3}" in said
    assert "1 audit event(s) recorded, where none should be" in said


def test_configure_audit_checks_its_arguments_and_returns_the_fixtures_pipeline(project: Project) -> None:
    project.write(
        "test_shop.py",
        """
        import pytest, shop
        from opentelemetry.sdk._logs import LoggerProvider
        from otel_audit_exporter import *

        def test_checked(audit_log):
            pipeline = get_audit_pipeline()
            assert shop.start() is pipeline
            assert attach_audit(LoggerProvider(shutdown_on_exit=False), "postgres", ids="text") is pipeline
            with pytest.raises(AuditConfigurationError, match="OTEL_AUDIT_EXPORTER"):
                configure_audit("excel")
            with pytest.raises(AuditConfigurationError, match="mode"):
                configure_audit(mode="now and then")

        def test_its_settings_hold(audit_log):
            shop.start()
            shop.create_part(shop.YACHT, pin="1234", password="not on the list now")
            audit_log.assert_recorded(new_values={"pin": "[REDACTED]", "password": "not on the list now"})

        def test_shutdown_and_a_new_start(audit_log):
            shop.start()
            shop.create_part(shop.YACHT)
            assert shutdown_audit()
            with pytest.raises(AuditShutdownError):
                shop.create_part(shop.YACHT)
            shop.start()
            shop.create_part(shop.YACHT)
            assert len(audit_log.events) == 2

        def test_afterwards_nothing_is_configured():
            with pytest.raises(AuditConfigurationError):
                get_audit_pipeline()
        """,
    )
    result = project.pytest("-W", "error")
    assert result.returncode == 0, result.stdout + result.stderr


def test_shutdown_does_not_wait_when_the_tested_code_configures_auditing() -> None:
    with AuditLog() as audit_log:
        for keys in (["pin"], ["iban"]):
            configure_audit("supabase", redact_keys=keys)
            assert shutdown_audit(timeout_millis=600_000)  # longer than a test may take
        audit_log.assert_nothing_recorded()


def test_it_works_with_async_tests_and_under_xdist(project: Project) -> None:
    project.write(
        "test_shop.py",
        """
        import asyncio, uuid
        import pytest
        from shop import create_part

        @pytest.mark.anyio
        @pytest.mark.parametrize("anyio_backend", ["asyncio"])
        @pytest.mark.parametrize("number", range(20))
        async def test_tasks_and_threads(audit_log, anyio_backend, number):
            async def work(name):
                await asyncio.sleep(0)
                receipt = create_part(uuid.uuid4(), name=name)
                assert (await receipt).record_id == receipt.record_id
                return await asyncio.to_thread(create_part, uuid.uuid4(), name=name)

            await asyncio.gather(*(work(str(index)) for index in range(10)))
            assert len(audit_log.events) == 20
        """,
    )
    result = project.pytest("-n", "2", "-v")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "20 passed" in result.stdout
    assert "[gw0]" in result.stdout
    assert "[gw1]" in result.stdout


def test_unittest_users_have_the_same_as_a_context_manager(project: Project) -> None:
    project.write(
        "check.py",
        """
        import unittest, uuid
        from otel_audit_exporter.testing import AuditLog
        from shop import create_part

        class ShopTest(unittest.TestCase):
            def setUp(self):
                self.audit_log = self.enterContext(AuditLog())

            def test_recorded(self):
                create_part(uuid.uuid4())
                self.audit_log.assert_recorded(action="create_part")
                self.audit_log.clear()
                self.audit_log.assert_nothing_recorded()

            def test_isolated(self):
                self.audit_log.assert_nothing_recorded()

        unittest.main()
        """,
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "check.py"], cwd=project.folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_values_of_any_depth_and_any_size_are_recorded(audit_log: AuditLog) -> None:
    deep: Any = 10**5000
    for _ in range(5_000):
        deep = [deep]
    for values in ({"n": 2**70}, {"n": 10**5000}, {"deep": deep}):
        record(values)
    assert audit_log.events[1].new_values == {"n": 10**5000}
    assert len(audit_log.events) == 3


def test_the_same_log_opened_again_starts_empty() -> None:
    audit_log = AuditLog()
    with audit_log:
        record({})
    assert len(audit_log.events) == 1
    with audit_log:
        audit_log.assert_nothing_recorded()


def record(values: Any) -> None:
    someone = uuid.uuid4()
    audit_event("count", entity_type="part", entity_id=someone, yacht_id=someone, user_id=someone, new_values=values)
