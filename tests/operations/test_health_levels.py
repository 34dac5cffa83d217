"""The level and its reasons, decided from figures and thresholds alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from otel_audit_exporter import AuditConfigurationError, AuditHealth, AuditStats
from otel_audit_exporter.config.settings import load_settings
from otel_audit_exporter.observability.health import HealthThresholds, assess, combine

DEFAULT = HealthThresholds()


def settled(succeeded: int, failed: int = 0, **more: Any) -> AuditStats:
    rate = 100.0 * succeeded / (succeeded + failed)
    return AuditStats(submitted=succeeded + failed, succeeded=succeeded, failed=failed, success_rate=rate, **more)


def level(stats: AuditStats | None = None, thresholds: HealthThresholds = DEFAULT, **figures: Any) -> str:
    return assess(stats or AuditStats(), thresholds, **figures).level


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (100.0, "good"),
        (99.51, "good"),
        (99.5, "warning"),
        (99.0, "warning"),
        (98.0, "warning"),
        (97.99, "critical"),
        (0.0, "critical"),
    ],
)
def test_the_success_rate_sets_the_level(rate: float, expected: str) -> None:
    """Above 99.5 % is good, 98 % and more is a warning, less is critical."""
    assert level(AuditStats(success_rate=rate)) == expected


@pytest.mark.parametrize(
    ("overdue", "expected"), [(0, "good"), (9, "good"), (10, "warning"), (50, "warning"), (51, "critical")]
)
def test_the_number_of_overdue_events_sets_the_level(overdue: int, expected: str) -> None:
    """Fewer than 10 are good, up to 50 are a warning, more are critical."""
    assert level(AuditStats(pending=overdue), overdue=overdue) == expected


@pytest.mark.parametrize(
    ("succeeded", "failed", "expected"),
    [(10_000, 0, "good"), (9_999, 1, "warning"), (9_900, 100, "warning"), (9_899, 101, "critical"), (0, 1, "critical")],
)
def test_the_share_of_parked_events_sets_the_level(succeeded: int, failed: int, expected: str) -> None:
    """None is good, up to one percent is a warning, more is critical."""
    assert level(settled(succeeded, failed)) == expected


def test_held_events_are_a_warning() -> None:
    health = assess(AuditStats(pending=3, held=3), DEFAULT)
    assert health.level == "warning"
    assert "3 events held" in health.reasons[0]


@pytest.mark.parametrize(("left", "expected"), [(20, "good"), (19, "warning"), (5, "warning"), (4, "critical")])
def test_the_room_left_in_the_outbox_sets_the_level(left: int, expected: str) -> None:
    """Less than a fifth is a warning, less than a twentieth is critical."""
    assert level(outbox_bytes_left=left, outbox_bytes_max=100) == expected


def test_slow_writes_are_a_warning() -> None:
    assert level(slow_write_seconds=1.5) == "warning"


def test_nothing_at_all_is_good_without_a_reason() -> None:
    assert assess(AuditStats(), DEFAULT) == AuditHealth()


def test_the_worst_level_counts_and_its_reason_comes_first() -> None:
    health = assess(settled(9_999, 1, pending=60, held=60), DEFAULT, overdue=60)
    assert health.level == "critical"
    assert [reason.split()[0] for reason in health.reasons] == ["60", "1", "60"]
    assert "overdue" in health.reasons[0]


def test_a_rate_just_below_a_limit_is_not_rounded_up() -> None:
    """The reason shows a figure below the limit."""
    assert "97.99 %" in assess(AuditStats(success_rate=97.9999), DEFAULT).reasons[0]


def test_trouble_of_a_second_sink_is_a_warning_and_names_it() -> None:
    bad = assess(AuditStats(pending=60), DEFAULT, overdue=60)
    health = combine({"postgres": AuditHealth(pending=1), "otlp": bad})
    assert health.level == "warning"
    assert health.reasons[0].startswith("otlp: ")
    assert (health.pending, health.sinks["otlp"].level) == (1, "critical")


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        ({"overdue_warning": 3}, {"overdue": 3}),
        ({"success_rate_good": 99.9}, {"stats": AuditStats(success_rate=99.8)}),
        ({"held_warning": 5}, {"stats": AuditStats(held=5)}),
        ({"outbox_left_warning_percent": 50.0}, {"outbox_bytes_left": 49, "outbox_bytes_max": 100}),
    ],
)
def test_every_threshold_can_be_set(change: dict[str, Any], figures: dict[str, Any]) -> None:
    assert level(thresholds=replace(DEFAULT, **change), **figures) == "warning"


@pytest.mark.parametrize(
    "given",
    [
        "overdue_warning=5, success_rate_good=99.9",
        {"overdue_warning": 5, "success_rate_good": 99.9},
        HealthThresholds(overdue_warning=5, success_rate_good=99.9),
    ],
)
def test_thresholds_are_set_by_variable_mapping_or_value(given: Any) -> None:
    if isinstance(given, str):
        settings = load_settings({}, {"OTEL_AUDIT_HEALTH_THRESHOLDS": given})
    else:
        settings = load_settings({"health_thresholds": given}, {})
    assert settings.health_thresholds == HealthThresholds(overdue_warning=5, success_rate_good=99.9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("overdue=5", "there is no overdue"),
        ("overdue_warning=many", "name=number"),
        ("overdue_warning=60", "overdue_warning must not be higher than overdue_critical"),
        ("success_rate_good=-1", "success_rate_good must be a number, 0 or more"),
    ],
)
def test_a_wrong_threshold_is_reported_with_its_variable(given: str, said: str) -> None:
    with pytest.raises(AuditConfigurationError, match=said) as caught:
        load_settings({}, {"OTEL_AUDIT_HEALTH_THRESHOLDS": given})
    assert "OTEL_AUDIT_HEALTH_THRESHOLDS" in str(caught.value)
