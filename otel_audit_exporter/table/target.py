"""Which of the configured exporters has a table that can be looked at, and what must be set for it."""

from __future__ import annotations

from typing import Final

from otel_audit_exporter.config.options import SETTINGS
from otel_audit_exporter.config.settings import Settings
from otel_audit_exporter.errors import AuditConfigurationError

# What each kind of table cannot be reached without.
NEEDED: Final = {"sqlite": (), "supabase": ("url", "key"), "postgres": ("dsn",)}
DEFAULT_EXPORTER: Final = "sqlite"


def table_exporter(settings: Settings) -> str:
    """Return the name of the first chosen exporter with a table.

    Raises :class:`AuditConfigurationError` where there is none, or a setting of it is missing.
    """
    chosen = [name.strip().lower() for name in str(settings.exporter or DEFAULT_EXPORTER).split(",")]
    name = next((name for name in chosen if name in NEEDED), None)
    if name is None:
        # A DSN that came here by mistake is not repeated.
        shown = [name if name.isidentifier() else "that was given" for name in chosen]
        raise AuditConfigurationError(
            f"exporter {', '.join(shown)} (OTEL_AUDIT_EXPORTER): has no table that can be read; "
            f"those of {', '.join(NEEDED)} can"
        )
    missing = [
        " or ".join(setting.variables)
        for setting in SETTINGS
        if setting.argument in NEEDED[name] and not getattr(settings, setting.argument)
    ]
    if missing:
        raise AuditConfigurationError(f"exporter {name}: set {' and '.join(missing)}")
    return name
