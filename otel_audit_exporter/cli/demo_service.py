"""The service that the demo runs: receiving, parts and documents of a yacht, kept in memory.

Handlers are as they would be in any API: they do their work, and say what was done in one line.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from decimal import Decimal

from otel_audit_exporter.api.events import audit_event
from otel_audit_exporter.delivery.receipts import PendingReceipt

APPROVAL_LIMIT = Decimal("5000.00")


@dataclass
class Part:
    """A part in the ship's store."""

    name: str
    stock: int
    minimum: int
    id: uuid.UUID = field(default_factory=uuid.uuid4)


@dataclass
class Receiving:
    """A delivery that came on board."""

    supplier: str
    total: Decimal
    status: str = "draft"
    id: uuid.UUID = field(default_factory=uuid.uuid4)


class NotApprovedError(Exception):
    """The purchase is beyond what this user may approve."""


class YachtService:
    """The handlers of one yacht, called by one user."""

    def __init__(self, yacht_id: uuid.UUID, user_id: uuid.UUID) -> None:
        self.yacht_id = yacht_id
        self.user_id = user_id
        self.receipts: list[PendingReceipt] = []

    def create_part(self, name: str, stock: int, minimum: int) -> Part:
        """Add a part to the store."""
        part = Part(name, stock, minimum)
        self._audit("create_part", "part", part.id, new=_values(part))
        return part

    def create_receiving(self, supplier: str, total: Decimal) -> Receiving:
        """Record a delivery from a supplier."""
        receiving = Receiving(supplier, total)
        self._audit("create_receiving", "receiving", receiving.id, new=_values(receiving))
        return receiving

    def approve_purchase(self, receiving: Receiving) -> None:
        """Approve what was delivered; raises where it costs more than this user may approve."""
        if receiving.total > APPROVAL_LIMIT:
            reason = f"{receiving.total} is more than {APPROVAL_LIMIT}"
            self._audit("approve_purchase", "receiving", receiving.id, outcome="failure", metadata={"reason": reason})
            raise NotApprovedError(reason)
        before, receiving.status = receiving.status, "approved"
        self._audit("approve_purchase", "receiving", receiving.id, {"status": before}, {"status": receiving.status})

    def update_part_stock(self, part: Part, change: int) -> None:
        """Add to, or take from, the stock of a part."""
        before, part.stock = part.stock, part.stock + change
        self._audit("update_part_stock", "part", part.id, {"stock": before}, {"stock": part.stock})

    def attach_document(self, receiving: Receiving, name: str, upload_token: str) -> None:
        """Attach a file that was uploaded with a one-time token."""
        document = {"receiving_id": receiving.id, "name": name, "upload_token": upload_token}
        self._audit("attach_document", "document", uuid.uuid4(), new=document)

    def _audit(
        self,
        action: str,
        entity_type: str,
        entity_id: uuid.UUID,
        old: object = None,
        new: object = None,
        *,
        outcome: str = "success",
        metadata: object = None,
    ) -> None:
        receipt = audit_event(
            action,
            entity_type=entity_type,
            entity_id=entity_id,
            yacht_id=self.yacht_id,
            user_id=self.user_id,
            old_values=old,
            new_values=new,
            outcome="failure" if outcome == "failure" else "success",
            metadata=metadata,
        )
        self.receipts.append(receipt)


def _values(thing: Part | Receiving) -> dict[str, object]:
    values = asdict(thing)
    del values["id"]
    return values


def a_day_on_board(service: YachtService) -> None:
    """Call every handler, as the crew's work of a day does."""
    filters = service.create_part("Racor 2040N-30 fuel filter", stock=2, minimum=6)
    impellers = service.create_part("Jabsco 17937-0001 impeller", stock=3, minimum=2)
    delivery = service.create_receiving("Marine Parts Antibes", Decimal("412.80"))
    service.attach_document(delivery, "delivery-note.pdf", upload_token="ut_5f1c88d2e4")  # noqa: S106  # made up
    service.update_part_stock(filters, +12)
    service.approve_purchase(delivery)
    service.update_part_stock(impellers, -1)
    refit = service.create_receiving("Shipyard Palma", Decimal("18250.00"))
    with suppress(NotApprovedError):  # the user sees the error, and the attempt is recorded
        service.approve_purchase(refit)
