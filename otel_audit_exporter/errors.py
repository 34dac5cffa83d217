"""The errors of this library.

::

    AuditError
    ├── AuditEventError          one call's arguments are wrong (also a ValueError)
    ├── AuditConfigurationError  a setting is wrong or missing (also a ValueError)
    ├── AuditDeliveryError       a receipt was waited for, or a transaction written in: the row is not in the table
    ├── AuditShutdownError       the pipeline is shut down and keeps nothing on disk
    └── OutboxError              the outbox cannot take the event (disk error, damaged file)
        └── OutboxFullError      the outbox has reached its size limit
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any


class AuditError(Exception):
    """Base of every error that this library raises."""


class AuditEventError(AuditError, ValueError):
    """Say which arguments of one call are wrong; nothing was recorded.

    ``problems`` maps each wrong field to what is wrong with it, so that one error names them all.
    """

    def __init__(self, problems: Mapping[str, str], *, call: str = "audit event") -> None:
        self.problems: Mapping[str, str] = MappingProxyType(dict(problems))
        self._call = call
        said = "; ".join(f"{field}: {problem}" for field, problem in self.problems.items())
        super().__init__(f"{call} not recorded, {said}")

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), call=self._call), (dict(self.problems),)


class AuditConfigurationError(AuditError, ValueError):
    """Say which setting is wrong or missing, and what is allowed."""


class AuditDeliveryError(AuditError):
    """Say that a row is not in the table (yet).

    ``state`` is ``"pending"`` (still in the outbox, and will still be delivered), ``"parked"`` (in the dead
    letters, with the reason in ``cause``) or ``"refused"`` (by ``write_audit_event``: it is nowhere).
    """

    def __init__(self, record_id: str, state: str, cause: str | None) -> None:
        self.record_id = record_id
        self.state = state
        self.cause = cause
        super().__init__(f"audit event {record_id} is {state}: {cause or 'the sink has not answered yet'}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.record_id, self.state, self.cause)


class AuditShutdownError(AuditError):
    """Say that the pipeline is shut down and could not keep the event."""


class OutboxError(AuditError):
    """Say that the outbox could not commit the event; it is not recorded."""


class OutboxFullError(OutboxError):
    """Say that the outbox is at its size limit; the event is not recorded."""
