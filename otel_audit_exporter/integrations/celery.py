"""Celery: the actor in the worker is the user who asked.

Import this module where the Celery application is made, so that both publishers and workers have it::

    import otel_audit_exporter.integrations.celery  # noqa: F401

From then on every task carries the ``audit_context`` in which it was sent, with the ids of the current span, in a
message header (``otel_audit_context``); retries, chains and tasks that a task sends carry it on. Secrets in its
``metadata`` are redacted before it is sent. A worker process delivers what waits when it ends.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from celery import signals

from otel_audit_exporter.integrations.context_propagation import KEY, RemoteContext, serialize_context
from otel_audit_exporter.pipeline.current import current_pipeline

_running: Final[dict[tuple[int, str], RemoteContext]] = {}


def _send(headers: dict[str, Any] | None = None, **_: Any) -> None:
    if headers is not None and KEY not in headers:
        headers[KEY] = serialize_context()


def _begin(task_id: str, task: Any, **_: Any) -> None:
    if task.request.is_eager:  # runs where it was asked for: the context is there
        return
    arrived = RemoteContext(getattr(task.request, KEY, None))
    _running[threading.get_ident(), task_id] = arrived
    arrived.__enter__()


def _end(task_id: str, **_: Any) -> None:
    arrived = _running.pop((threading.get_ident(), task_id), None)
    if arrived is not None:
        arrived.__exit__()


def _shut_down(**_: Any) -> None:
    pipeline = current_pipeline()
    if pipeline is not None:  # pool processes leave without the interpreter's own end
        pipeline.end_with_process()


for _signal, _receiver in (
    (signals.before_task_publish, _send),
    (signals.task_prerun, _begin),
    (signals.task_postrun, _end),
    (signals.worker_process_shutdown, _shut_down),
):
    _signal.connect(_receiver, weak=False, dispatch_uid=f"otel_audit_exporter{_receiver.__name__}")
