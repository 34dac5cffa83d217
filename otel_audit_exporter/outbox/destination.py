"""Where rows go, as far as it decides who may deliver them."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Final, NamedTuple

DESTINATION_NAME: Final = "destination.json"


class Destination(NamedTuple):
    """Where rows go, as far as it decides who may deliver them: never a key.

    That of a named database is known by the names of trail and database alone.
    """

    exporter: str = ""
    place: str = ""  # host or path; "" where it is not known yet
    schema: str = ""
    table: str = ""
    trail: str = ""
    database: str = ""

    @property
    def folder_name(self) -> str:
        """A name that people recognise and that no two destinations share."""
        words = "-".join(part for part in (self.trail, self.database, *self._address) if part)
        readable = re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")[:80]
        digest = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()[:10]
        return f"{readable}-{digest}"

    @property
    def description(self) -> dict[str, str]:
        """What is written down of it: an address, or names."""
        named = ("trail", "database")
        return {name: value for name, value in self._asdict().items() if (name in named) == bool(self.database)}

    @property
    def _address(self) -> tuple[str, ...]:
        return self.exporter, self.place, self.schema, self.table

    def __str__(self) -> str:
        if self.database:
            return f"database {self.database}, trail {self.trail}"
        return f"{self.exporter} {self.place or '(not configured)'} {self.schema}.{self.table}"
