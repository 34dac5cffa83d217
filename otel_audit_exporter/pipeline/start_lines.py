"""What is logged once at the start: where rows go, and what earlier processes have left for other destinations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.pipeline.destinations import Destinations
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.runtime.log import logger

if TYPE_CHECKING:
    from otel_audit_exporter.outbox.directory import OutboxDirectory


def say_where(pipeline: AuditPipeline, settings: Settings, *, chosen: bool) -> None:
    """Log exporter and target, and what waits for others; ``chosen``: somebody has chosen the exporter."""
    where = ", ".join(f"{exporter.exporter_name} ({exporter.target})" for exporter in pipeline.exporters)
    unused = [settings.sources[name] for name in ("url", "dsn") if settings.chosen(name)]
    if unused and not chosen:
        logger.warning(
            "audit: no exporter was chosen, so rows go to %s, although %s is set: set OTEL_AUDIT_EXPORTER "
            "(supabase, postgres, or sqlite to keep it so)",
            where,
            " and ".join(unused),
        )
    else:
        primary = pipeline.primary.channel
        outbox = "memory" if primary.logs.directory is None else primary.options.outbox
        logger.info("audit: exporter %s, mode %s, outbox %s", where, settings.mode, outbox)
    for exporter in pipeline.exporters:
        folder = exporter.channel.logs.directory
        if folder is not None:
            _warn_of_orphans(folder, pipeline.destinations)


def _warn_of_orphans(folder: OutboxDirectory, mine: Destinations) -> None:
    from otel_audit_exporter.outbox.inspection import orphans_elsewhere
    from otel_audit_exporter.outbox.old_outbox import old_outboxes

    if old := old_outboxes(folder.path):
        logger.warning(
            "audit: %d outbox file(s) of a version before 0.2 are in %s: run `otel-audit outbox drain` to deliver "
            "what is in them",
            len(old),
            folder.path,
        )
    for destination, count in orphans_elsewhere(folder).items():
        if mine.looks_after(destination):
            continue
        logger.warning(
            "audit: %d event(s) of an earlier process wait for another destination (%s): they are delivered when "
            "a process with that destination starts; see `otel-audit outbox status`",
            count,
            destination,
        )
