"""HTTP/1.1 requests and replies, read whole from a stream."""

import json
from asyncio import IncompleteReadError, StreamReader
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

_PER_CONNECTION = frozenset({"connection", "content-length", "expect", "host", "keep-alive", "transfer-encoding"})
_WITHOUT_BODY = frozenset({204, 304})


@dataclass(slots=True)
class Request:
    """What a client sent; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    body_length: int = 0
    status: int | None = None  # of the reply, once there is one

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def rows(self) -> list[Any]:
        """The rows of an insert: the JSON body as a list, empty where there is none."""
        if not self.body:
            return []
        content = json.loads(self.body)
        return content if isinstance(content, list) else [content]

    def encode(self, target: str, host: str) -> bytes:
        """Give the head for the next server; the body follows as it is."""
        lines = [f"{self.method} {target} HTTP/1.1", f"host: {host}"]
        lines += _forwarded(self.headers.items())
        if self.body or self.method in ("POST", "PUT", "PATCH"):
            lines.append(f"content-length: {len(self.body)}")
        return _encode_lines(lines)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered; the length is added when it is sent."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)

    def encode(self, *, chunked: bool = False) -> bytes:
        """Give the head; the body follows, as it is or in chunks."""
        lines = [f"HTTP/1.1 {self.status} {_reason(self.status)}", *_forwarded(self.headers)]
        if chunked:
            lines.append("transfer-encoding: chunked")
        elif self.status not in _WITHOUT_BODY:
            lines.append(f"content-length: {len(self.body)}")
        return _encode_lines(lines)


async def read_request_head(reader: StreamReader) -> Request | None:
    """Read up to the empty line; None when the client has hung up."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (IncompleteReadError, ConnectionError):
        return None
    start, headers = _parse_head(head)
    method, target, _ = start.split(" ", 2)
    return Request(method, target, dict(headers))


async def read_request_body(reader: StreamReader, request: Request) -> None:
    request.body = await _read_body(reader, request.headers)
    request.body_length = len(request.body)


async def read_reply(reader: StreamReader, method: str) -> Reply:
    """Read one whole reply to a request of `method`."""
    start, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
    status = int(start.split(" ", 2)[1])
    empty = method == "HEAD" or status in _WITHOUT_BODY
    body = b"" if empty else await _read_body(reader, dict(headers))
    return Reply(status, tuple(headers), body)


async def _read_body(reader: StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunks(reader)
    length = int(headers.get("content-length", 0))
    return await reader.readexactly(length) if length else b""


async def _read_chunks(reader: StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readexactly(2)
    while (await reader.readline()).strip():  # trailers
        pass
    return b"".join(chunks)


def _parse_head(head: bytes) -> tuple[str, list[tuple[str, str]]]:
    start, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return start, [(name.lower(), value.strip()) for name, _, value in pairs]


def _forwarded(headers: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers if name.lower() not in _PER_CONNECTION]


def _encode_lines(lines: list[str]) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
