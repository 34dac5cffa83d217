"""Every test has an outbox of its own, an empty environment, and leaves no pipeline running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.conftest import _clean  # noqa: F401  # a fixture
from tests.support.otlp_receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running
