"""The other destinations of a set-up than the first one, as they were given and as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from opentelemetry.sdk.resources import Resource

from otel_audit_exporter.config.trail_settings import trail_settings
from otel_audit_exporter.errors import AuditConfigurationError
from otel_audit_exporter.event.routing import DEFAULT_TRAIL
from otel_audit_exporter.pipeline.databases import DatabaseNames, Databases
from otel_audit_exporter.pipeline.destinations import check_databases, check_places
from otel_audit_exporter.pipeline.exporter import AuditExporter
from otel_audit_exporter.pipeline.trails import Trail, default_trail, make_trails
from otel_audit_exporter.runtime.log import logger


class Routing(NamedTuple):
    """The trails and databases beside the configured ones, as they were given."""

    trails: Mapping[str, Mapping[str, Any]] | None
    databases: DatabaseNames | None
    resource: Resource | None

    @classmethod
    def of_environment(cls, exporter: AuditExporter) -> tuple[dict[str, Trail], Databases]:
        """Return the trails that the environment declares; what is wrong with them is logged, and there are none."""
        try:
            return cls(None, None, None).read([exporter])
        except AuditConfigurationError as error:
            logger.error("audit: the environment's trails are not used: %s", error)
            return {}, Databases(None)

    def read(self, exporters: Sequence[AuditExporter]) -> tuple[dict[str, Trail], Databases]:
        """Return what they mean beside these exporters. Raises :class:`AuditConfigurationError`."""
        primary, databases = exporters[0], Databases(self.databases)
        base = replace(primary.settings, exporter=primary.exporter_name)
        settings = trail_settings(base, self.trails)
        trails = make_trails(settings, self.resource, databases=databases.configured)
        everything = {DEFAULT_TRAIL: default_trail(tuple(exporters)), **trails}
        check_places(everything)
        check_databases(everything, databases)
        return trails, databases
