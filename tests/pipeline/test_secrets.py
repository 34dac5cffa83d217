"""Keys, tokens and passwords are in no log, no representation and no error; users' secrets in no record."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter import (
    AuditConfigurationError,
    SupabaseAuditExporter,
    audit_event,
    configure_audit,
    flush_audit,
    get_audit_stats,
)
from otel_audit_exporter.config.settings import load_settings
from tests.stack import AuditTable, Stack, faults
from tests.stack.waiting import wait_until
from tests.support.events import arguments
from tests.support.rows import sqlite_rows

KEY = "sb_secret_S3CRETKEY"
TOKEN = "S3CRET.TOKEN.x"
WORDS = ("S3CRET", KEY, TOKEN)


def check(*texts: str) -> None:
    for text in texts:
        assert not [word for word in WORDS if word in text]


@pytest.mark.parametrize(
    "fault",
    [None, faults.invalid_api_key(), faults.internal_error(), faults.captive_portal(), faults.bad_gateway_page()],
)
def test_a_pipeline_that_fails_shows_no_secret(
    stack: Stack, audit_table: AuditTable, caplog: pytest.LogCaptureFixture, outbox_dir: str, fault: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    stack.gateway.keys.required = True
    pipeline = configure_audit("supabase", url=stack.url, key=KEY, token=TOKEN, table=audit_table.name)
    if fault is not None:
        stack.gateway.inject(fault, times=None)
    audit_event(**arguments())
    wait_until(lambda: get_audit_stats().last_error is not None, "an attempt has failed")
    pipeline.shutdown(100)
    said = [caplog.text, repr(pipeline), str(pipeline.stats()), repr(pipeline.settings), pipeline.target]
    said += [repr(exporter) for exporter in pipeline.exporters]
    said += [repr(exporter.channel.sink) for exporter in pipeline.exporters]
    check(*said, *(os.fspath(path) for path in Path(outbox_dir).rglob("*")))
    for path in Path(outbox_dir).rglob("*"):
        if path.is_file():
            assert b"S3CRET" not in path.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://x.example", "key": "S3CRET two\nlines"},
        {"url": "http://x.example", "key": KEY, "token": "S3CRET\x00"},
        {"url": "http://u:S3CRET@x.example", "key": KEY},
        {"url": "http://:S3CRET@x.example", "key": KEY},
        {"url": "nonsense S3CRET@", "key": KEY},
        {"url": "http://x.example?apikey=S3CRET", "key": KEY},
        {"url": "http://x.example", "key": 5, "dsn": "postgresql://u:S3CRET@h/d"},
        {"url": "http://x.example", "key": KEY, "mode": "fast"},
    ],
)
def test_a_configuration_error_shows_no_secret(options: dict[str, Any]) -> None:
    with pytest.raises(AuditConfigurationError) as caught:
        configure_audit("supabase", **options)
    check("".join(traceback.format_exception(caught.value)), repr(caught.value))


def test_an_exporter_without_a_usable_key_shows_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    exporter = SupabaseAuditExporter("http://x.example", "S3CRET two\nlines")
    check(caplog.text, repr(exporter))
    exporter.shutdown(0)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p@S3CRET@127.0.0.1:1/d",
        "postgresql://u:p/S3CRET@127.0.0.1:1/d",
        "postgresql://u:S3CRET/p@127.0.0.1:1/d",
        "postgresql://u:a@S3CRET/p@127.0.0.1:1/d?connect_timeout=5",
    ],
)
def test_a_password_with_special_characters_is_no_part_of_the_host(
    dsn: str, caplog: pytest.LogCaptureFixture, outbox_dir: str
) -> None:
    caplog.set_level(logging.DEBUG)
    pipeline = configure_audit("postgres", dsn=dsn)
    audit_event(**arguments())
    wait_until(lambda: get_audit_stats().last_error is not None, "an attempt has failed")
    assert pipeline.target.startswith("postgresql://127.0.0.1:1/d ")
    check(caplog.text, str(pipeline.stats()), *(os.fspath(path) for path in Path(outbox_dir).rglob("*")))


@pytest.mark.parametrize("dsn", ["postgresql://u:S3CRET", "postgresql://u:S3CRET/d", "host=h port=S3CRET"])
def test_a_password_where_the_port_should_be_is_not_shown(dsn: str) -> None:
    with pytest.raises(AuditConfigurationError, match="port") as caught:
        configure_audit("postgres", dsn=dsn)
    check(*traceback.format_exception(caught.value))


def test_settings_show_no_secret() -> None:
    settings = load_settings({"url": "http://x.example", "key": KEY, "token": TOKEN, "dsn": "postgresql://u:S3CRET@h"})
    check(repr(settings), str(settings), f"{settings}")


def test_a_token_callable_that_fails_shows_no_secret(
    stack: Stack, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    def token() -> str:
        raise RuntimeError(TOKEN)

    configure_audit("supabase", url=stack.url, key=stack.service_key, token=token, table=audit_table.name)
    audit_event(**arguments())
    wait_until(lambda: get_audit_stats().last_error is not None, "an attempt has failed")
    check(caplog.text, str(get_audit_stats()))


def test_a_refused_row_s_values_are_in_no_log(
    stack: Stack, audit_table: AuditTable, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    audit_table.alter("add constraint no_secret check (new_values->>'note' <> 'S3CRET')")
    pipeline = configure_audit("supabase", url=stack.url, key=stack.service_key, table=audit_table.name)
    audit_event(**arguments(new_values={"note": "S3CRET"}))
    audit_event(**arguments())
    assert flush_audit(30_000)
    assert pipeline.stats().failed == 1
    (letter,) = pipeline.dead_letters()
    check(caplog.text, letter.error, str(pipeline.stats()))
    assert letter.row is not None
    assert letter.row["new_values"] == {"note": "S3CRET"}


def test_users_secrets_are_redacted_before_anything_is_written(outbox_dir: str, tmp_path: Path) -> None:
    pipeline = configure_audit("sqlite", path=os.fspath(tmp_path / "missing" / "rows.db"))
    values = {
        "user_password": "S3CRET",
        "nested": [{"apiKey": "S3CRET", "X-Api-Key": ["S3CRET"], "token_count": 3}],
        "text": '{"authorization": "S3CRET"}',
    }
    audit_event(**arguments(new_values=values, old_values=values, metadata={"cookie": "S3CRET"}))
    wait_until(lambda: get_audit_stats().last_error is not None, "an attempt has failed")
    for path in Path(outbox_dir).rglob("*"):
        if path.is_file():
            assert b"S3CRET" not in path.read_bytes()
    (tmp_path / "missing").mkdir()
    assert pipeline.force_flush()
    (row,) = sqlite_rows(tmp_path / "missing" / "rows.db")
    assert row["old_values"] == {
        "user_password": "[REDACTED]",
        "nested": [{"apiKey": "[REDACTED]", "X-Api-Key": "[REDACTED]", "token_count": 3}],
        "text": '{"authorization":"[REDACTED]"}',
    }
    assert row["new_values"]["_audit"] == {"metadata": {"cookie": "[REDACTED]"}}


@pytest.mark.parametrize(("keys", "pin", "password"), [(["pin"], "[REDACTED]", "x"), ([], "1", "x")])
def test_the_list_of_redacted_keys_can_be_changed_and_switched_off(keys: list[str], pin: str, password: str) -> None:
    configure_audit("sqlite", redact_keys=keys)
    audit_event(**arguments(new_values={"card_pin": "1", "password": "x"})).result(30)
    assert sqlite_rows("pms_audit_log.db")[0]["new_values"] == {"card_pin": pin, "password": password}
