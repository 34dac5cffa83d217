"""Every test has an outbox of its own and an empty environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.otlp_receiver import Receiver


@pytest.fixture(autouse=True)
def _clean(bare_environment: None) -> None:
    """Have it for every test here."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running
