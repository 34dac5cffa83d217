"""A yacht's receivings: every change is audited, and no handler waits for it."""

from decimal import Decimal
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel

from otel_audit_exporter import audit_event, audited
from otel_audit_exporter.integrations.fastapi import AuditMiddleware, audit_identity, audit_lifespan


class User(BaseModel):
    id: UUID
    yacht_id: UUID


class Receiving(BaseModel):
    vendor: str
    total: Decimal


def current_user(x_user: Annotated[UUID, Header()], x_yacht: Annotated[UUID, Header()]) -> User:
    return User(id=x_user, yacht_id=x_yacht)


# Whoever depends on the user has told the audit context, too.
CurrentUser = Annotated[User, Depends(audit_identity(current_user, user_id="id", yacht_id="yacht_id"))]

app = FastAPI(lifespan=audit_lifespan("supabase"))
app.add_middleware(AuditMiddleware)
receivings: dict[UUID, Receiving] = {}


@app.post("/receivings")
async def create_receiving(receiving: Receiving, user: CurrentUser) -> dict[str, UUID]:
    receiving_id = uuid4()
    receivings[receiving_id] = receiving
    audit_event("create_receiving", entity_type="receiving", entity_id=receiving_id, new_values=receiving)
    return {"id": receiving_id}


@app.put("/receivings/{receiving_id}")
@audited(
    "update_receiving",
    entity_type="receiving",
    entity_id="receiving_id",
    old_values=lambda call: receivings.get(call.receiving_id),
    new_values="receiving",
)
async def update_receiving(receiving_id: UUID, receiving: Receiving, user: CurrentUser) -> Receiving:
    receivings[receiving_id] = receiving
    return receiving
