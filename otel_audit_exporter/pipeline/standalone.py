"""The exporters of this process that no pipeline has: those that the SDK has built, or somebody by hand."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from otel_audit_exporter.event.routing import DEFAULT_TRAIL

if TYPE_CHECKING:
    from otel_audit_exporter.pipeline.exporter import AuditExporter

# In the order in which they were made.
STANDALONE: Final[weakref.WeakKeyDictionary[AuditExporter, None]] = weakref.WeakKeyDictionary()


def standalone_exporters() -> list[AuditExporter]:
    """Return the exporters of ours that were built in this process outside of a pipeline (by the SDK, say)."""
    return sorted(STANDALONE, key=lambda one: one.trail != DEFAULT_TRAIL)


def standalone_exporter() -> AuditExporter | None:
    """Return the first of :func:`standalone_exporters`: one of the default trail, where there is any."""
    return next(iter(standalone_exporters()), None)
