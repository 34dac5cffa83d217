"""The faults that the gateway can be told to commit, as plain values.

A `Delay`, `Hang`, `Reset` or `Close` strikes at one `Place` on a request's way; `Drip`, `Answer` and
`Rewrite` change the reply.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests.stack.messages import Reply


class Place(Enum):
    """Where on a request's way something goes wrong."""

    REQUEST_HEAD = "the headers are read, the body is not"
    REQUEST_BODY = "the request is read, the database has not seen it"
    COMMITTED = "the database has answered, the client has seen nothing of it"
    REPLY_HEAD = "half of the reply's headers are sent"
    REPLY_BODY = "the reply's headers and half of its body are sent"


class ReplyPart(Enum):
    HEAD = "head"
    BODY = "body"


@dataclass(frozen=True)
class Delay:
    """Wait, then go on as if nothing had been."""

    seconds: float
    at: Place = Place.REQUEST_BODY


@dataclass(frozen=True)
class Hang:
    """Do nothing until released, then go on."""

    at: Place


@dataclass(frozen=True)
class Reset:
    """Cut the connection with a TCP reset."""

    at: Place


@dataclass(frozen=True)
class Close:
    """End the connection in good order, with a FIN."""

    at: Place


@dataclass(frozen=True)
class Drip:
    """Send one part of the reply byte by byte."""

    seconds_per_byte: float
    part: ReplyPart = ReplyPart.BODY


@dataclass(frozen=True)
class Answer:
    """Answer in PostgREST's place, which sees nothing of the request; or, `after_commit`, over its head."""

    reply: Reply
    after_commit: bool = False


@dataclass(frozen=True)
class Rewrite:
    """Change PostgREST's reply."""

    change: Callable[[Reply], Reply]


@dataclass(frozen=True)
class Twice:
    """Send the whole reply two times in one piece, so that the second is there when the next request is sent."""


Interruption = Delay | Hang | Reset | Close
Fault = Interruption | Drip | Answer | Rewrite | Twice


def _json(status: int, content: object, **headers: str) -> Answer:
    body = json.dumps(content).encode()
    return Answer(Reply(status, (("content-type", "application/json"), *headers.items()), body))


def _page(status: int, title: str) -> Answer:
    body = f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return Answer(Reply(status, (("content-type", "text/html"),), body.encode()))


def too_many_requests(retry_after: str | None = None) -> Answer:
    """429; `retry_after` is the header's text: a number, an HTTP date, or nonsense."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return _json(429, {"message": "API rate limit exceeded"}, **headers)


def payload_too_large() -> Answer:
    return _page(413, "413 Request Entity Too Large")


def bad_gateway_page() -> Answer:
    return _page(502, "502 Bad Gateway")


def unavailable_text() -> Answer:
    return Answer(Reply(503, (("content-type", "text/plain"),), b"upstream connect error"))


def unavailable_json() -> Answer:
    return _json(503, {"message": "name resolution failed"})


def internal_error() -> Answer:
    return _json(500, {"message": "An unexpected error occurred"})


def project_paused() -> Answer:
    return _json(540, {"message": "Project paused"})


def invalid_api_key() -> Answer:
    return _json(401, {"message": "Invalid API key"})


def not_found() -> Answer:
    return _json(404, {})


def captive_portal() -> Answer:
    """200 with a page that somebody on the way put there."""
    return _page(200, "Sign in to the network")


def empty_ok() -> Answer:
    return Answer(Reply(200))


def no_content() -> Answer:
    return Answer(Reply(204))


def redirect(status: int, location: str) -> Answer:
    return Answer(Reply(status, (("location", location),)))
