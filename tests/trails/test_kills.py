"""Processes that are killed at random: no event is lost, none is there twice, and none is in another's table."""

from __future__ import annotations

from pathlib import Path
from random import Random, randrange

import pytest

from tests.trails.kills import found_after_kills

KILLS = 50


@pytest.mark.timeout(300)
def test_killed_processes_lose_double_and_mix_nothing(tmp_path: Path) -> None:
    seed = randrange(2**32)
    print(f"seed {seed}")
    found = found_after_kills(tmp_path, Random(seed), kills=KILLS, databases=3, longest=0.3)
    print(found)
    assert found.is_whole
