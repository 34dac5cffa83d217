"""What operations ask over HTTP, without any framework: JSON documents, one page, and a retry.

Nothing of an event's values is in any answer unless the application asks for it, and nobody is answered whom
the application has not let in.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

import orjson

from otel_audit_exporter.delivery.dead_letters import DeadLetters
from otel_audit_exporter.errors import AuditConfigurationError, AuditDeliveryError, AuditError, OutboxError
from otel_audit_exporter.observability.health import AuditHealth
from otel_audit_exporter.observability.stats import stats_document
from otel_audit_exporter.operations.destinations import destination_document
from otel_audit_exporter.operations.documents import (
    BadQueryError,
    causes_document,
    letters_document,
    letters_in,
    losses_document,
)
from otel_audit_exporter.operations.page import NOTICES, PageData, render_page
from otel_audit_exporter.outbox.inspection import read_outbox_status
from otel_audit_exporter.pipeline.current import get_audit_pipeline
from otel_audit_exporter.pipeline.pipeline import AuditPipeline
from otel_audit_exporter.runtime.times import utc_now

_RETRY: Final = re.compile(r"/dead-letters/([^/]+)/retry")
_RETRY_SECONDS: Final = 20.0
_FORGED: Final = "a change has to be asked for on this page itself (or name the other origin in `origins`)"
_PAGE_LIMIT: Final = 50
_CLOSED: Final = "closed: whoever mounts it has to say who may look, with a token or a dependency"


@dataclass(frozen=True)
class OperationsRequest:
    """A request: ``path`` from where the handler is mounted, header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def wants_html(self) -> bool:
        """Whether a browser asks."""
        return "text/html" in self.headers.get("accept", "")


@dataclass(frozen=True)
class OperationsResponse:
    """An answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


T = TypeVar("T")
Answer = Callable[[OperationsRequest], OperationsResponse]


class OperationsHandler:
    """Answers requests about a pipeline (None: the one in force).

    ``token``: what a request must bring, as ``Authorization: Bearer`` or as the password of basic authentication,
    which a browser asks for. ``guarded``: the application lets nobody through to here whom it does not know.
    With neither, every path answers 403. ``show_values``: the rows of dead letters are shown too. ``origins``:
    where else than on the page's own origin a retry may be asked for, such as ``"https://admin.example"``.
    """

    def __init__(
        self,
        pipeline: AuditPipeline | None = None,
        *,
        token: str | None = None,
        guarded: bool = False,
        show_values: bool = False,
        origins: Iterable[str] = (),
    ) -> None:
        if token == "" and guarded:
            raise AuditConfigurationError(
                "token: is empty, so it would not be asked for: give one, or leave it out where who may look is "
                "decided by `allow` or by dependencies alone"
            )
        self._pipeline = pipeline
        self._token = token.encode() if token else None
        self._guarded = guarded
        self._show_values = show_values
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)

    def answer(self, request: OperationsRequest) -> OperationsResponse:
        """Answer one request; never raises for the pipeline's sake."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            return self._answer(request)
        except BadQueryError as error:
            return _json(400, {"error": str(error)})
        except AuditError as error:
            return _json(503, {"error": str(error)})

    # --- who may look -------------------------------------------------------------------------------------------

    def _refusal(self, request: OperationsRequest) -> OperationsResponse | None:
        if self._token is None:
            return None if self._guarded else _json(403, {"error": _CLOSED})
        if hmac.compare_digest(_given_token(request.headers.get("authorization", "")), self._token):
            return None
        # One challenge only: Chromium asks nobody where several are in one header.
        challenge = ("www-authenticate", 'Basic realm="audit", charset="UTF-8"')
        said = "a token is needed: Authorization: Bearer <token>, or the token as the password in a browser"
        return _json(401, {"error": said}, challenge)

    def _is_forged(self, request: OperationsRequest) -> bool:
        """Return whether a foreign page made a browser send this."""
        origin = request.headers.get("origin", "").lower()
        if origin in self._origins:
            return False
        fetch_site = request.headers.get("sec-fetch-site")
        if fetch_site is not None:
            return fetch_site != "same-origin"
        try:
            return bool(origin) and urlsplit(origin).netloc != request.headers.get("host", "").lower()
        except ValueError:  # no origin that a browser sends
            return True

    # --- what is answered ---------------------------------------------------------------------------------------

    def _answer(self, request: OperationsRequest) -> OperationsResponse:
        change = self._change(request.path)
        if change is not None:
            if request.method != "POST":
                return _not_allowed("POST")
            return _json(403, {"error": _FORGED}) if self._is_forged(request) else change(request)
        page = self._pages().get(request.path)
        if page is None:
            return _json(404, {"error": "there is nothing here; see /, /stats, /health, /losses and /dead-letters"})
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        return page(request)

    def _change(self, path: str) -> Answer | None:
        retry = _RETRY.fullmatch(path)
        if retry:
            return lambda request: self._retry(request, unquote(retry[1]))
        return {"/dead-letters/retry": self._retry_all, "/losses/acknowledge": self._acknowledge}.get(path)

    def _pages(self) -> dict[str, Answer]:
        return {
            "/": self._page,
            "/stats": self._stats,
            "/health": self._health,
            "/losses": self._losses,
            "/dead-letters": self._dead_letters,
        }

    def _in_force(self) -> AuditPipeline:
        return get_audit_pipeline() if self._pipeline is None else self._pipeline

    def _stats(self, request: OperationsRequest) -> OperationsResponse:
        return _json(200, stats_document(self._in_force().stats()))

    def _health(self, request: OperationsRequest) -> OperationsResponse:
        health = self._in_force().health()
        strict = request.query.get("strict", "") not in ("", "0", "false")
        lost = health.failed or health.rejected or health.level == "critical"
        return _json(503 if not health.accepting or (strict and lost) else 200, health_document(health))

    def _dead_letters(self, request: OperationsRequest) -> OperationsResponse:
        return _json(200, letters_document(self._in_force(), request.query, with_rows=self._show_values))

    def _losses(self, request: OperationsRequest) -> OperationsResponse:
        return _json(200, losses_document(self._in_force()))

    def _acknowledge(self, request: OperationsRequest) -> OperationsResponse:
        reason = request.form.get("reason", "").strip()
        if not reason:
            return _done(request, 400, {"error": "reason: say why the losses are acknowledged"}, "no-reason")
        count = self._in_force().acknowledge_losses(reason)
        return _done(request, 200, {"acknowledged": count}, "acknowledged")

    def _retry_all(self, request: OperationsRequest) -> OperationsResponse:
        letters = letters_in(self._in_force(), request.query)
        try:
            stored, through = letters.retry_for(_RETRY_SECONDS)
        except AuditDeliveryError as error:
            return _done(request, 503, {"error": error.cause, "left": len(letters)}, "unreachable")
        left = len(letters)
        notice = "all-stored" if not left else "some-refused" if through else "more-left"
        return _done(request, 200, {"stored": stored, "left": left, "through": through} | _passed_over(letters), notice)

    def _or_none(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except (OutboxError, OSError):  # the page is there for such a time
            return None

    def _retry(self, request: OperationsRequest, record_id: str) -> OperationsResponse:
        letters = letters_in(self._in_force(), request.query)
        if letters.get(record_id) is None:
            return _done(request, 404, {"record_id": record_id, "error": "there is no such dead letter"}, "missing")
        try:
            stored = letters.retry(record_id) == 1
        except AuditDeliveryError as error:
            document = {"record_id": record_id, "state": "parked", "error": error.cause}
            return _done(request, 503, document, "unreachable")
        if stored:
            return _done(request, 200, {"record_id": record_id, "state": "stored"}, "stored")
        letter = letters.get(record_id)
        document = {"record_id": record_id, "state": "parked", "error": letter.error if letter else None}
        return _done(request, 409, document, "refused")

    def _page(self, request: OperationsRequest) -> OperationsResponse:
        pipeline = self._in_force()
        stats = pipeline.stats()
        query = {"limit": str(_PAGE_LIMIT)}
        letters = self._or_none(lambda: letters_document(pipeline, query, with_rows=self._show_values))
        data = PageData(
            target=pipeline.target,
            stats=stats,
            health=pipeline.health(),
            samples=pipeline.samples,
            errors=pipeline.latest_errors,
            letters=None if letters is None else letters["dead_letters"],
            causes=self._or_none(lambda: causes_document(pipeline)) or [],
            losses=self._or_none(lambda: losses_document(pipeline)),
            destinations=self._or_none(lambda: _destinations(pipeline)) or [],
            notice=request.query.get("done", ""),
        )
        html, policy = render_page(data)
        return OperationsResponse(
            200,
            (
                ("content-type", "text/html; charset=utf-8"),
                ("content-security-policy", policy),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "same-origin"),
                *_ALWAYS,
            ),
            html.encode(),
        )


_ALWAYS: Final = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))


def health_document(health: AuditHealth) -> dict[str, Any]:
    """Return the health as JSON has it."""
    return asdict(health)


def _given_token(authorization: str) -> bytes:
    scheme, _, rest = authorization.strip().partition(" ")
    given = rest.strip().encode("latin-1", "replace")  # as servers decode headers
    if scheme.lower() == "bearer":
        return given
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _done(request: OperationsRequest, status: int, document: dict[str, Any], notice: str) -> OperationsResponse:
    """Answer a program with JSON, and send a browser back to the page."""
    assert notice in NOTICES
    if not request.wants_html:
        return _json(status, document)
    up = "../" * (request.path.strip("/").count("/")) or "./"
    return OperationsResponse(303, (("location", f"{up}?done={notice}"), *_ALWAYS), b"")


def _passed_over(letters: DeadLetters) -> dict[str, int]:
    """Say how many a retry has passed over, as they are wrong by themselves."""
    return {"passed_over": letters.passed_over} if letters.passed_over else {}


def _destinations(pipeline: AuditPipeline) -> list[dict[str, Any]]:
    """Return every destination in this pipeline's outbox directory, with the processes that have files there."""
    folder = pipeline.primary.channel.logs.directory
    now = utc_now()
    return [] if folder is None else [destination_document(one, now) for one in read_outbox_status(folder.root)]


def _json(status: int, document: object, *headers: tuple[str, str]) -> OperationsResponse:
    body = orjson.dumps(document, default=str, option=orjson.OPT_NON_STR_KEYS)
    return OperationsResponse(status, (("content-type", "application/json"), *headers, *_ALWAYS), body)


def _not_allowed(methods: str) -> OperationsResponse:
    return _json(405, {"error": f"only {methods}"}, ("allow", methods))
