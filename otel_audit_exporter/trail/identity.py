"""Who reads the trail, and how much of it that person may see."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal
from uuid import UUID

from otel_audit_exporter.errors import AuditConfigurationError

Id = str | int | UUID


class _Scope(Enum):
    ALL = "all"

    def __repr__(self) -> str:
        return "ALL"


ALL: Final = _Scope.ALL
"""Every tenant, and the events that have none."""


@dataclass(frozen=True)
class Reader:
    """Somebody who may look at the trail, as returned by ``identify_reader(request)``.

    :param id: the user's id, as in ``audit_event``: what this person exports is recorded under it.
    :param tenants: the tenants (yachts) whose events may be seen; none by default. ``ALL`` shows every tenant's, and
        those without a tenant.
    :param trails: the names of the trails that may be seen.
    :param sees_source: whether source address and user agent are shown.
    """

    id: Id
    tenants: Collection[Id] | Literal[_Scope.ALL] = ()
    trails: Collection[str] = ("default",)
    sees_source: bool = False

    def __post_init__(self) -> None:
        for name in ("tenants", "trails"):
            if isinstance(getattr(self, name), str | bytes):
                raise AuditConfigurationError(f"Reader: {name} must be a collection, such as a list, not one text")
        if not str(self.id).strip() or str(self.id) == "None":
            raise AuditConfigurationError("Reader: id is missing")

    @property
    def scope(self) -> frozenset[str] | None:
        """The ids of the tenants that may be seen; None: all, and events without one."""
        return None if isinstance(self.tenants, _Scope) else frozenset(str(tenant) for tenant in self.tenants)
