"""Forks at the worst moment: a child never writes into its parent's log."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from otel_audit_exporter.outbox import log as log_module
from otel_audit_exporter.outbox import segment as segment_module
from otel_audit_exporter.outbox import stripe as stripe_module
from tests.support import raw_logs
from tests.support.interruptions import interrupt

MODULES = (log_module, stripe_module, segment_module)


@pytest.mark.parametrize("write", ["mapped", "written"])
def test_a_fork_during_an_append_never_writes_into_the_parents_log(tmp_path: Path, write: str) -> None:
    """A fork between any two steps. The child goes on with the call and emits; the parent's bytes stay the same."""
    log = raw_logs.make_log(write, tmp_path / "own.log")
    written = raw_logs.said(log, [raw_logs.event_bytes(number) for number in range(5)])
    steps, more = 0, True
    while more:
        forked: list[int] = []
        before = raw_logs.said(log, [raw_logs.event_bytes(steps, 60)])

        def fork(log: Any = log, forked: list[int] = forked) -> None:
            child = os.fork()
            if child == 0:
                log.forget()
            forked.append(child)

        try:
            more = interrupt(partial(log.append, raw_logs.event_bytes(steps, 200)), steps, fork, MODULES)
        except Exception:
            if forked != [0]:
                raise
        if forked == [0]:  # the child, at the end of the call
            os._exit(0)
        if forked:
            assert os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]) == 0
        stripe = log.stripes[0]
        written += [*before, (0, stripe.at[2], raw_logs.event_bytes(steps, 200))]
        steps += 4
    assert raw_logs.read_all(log) == (written, [])
    assert raw_logs.open_copy(tmp_path / "own.log", tmp_path / "copy").events == written
    log.close_files()
    assert steps > 60
