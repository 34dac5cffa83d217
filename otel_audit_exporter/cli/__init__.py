"""The command `otel-audit`: look at what is parked or waits, deliver it, emit events from a file, see a demo."""

from __future__ import annotations

import sys
from typing import Final

_NEEDED: Final = frozenset({"typer", "rich", "click"})


def main() -> None:
    """Run `otel-audit`; say what to install where the libraries that it needs are missing."""
    try:
        from otel_audit_exporter.cli.app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        print(
            f'otel-audit needs {missing}, which is not installed: pip install "otel-audit-exporter[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    app(prog_name="otel-audit")
