"""The gateway's connections to PostgREST."""

import json
import time
from asyncio import IncompleteReadError, StreamReader, StreamWriter, open_connection

from tests.stack.messages import Reply, Request, read_reply

STREAM_LIMIT = 2**24

_AWAY = Reply(
    502,
    (("content-type", "application/json"),),
    json.dumps({"message": "An invalid response was received from the upstream server"}).encode(),
)

Connection = tuple[StreamReader, StreamWriter]
# PostgREST closes a connection after 30 s without a request, perhaps just as the next one is on its way.
_KEPT_SECONDS = 5.0


class Upstream:
    """Forwards requests, each once, over connections that are kept open."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[tuple[Connection, float]] = []

    async def forward(self, request: Request, target: str) -> Reply:
        """Give PostgREST's reply, or the gateway's own 502 where there is none."""
        try:
            connection = self._idle_connection() or await self._connect()
        except OSError:
            return _AWAY
        try:
            reply = await self._ask(connection, request, target)
        except (OSError, IncompleteReadError):
            connection[1].close()
            return _AWAY
        except BaseException:
            connection[1].close()
            raise
        self._idle.append((connection, time.monotonic()))
        return reply

    def close(self) -> None:
        for (_, writer), _ in self._idle:
            writer.close()
        self._idle.clear()

    async def _ask(self, connection: Connection, request: Request, target: str) -> Reply:
        reader, writer = connection
        writer.write(request.encode(target, f"{self._host}:{self._port}"))
        writer.write(request.body)
        await writer.drain()
        return await read_reply(reader, request.method)

    async def _connect(self) -> Connection:
        return await open_connection(self._host, self._port, limit=STREAM_LIMIT)

    def _idle_connection(self) -> Connection | None:
        while self._idle:
            (reader, writer), since = self._idle.pop()
            is_fresh = time.monotonic() - since < _KEPT_SECONDS
            if is_fresh and not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return None
