"""FastAPI under a real uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.stack import AuditTable, Stack
from tests.stack.waiting import wait_until
from tests.support.servers import Server, environment, running, to_table, write

COLUMNS = (
    "id=record_id,yacht_id=yacht_id,entity_type=entity_type,action=action,entity_id=entity_id,created_by=user_id,"
    "created_at=timestamp,old_values=old_values,new_values=new_values,metadata=metadata,trace_id=trace_id"
)
APPLICATION = """
    import asyncio
    from typing import Annotated
    from uuid import UUID

    from fastapi import BackgroundTasks, Depends, FastAPI, Header
    from fastapi.responses import StreamingResponse
    from opentelemetry import trace
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    from otel_audit_exporter import audit_event, audited, get_audit_stats, update_audit_context
    from otel_audit_exporter.integrations.fastapi import AuditMiddleware, audit_identity, audit_lifespan

    trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF))


    async def identify(request):
        await asyncio.sleep(0)
        if "x-broken" in request.headers:
            raise LookupError("the secret token")
        return {"yacht_id": request.headers.get("x-yacht"), "metadata": {"path": request.scope["path"]}}


    def current_user(x_user: Annotated[UUID | None, Header()] = None):  # runs in a thread
        return None if x_user is None else {"id": x_user}


    def tell(user=Depends(current_user)):  # a sync dependency, in a thread
        if user is not None:
            update_audit_context(user_id=user["id"])


    app = FastAPI(lifespan=audit_lifespan("supabase"))
    app.add_middleware(AuditMiddleware, identify=identify, trusted_proxies=["127.0.0.1", "10.0.0.0/8"])
    FastAPIInstrumentor.instrument_app(app)
    User = Annotated[dict, Depends(audit_identity(current_user, user_id="id"))]
    background = set()


    def touch(kind, number):
        audit_event("touch", entity_type=kind, entity_id=UUID(int=number), new_values={"n": number}, as_span_event=True)


    @app.get("/")
    async def index():
        return get_audit_stats().submitted


    @app.get("/async/{number}")
    async def asynchronous(number: int, user: User):
        async def later():
            await asyncio.sleep(0.05)
            touch("task", number)

        await asyncio.sleep(0.001 * (number % 7))
        touch("coroutine", number)
        await asyncio.to_thread(touch, "thread", number)
        task = asyncio.create_task(later())
        background.add(task)
        task.add_done_callback(background.discard)


    @app.get("/sync/{number}", dependencies=[Depends(tell)])
    def synchronous(number: int, jobs: BackgroundTasks):
        touch("function", number)
        jobs.add_task(touch, "background", number)


    @app.get("/streamed/{number}", dependencies=[Depends(tell)])
    async def streamed(number: int):
        async def parts():
            for _ in range(2):
                await asyncio.sleep(0)
                touch("stream", number)
                yield b"x"

        return StreamingResponse(parts())


    @app.get("/audited/{number}", dependencies=[Depends(tell)])
    @audited("count", entity_type="counter", entity_id=lambda args: UUID(int=args["number"]), new_values="result")
    async def counted(number: int) -> dict[str, int]:
        return {"n": number}
"""


@pytest.fixture
def wide_table(audit_table: AuditTable, stack: Stack) -> AuditTable:
    audit_table.alter("add column metadata jsonb, add column trace_id text")
    stack.reload_schema_cache()
    return audit_table


@pytest.fixture
def shop(tmp_path: Path, stack: Stack, wide_table: AuditTable) -> Iterator[Server]:
    write(tmp_path, "shop.py", APPLICATION)
    environ = environment(tmp_path, OTEL_AUDIT_COLUMNS=COLUMNS, **to_table(stack, wide_table))
    # uvicorn itself would believe X-Forwarded-For of whoever connects from 127.0.0.1.
    command = ["uvicorn", "shop:app", "--port", "{port}", "--no-proxy-headers", "--log-level", "warning"]
    with running(tmp_path, command, environ) as server:
        yield server


class Request:
    """One user's request."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.user, self.yacht, self.trace = uuid4(), uuid4(), uuid4().hex
        self.request_id = f"request-{number}"
        self.address = f"203.0.113.{number % 250}"

    @property
    def headers(self) -> dict[str, str]:
        return {
            "x-user": str(self.user),
            "x-yacht": str(self.yacht),
            "x-request-id": self.request_id,
            "x-forwarded-for": f"6.6.6.6, {self.address}, 10.1.1.1",
            "traceparent": f"00-{self.trace}-{'1' * 16}-00",
            "user-agent": f"browser/{self.number}",
        }


async def ask_all(url: str, requests: list[Request], paths: list[str]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=httpx.Limits()) as client:
        answers = await asyncio.gather(
            *(client.get(f"/{path}/{one.number}", headers=one.headers) for one in requests for path in paths)
        )
    assert {answer.status_code for answer in answers} == {200}


def test_200_concurrent_users_are_not_mixed_up(shop: Server, wide_table: AuditTable) -> None:
    requests = [Request(number) for number in range(200)]
    asyncio.run(ask_all(shop.url, requests, ["async", "sync", "streamed", "audited"]))
    wait_until(
        lambda: httpx.get(shop.url, timeout=60, trust_env=False).json() == 200 * 8, "every event is accepted", 60
    )
    shop.end()  # the lifespan delivers what waits
    by_number: dict[int, list[dict[str, Any]]] = {}
    for row in wide_table.rows():
        by_number.setdefault(row["new_values"]["n"], []).append(row)
    assert sorted(by_number) == list(range(200))
    for one in requests:
        rows = by_number[one.number]
        assert sorted(row["entity_type"] for row in rows) == sorted(
            ["coroutine", "thread", "task", "function", "background", "stream", "stream", "counter"]
        )
        for row in rows:
            assert (row["created_by"], row["yacht_id"]) == (one.user, one.yacht)
            assert row["entity_id"] == UUID(int=one.number)
            assert row["trace_id"] == one.trace
            said = row["metadata"]
            assert said["source_ip"] == one.address
            assert said["request_id"] == one.request_id
            assert said["user_agent"] == f"browser/{one.number}"
            assert said["path"].endswith(f"/{one.number}")
    assert "error" not in shop.output().lower()


def test_a_request_without_user_fails_and_identify_errors_are_logged_once(shop: Server, wide_table: AuditTable) -> None:
    broken = {"x-broken": "1", "x-user": str(uuid4())}
    for path, headers in (("async", {}), ("sync", broken), ("sync", broken)):
        answer = httpx.get(f"{shop.url}/{path}/1", headers=headers, timeout=60, trust_env=False)
        assert answer.status_code == 500
    shop.end()
    assert wide_table.count() == 0
    assert shop.output().count("identify failed") == 1
    assert "secret token" not in shop.output()
    assert "user_id: is missing" in shop.output()
