"""The benchmark runs; how fast, no test says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.rows import Budget, compared


def test_the_smallest_measurement_gives_its_table_and_its_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--quick", "--only", "imports", "--out", str(tmp_path)])
    assert "What it costs" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["size"] == "quick"
    assert all(row["ratio"] > 0 for row in results["rows"])


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    row = compared("g", "w", [1.0, 20.0, 3.0], "other", [1.0, 10.0, 1.0], "s", budget=Budget(2.0))
    assert (row.ratio, row.verdict) == (2.0, "pass")


def test_a_budget_is_a_limit_from_above_or_from_below() -> None:
    assert [Budget(2.0).keeps(ratio) for ratio in (1.9, 2.0, 2.1)] == [True, True, False]
    assert [Budget(0.8, at_least=True).keeps(ratio) for ratio in (0.7, 0.8)] == [False, True]
