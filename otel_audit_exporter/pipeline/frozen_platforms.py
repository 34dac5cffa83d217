"""Platforms that freeze or remove a process after its answer, known by their variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.runtime.log import logger

_PLATFORMS: Final = (
    ("AWS_LAMBDA_FUNCTION_NAME", "AWS Lambda"),
    ("CLOUD_RUN_JOB", "a Cloud Run job"),
    ("K_SERVICE", "Cloud Run or Knative"),
)


def warn_if_frozen(settings: Settings, environ: Mapping[str, str]) -> None:
    """Log one WARNING where this is such a platform, and nothing says how events outlast the process."""
    where = next((name for variable, name in _PLATFORMS if environ.get(variable)), None)
    persists = settings.chosen("outbox_dir") or environ.get("STATE_DIRECTORY")
    if where is None or persists or settings.chosen("profile"):
        return
    logger.warning(
        "audit: this is %s, which may stop the process after an answer, and its events with it: set "
        "OTEL_AUDIT_PROFILE=ephemeral (a response then waits until its events are in the table), or "
        "OTEL_AUDIT_OUTBOX_DIR to a directory that lasts (OTEL_AUDIT_PROFILE=server: without this warning)",
        where,
    )
