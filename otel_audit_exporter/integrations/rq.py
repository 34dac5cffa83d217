"""RQ: the actor in the worker is the user who asked.

Enqueue through :class:`AuditQueue` (or any queue with ``job_class=AuditJob``), and start workers with
``rq worker --worker-class otel_audit_exporter.integrations.rq.AuditWorker``.
"""

from __future__ import annotations

from typing import Any

from rq import Queue, Worker
from rq.job import Job

from otel_audit_exporter.integrations.context_propagation import KEY, RemoteContext, serialize_context
from otel_audit_exporter.pipeline.current import current_pipeline

__all__ = ["AuditJob", "AuditQueue", "AuditWorker"]


class AuditJob(Job):
    """A job that carries the ``audit_context`` in which it was enqueued, and the current span's ids, in its ``meta``.

    Secrets in the context's ``metadata`` are redacted before it is sent.
    """

    @classmethod
    def create(cls, *args: Any, **kwargs: Any) -> AuditJob:
        """Make the job, with the context of here and now."""
        kwargs["meta"] = {KEY: serialize_context(), **(kwargs.get("meta") or {})}
        return super().create(*args, **kwargs)  # type: ignore[return-value]  # of cls, which Job's own hint leaves out

    def perform(self) -> Any:
        """Do the job in the context that it brought along."""
        with RemoteContext(self.meta.get(KEY)):
            return super().perform()


class AuditQueue(Queue):
    """A queue of :class:`AuditJob`."""

    job_class = AuditJob


class AuditWorker(Worker):
    """A worker for :class:`AuditJob`, whose work horses deliver what waits before they end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parts: list[Any] = [self, *self.queues]
        for part in parts:
            if part.job_class is Job:  # what the command line passes where no other class is named
                part.job_class = AuditJob

    def perform_job(self, *args: Any, **kwargs: Any) -> bool:
        """Do one job."""
        try:
            return super().perform_job(*args, **kwargs)
        finally:
            pipeline = current_pipeline()
            if self._is_horse and pipeline is not None:  # it leaves without the interpreter's own end
                pipeline.end_with_process()
