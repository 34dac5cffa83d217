"""Keys and tokens: what stands in a request's headers, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from otel_audit_exporter.runtime.threads import Lock
from otel_audit_exporter.sinks.base import SinkError, seconds_left
from otel_audit_exporter.sinks.dns import run_aside
from otel_audit_exporter.sinks.verdict import Fault, Verdict

Token = str | Callable[[], str]

WRONG_KEY: Final = Verdict(Fault.CONFIGURATION, "give the key or token as one line of printable ASCII")
_NO_TOKEN: Final = Verdict(Fault.TRANSIENT, "see why the token callable fails")


class Credentials:
    """The headers that say who asks: any of the project's keys, and the token of a lesser role where one is given.

    Raises ``ValueError`` for a key or token that cannot stand in a header.
    """

    def __init__(self, key: str, token: Token | None) -> None:
        self._key = header_value(key)
        self._token = TokenProvider(token) if callable(token) else None if token is None else header_value(token)

    def headers(self, deadline: float) -> dict[str, str]:
        """Return the headers; raise :class:`SinkError` where a token callable gives no token by ``deadline``."""
        bearer = self._bearer(deadline)
        headers = {"apikey": self._key}
        return headers if bearer is None else {**headers, "Authorization": f"Bearer {bearer}"}

    def renew_after_fork(self) -> None:
        """Forget a call of the token callable that the parent process has begun."""
        if isinstance(self._token, TokenProvider):
            self._token = TokenProvider(self._token.ask)

    def _bearer(self, deadline: float) -> str | None:
        if self._token is None:
            # Keys of the new kind are no JWTs, and stand in the apikey header alone.
            return None if self._key.startswith("sb_") else self._key
        if isinstance(self._token, str):
            return self._token
        return self._token.answer(deadline)


class TokenProvider:
    """A token callable. One that hangs ends with the deadline, and costs one thread."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self.ask = ask
        self._lock = Lock()
        self._asking: Future[str] | None = None

    def answer(self, deadline: float) -> str:
        """Return the token; raise :class:`SinkError` where there is none by ``deadline``."""
        with self._lock:
            future, is_new = self._asking or Future(), self._asking is None
            self._asking = future
        if is_new:
            run_aside(self._run, future)
        try:
            return future.result(seconds_left(deadline))
        except TimeoutError:
            raise SinkError(_NO_TOKEN, "the token callable does not return") from None

    def _run(self, future: Future[str]) -> None:
        token, refusal = "", None
        try:
            token = _called(self.ask)
        except SinkError as error:
            refusal = error
        except BaseException as error:  # SystemExit, say, which would end this thread without a word
            refusal = SinkError(_NO_TOKEN, f"the token callable raised {type(error).__name__}")
        with self._lock:
            self._asking = None  # before anybody has this answer: the next insert asks again
        if refusal is None:
            future.set_result(token)
        else:
            future.set_exception(refusal)


def _called(token: Callable[[], Any]) -> str:
    try:
        value = token()
    except Exception as error:  # the application's own code may raise anything
        raise SinkError(_NO_TOKEN, f"the token callable raised {type(error).__name__}") from None
    try:
        return header_value(value)
    except ValueError:
        raise SinkError(WRONG_KEY, "the token callable gave no usable token") from None


def header_value(value: Any) -> str:
    """Return a key or token as it stands in a header; raise ``ValueError`` for one that cannot."""
    text = value.strip() if isinstance(value, str) else ""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a key or token is a non-empty line of printable ASCII without spaces")
    return text
