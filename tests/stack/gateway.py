"""A reverse proxy at /rest/v1, as Supabase has one before PostgREST, that goes wrong when told to."""

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Any, TypeVar

from tests.stack.apikeys import ApiKeys
from tests.stack.exchange import ConnectionEndedError, Exchange, reset
from tests.stack.faults import Fault
from tests.stack.injections import Injection, Predicate
from tests.stack.journal import Journal
from tests.stack.messages import Reply, Request, read_request_head
from tests.stack.ports import HOST, free_port
from tests.stack.upstream import STREAM_LIMIT, Upstream

PREFIX = "/rest/v1"

_NO_ROUTE = Reply(
    404,
    (("content-type", "application/json"),),
    json.dumps({"message": "no Route matched with those values"}).encode(),
)
_CONTROL_SECONDS = 30.0

ResultT = TypeVar("ResultT")


class Gateway:
    """The proxy, in a thread of its own; every method may be called from any other thread.

    A forked child inherits the sockets and keeps them open: test what forks in a fresh process.
    """

    def __init__(self, upstream_port: int) -> None:
        self.port = free_port()
        self.keys = ApiKeys()
        self._errors: list[BaseException] = []
        self.connections_accepted = 0
        self._journal = Journal()
        self._injections: list[Injection] = []
        self._injecting = Lock()
        self._upstream = Upstream(HOST, upstream_port)
        self._clients: dict[StreamWriter, asyncio.Task[None] | None] = {}
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="gateway", daemon=True)

    # Control

    @property
    def url(self) -> str:
        """What a supabase client is given as the project's URL."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        self._thread.start()
        self.accept()

    def stop(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CONTROL_SECONDS)
        self._loop.close()

    def inject(self, fault: Fault, *, times: int | None = 1, when: Predicate | None = None) -> Injection:
        """Have `fault` strike the next `times` requests (None: all, until removed) for which `when` is true.

        Several faults may strike one request. `when` runs in the gateway's thread; where the fault strikes at
        the request's head it sees no body.
        """
        injection = Injection(fault, times, when, self._loop)
        with self._injecting:
            self._injections.append(injection)
        return injection

    def clear(self) -> None:
        """Remove every fault, let go of what hangs, open the port, forget the requests."""
        with self._injecting:
            removed, self._injections = self._injections, []
        for injection in removed:
            injection.remove()
        self.accept()
        self.keys.required = True
        self._journal.keeping = True
        self._journal.forget()

    def take_errors(self) -> list[BaseException]:
        """Give, and forget, what failed in the gateway itself, in a test's predicate for example."""
        taken, self._errors = self._errors, []
        return taken

    def refuse(self) -> None:
        """Close the port and cut every connection: whoever connects is refused."""
        self._run(self._close_port())

    def accept(self) -> None:
        """Open the port (again)."""
        self._run(self._open_port())

    @contextmanager
    def refusing(self) -> Iterator[None]:
        self.refuse()
        try:
            yield
        finally:
            self.accept()

    def drop_connections(self, *, with_reset: bool = False) -> None:
        """Close every open connection, as a gateway does that is restarted or tired of idle ones."""
        self._run(self._drop(with_reset))

    # Observation

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order they came."""
        return self._journal.requests

    @property
    def open_requests(self) -> int:
        return self._journal.open

    @property
    def most_open_requests(self) -> int:
        return self._journal.most_open

    def keep_requests(self, keep: bool) -> None:
        """Switch the keeping of requests (with their bodies) off for a load that would fill the memory."""
        self._journal.keeping = keep

    def wait_for_requests(self, seen: int = 1, timeout: float = 30.0) -> None:
        """Return once `seen` requests have come since the last `clear`."""
        self._journal.wait(seen, timeout)

    def wait_until_idle(self, timeout: float = 30.0) -> None:
        """Return once no request is open."""
        self._journal.wait_until_idle(timeout)

    # In the gateway's thread

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._server is None:  # the port was closed while this connection was on its way here
            reset(writer)
            return
        self.connections_accepted += 1
        self._clients[writer] = asyncio.current_task()
        try:
            while (request := await read_request_head(reader)) is not None:
                await self._exchange(request, reader, writer)
        except (ConnectionEndedError, ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:  # shown by the test's clean-up, instead of by a closed connection
            self._errors.append(error)
        finally:
            self._clients.pop(writer, None)
            writer.close()

    async def _exchange(self, request: Request, reader: StreamReader, writer: StreamWriter) -> None:
        self._journal.begin(request)
        try:
            await Exchange(request, reader, writer, self._claim, self._forward).run()
        finally:
            self._journal.end()
        if request.headers.get("connection", "").lower() == "close":
            raise ConnectionEndedError

    def _claim(self, request: Request, early: bool) -> list[Injection]:
        with self._injecting:
            claimed = [injection for injection in self._injections if injection.matches(request, early=early)]
        for injection in claimed:
            injection.strike()
        return claimed

    async def _forward(self, request: Request) -> Reply:
        if not request.target.startswith(PREFIX):
            return _NO_ROUTE
        refusal = self.keys.refuse(request)
        if refusal is not None:
            return refusal
        return await self._upstream.forward(request, request.target.removeprefix(PREFIX) or "/")

    async def _open_port(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, HOST, self.port, limit=STREAM_LIMIT, backlog=1024, reuse_address=True
            )

    async def _close_port(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._drop(with_reset=True)

    async def _drop(self, with_reset: bool) -> None:
        for writer in list(self._clients):
            if with_reset:
                reset(writer)
            else:
                writer.close()

    async def _end(self) -> None:
        await self._close_port()
        tasks = [task for task in self._clients.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._upstream.close()
        await self._loop.shutdown_asyncgens()

    def _run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CONTROL_SECONDS)
