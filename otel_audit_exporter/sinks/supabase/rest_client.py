"""Requests to a PostgREST other than the sink's insert: reading rows, and looking at the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from otel_audit_exporter.event.encoded_event import loads_exact
from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.supabase.sink import (
    called_token,
    error_in,
    header_value,
    make_session,
    project_url,
    transport_error,
)
from otel_audit_exporter.sinks.verdict import Fault, Verdict, classify_http, describe_http

if TYPE_CHECKING:
    import httpx

_SECONDS = 30.0
_NOT_POSTGREST = Verdict(
    Fault.CONFIGURATION,
    "check that SUPABASE_URL is the project's own https:// address, and that nothing on the way answers",
)


class PostgREST:
    """The REST interface of a Supabase project, in one schema."""

    def __init__(self, url: str, key: str, *, token: str | Callable[[], str] | None, schema: str) -> None:
        self._base = f"{project_url(url)}/rest/v1"
        self._key = header_value(key)
        self._token = token
        self._schema = schema

    def get(
        self, path: str, parameters: Mapping[str, str] | Sequence[tuple[str, str]] = (), accept: str = "*/*"
    ) -> Any:
        """Return the JSON of an answer; raise :class:`SinkError` for any other answer and where there is none."""
        answer = self._send("GET", path, parameters, None, {"Accept-Profile": self._schema, "Accept": accept})
        return self.content(answer)

    def insert(self, table: str, parameters: Mapping[str, str], rows: bytes, prefer: str) -> SinkError | None:
        """Insert rows; return the refusal, or None where PostgREST says that it did as it was told."""
        headers = {"Content-Profile": self._schema, "Content-Type": "application/json", "Prefer": prefer}
        answer = self._send("POST", table, parameters, rows, headers)
        if answer.status_code in (200, 201) and "content-range" in answer.headers:
            return None
        return self.refusal(answer)

    @staticmethod
    def content(answer: httpx.Response) -> Any:
        """Return the JSON of an answer of PostgREST's own."""
        if answer.status_code not in (200, 206):
            raise PostgREST.refusal(answer)
        try:
            return loads_exact(answer.content)
        except ValueError:
            raise SinkError(_NOT_POSTGREST, "the answer is not PostgREST's", status=answer.status_code) from None

    @staticmethod
    def refusal(answer: httpx.Response) -> SinkError:
        """Say what an answer is that is no success."""
        code, message = error_in(answer.content)
        status = answer.status_code
        verdict, said = classify_http(status, code, message), describe_http(status, code, message)
        return SinkError(verdict, said, code=code, status=status)

    def _send(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | Sequence[tuple[str, str]],
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        import httpx

        with make_session() as session:
            try:
                return session.request(
                    method,
                    f"{self._base}/{path}",
                    params=dict(parameters) if isinstance(parameters, Mapping) else list(parameters),
                    content=body,
                    headers={**self._credentials(), **headers},
                    timeout=_SECONDS,
                )
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                raise transport_error(error) from None

    def _credentials(self) -> dict[str, str]:
        headers = {"apikey": self._key}
        token = called_token(self._token) if callable(self._token) else self._token
        if token or not self._key.startswith("sb_"):
            headers["Authorization"] = f"Bearer {header_value(token or self._key)}"
        return headers
