"""The address that a database's name has resolved to, kept in the folder of its logs.

Another address for the same name is refused until somebody confirms it: a change of the mapping never sends a
tenant's rows to the database of another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from otel_audit_exporter.errors import OutboxError
from otel_audit_exporter.runtime.owner import give_to_owner

ADDRESS_NAME: Final = "address.json"


class AddressFile:
    """The kept address of one destination; in memory where nothing of it is on disk."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._path = None if folder is None else Path(folder) / ADDRESS_NAME
        self._in_memory: str | None = None

    def keep(self, address: str) -> str:
        """Keep ``address`` where none is kept yet; return the one that is.

        Raises :class:`OutboxError` where it can be neither read nor written: nothing is to be delivered then.
        """
        if self._path is None:
            self._in_memory = self._in_memory or address
            return self._in_memory
        try:
            if not self._path.exists():
                self._write(self._path, address)
            return str(json.loads(self._path.read_text(encoding="utf-8"))["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutboxError(f"the address that is kept in {self._path} cannot be read or written: {error}") from error

    @staticmethod
    def _write(path: Path, address: str) -> None:
        """Write it whole or not at all, and only where no other process has done so meanwhile."""
        import tempfile  # as every outbox on disk does

        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump({"address": address}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            give_to_owner(file.name)
            with suppress(FileExistsError):
                os.link(file.name, path)
        finally:
            os.unlink(file.name)

    def forget(self) -> str | None:
        """Keep none any more: the next delivery keeps its own. Return what was kept."""
        kept = self.read()
        if self._path is None:
            self._in_memory = None
        else:
            self._path.unlink(missing_ok=True)
        return kept

    def read(self) -> str | None:
        """Return the address that is kept; None where none is, or where it cannot be read."""
        if self._path is None:
            return self._in_memory
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(self._path.read_text(encoding="utf-8"))["address"])
        return None


def folders_of_database(root: str | os.PathLike[str], database: str) -> Iterator[Path]:
    """Yield the folders of one named database under the outbox directory, one for each trail."""
    from otel_audit_exporter.outbox.destination import DESTINATION_NAME

    for description in sorted(Path(root).glob(f"*/{DESTINATION_NAME}")):
        with suppress(OSError, ValueError):
            if json.loads(description.read_text(encoding="utf-8")).get("database") == database:
                yield description.parent
