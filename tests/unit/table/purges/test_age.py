"""Ages as people say them, and the moment that is meant."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from otel_audit_exporter.table.purges.age import boundary
from otel_audit_exporter.table.readers.query import QueryError


@pytest.mark.parametrize(
    ("now", "age", "meant"),
    [
        ("2026-03-31T12:00:00+00:00", "1d", "2026-03-30T12:00:00+00:00"),
        ("2026-03-31T12:00:00+00:00", " 2w ", "2026-03-17T12:00:00+00:00"),
        ("2026-03-31T12:00:00+00:00", "1mo", "2026-02-28T12:00:00+00:00"),
        ("2026-03-31T12:00:00+00:00", "3mo", "2025-12-31T12:00:00+00:00"),
        ("2026-01-15T00:00:00.5+00:00", "13mo", "2024-12-15T00:00:00.5+00:00"),
        ("2024-02-29T01:02:03+00:00", "1y", "2023-02-28T01:02:03+00:00"),
        ("2024-02-29T01:02:03+00:00", "4y", "2020-02-29T01:02:03+00:00"),
    ],
)
def test_an_age_goes_by_the_calendar(now: str, age: str, meant: str) -> None:
    assert boundary(age, datetime.fromisoformat(now)) == datetime.fromisoformat(meant)


@pytest.mark.parametrize(
    "age", ["", "90", "d", "0y", "6m", "5h", "-3d", "+3d", "1.5y", "1y2mo", "9999y", "99999d x", "٣d"]
)
def test_anything_else_is_refused(age: str) -> None:
    with pytest.raises(QueryError, match="is no age"):
        boundary(age, datetime(2026, 3, 31, tzinfo=UTC))
