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
    row = compared("g", "w", [1.0, 20.0, 3.0], "other", [1.0, 10.0, 1.0], "s", budget=Budget(2.0), threads=False)
    assert (row.ratio, row.verdict) == (2.0, "held")


def test_a_budget_is_a_limit_from_above_or_from_below() -> None:
    assert [Budget(2.0).keeps(ratio) for ratio in (1.9, 2.0, 2.1)] == [True, True, False]
    assert [Budget(0.8, at_least=True).keeps(ratio) for ratio in (0.7, 0.8)] == [False, True]


def test_a_row_holds_within_the_spread_of_the_same_code() -> None:
    theirs = [1.0, 1.1] * 4
    ours = [value * 1.05 for value in theirs]
    row = compared("g", "w", ours, "other", theirs, "s", budget=Budget(1.0))
    assert row.verdict == "held"
    assert compared("g", "w", [1.3] * 8, "other", theirs, "s", budget=Budget(1.0)).verdict == "not held"


def test_a_wide_spread_or_too_few_pairs_prove_nothing() -> None:
    wide = [1.0, 2.0] * 4
    assert compared("g", "w", wide, "other", wide, "s", budget=Budget(1.0)).verdict == "proves nothing"
    few = [1.0, 1.0, 1.0]
    assert compared("g", "w", few, "other", few, "s", budget=Budget(1.0)).verdict == "proves nothing"
