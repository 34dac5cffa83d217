"""One request's way through the gateway, with the faults that strike it."""

import asyncio
import struct
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import TypeVar

from tests.stack.faults import Answer, Close, Delay, Drip, Hang, Place, ReplyPart, Reset, Rewrite, Twice
from tests.stack.injections import Injection
from tests.stack.messages import Reply, Request, read_request_body

Claim = Callable[[Request, bool], list[Injection]]
Forward = Callable[[Request], Awaitable[Reply]]
FaultT = TypeVar("FaultT")

_LINGER_SECONDS = 5.0


class ConnectionEndedError(Exception):
    """The connection is at its end, by a fault or by the client's hand."""


class Exchange:
    """Reads a request's body, has it forwarded and answers it."""

    def __init__(
        self, request: Request, reader: StreamReader, writer: StreamWriter, claim: Claim, forward: Forward
    ) -> None:
        self._request = request
        self._reader = reader
        self._writer = writer
        self._claim = claim
        self._forward = forward
        self._injections: list[Injection] = []

    async def run(self) -> None:
        """Raise ConnectionEndedError where the connection cannot be used again."""
        await self._strike(Place.REQUEST_HEAD, early=True)
        await self._read_body()
        await self._strike(Place.REQUEST_BODY)
        reply = await self._reply()
        await self._strike_later(Place.COMMITTED)
        self._request.status = reply.status
        try:
            await self._send(reply)
        except ConnectionError as error:
            raise ConnectionEndedError from error

    async def _read_body(self) -> None:
        if self._request.headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            await read_request_body(self._reader, self._request)
        except (IncompleteReadError, ConnectionError) as error:
            raise ConnectionEndedError from error

    async def _reply(self) -> Reply:
        answers = self._faults(Answer)
        if answers and not answers[0].after_commit:
            return answers[0].reply
        reply = await self._forward(self._request)
        for rewrite in self._faults(Rewrite):
            reply = rewrite.change(reply)
        return answers[0].reply if answers else reply

    async def _send(self, reply: Reply) -> None:
        in_chunks = self._struck_in_body()
        head = reply.encode(chunked=in_chunks)
        body = b"" if self._request.method == "HEAD" else reply.body
        if self._faults(Twice):
            await self._write(2 * (head + body))
            return
        await self._send_head(head)
        await (self._send_chunks(body) if in_chunks else self._write(body))

    async def _send_head(self, head: bytes) -> None:
        half = len(head) // 2 if self._interruptions(Place.REPLY_HEAD) else 0
        await self._write(head[:half])
        await self._strike_later(Place.REPLY_HEAD)
        await self._write_part(head[half:], ReplyPart.HEAD)

    async def _send_chunks(self, body: bytes) -> None:
        # In chunks even an empty body has a middle to be interrupted in.
        half = len(body) // 2
        await self._write(_chunk(body[:half]))
        await self._strike_later(Place.REPLY_BODY)
        rest = _chunk(body[half:]) + b"0;" + b"drip" * 16 + b"\r\n\r\n"
        await self._write_part(rest, ReplyPart.BODY)

    async def _write_part(self, content: bytes, part: ReplyPart) -> None:
        for injection, drip in self._drips(part)[:1]:
            while content:
                await self._write(content[:1])
                await injection.pause(drip.seconds_per_byte)
                content = content[1:]
        await self._write(content)

    async def _write(self, content: bytes) -> None:
        if content:
            self._writer.write(content)
            await self._writer.drain()

    async def _strike(self, place: Place, *, early: bool = False) -> None:
        self._injections += self._claim(self._request, early)
        await self._strike_later(place)

    async def _strike_later(self, place: Place) -> None:
        for injection in self._interruptions(place):
            match injection.fault:
                case Delay(seconds=seconds):
                    await injection.pause(seconds)
                case Hang():
                    await injection.pause()
                case Reset():
                    reset(self._writer)
                    raise ConnectionEndedError
                case Close():
                    await self._close()
                    raise ConnectionEndedError

    async def _close(self) -> None:
        # Closing with unread bytes would send a reset, so the client gets the FIN first and time to hang up.
        try:
            self._writer.write_eof()
            await asyncio.wait_for(self._until_hung_up(), _LINGER_SECONDS)
        except (OSError, TimeoutError):
            pass

    async def _until_hung_up(self) -> None:
        while await self._reader.read(2**16):
            pass

    def _interruptions(self, place: Place) -> list[Injection]:
        return [injection for injection in self._injections if injection.interrupts(place)]

    def _faults(self, kind: type[FaultT]) -> list[FaultT]:
        return [injection.fault for injection in self._injections if isinstance(injection.fault, kind)]

    def _drips(self, part: ReplyPart) -> list[tuple[Injection, Drip]]:
        pairs = ((injection, injection.fault) for injection in self._injections)
        return [(injection, drip) for injection, drip in pairs if isinstance(drip, Drip) and drip.part is part]

    def _struck_in_body(self) -> bool:
        return bool(self._interruptions(Place.REPLY_BODY) or self._drips(ReplyPart.BODY))


def reset(writer: StreamWriter) -> None:
    """Cut a connection with a TCP reset, which is what closing without lingering sends."""
    socket = writer.get_extra_info("socket")
    if socket is not None and socket.fileno() >= 0:
        socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content) if content else b""
