"""The one place that opens connections to PostgreSQL: :func:`connect` for a sink, :func:`open_session` for the rest.

psycopg's own calls wait for as long as the network does, which a sink must not. So :class:`PgConnection` is libpq
without blocking, as psycopg exposes it, in pipeline mode: several statements in one round trip, no prepared statement
and no session setting, so that it also works through a pooler that shares sessions between transactions.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq import abc

from otel_audit_exporter.runtime.clock import Clock
from otel_audit_exporter.sinks.base import seconds_left
from otel_audit_exporter.sinks.dns import Resolver
from otel_audit_exporter.sinks.postgres.refusals import connect_error, server_error

Statement = tuple[bytes, Sequence[bytes]]

_DEFAULT_PORT: Final = "5432"
_SETTINGS: Final = {"client_encoding": "UTF8", "fallback_application_name": "otel_audit_exporter"}
_SESSION: Final = {"fallback_application_name": "otel_audit_exporter", "connect_timeout": "10"}
_DONE: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class ServerError(Exception):
    """Say that the server refused a statement: its SQLSTATE and its words.

    The words may hold values of rows: they are for classifying, not for showing.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(code)


class ConnectError(Exception):
    """Say that no connection came about, in the words of libpq or of the server."""


class ConnectionLostError(Exception):
    """Say that the connection broke: whether the server has committed is not known."""


class PgConnection:
    """An open connection in pipeline mode, for one thread at a time."""

    def __init__(self, connection: abc.PGconn) -> None:
        self._connection = connection
        connection.nonblocking = 1
        connection.enter_pipeline_mode()

    @property
    def alive(self) -> bool:
        """Return whether there is a connection now, as far as is known."""
        return self._connection.status == pq.ConnStatus.OK

    @property
    def usable(self) -> bool:
        """Say whether the next transaction can be sent on it."""
        return self.alive and self._connection.transaction_status == pq.TransactionStatus.IDLE

    def run(self, statements: Sequence[Statement], deadline: float) -> list[abc.PGresult]:
        """Run statements in one round trip; the first that is refused ends them, and is raised.

        Raises :class:`ServerError`, :class:`ConnectionLostError`, or ``TimeoutError`` after which only
        :meth:`close` is left.
        """
        results: list[abc.PGresult] = []
        try:
            self._send(statements, deadline)
            results.extend(self._results(deadline))
        except psycopg.Error:
            _raise_first_error(results)  # the server may have sent the reason before it closed the connection
            raise ConnectionLostError("the connection broke") from None
        _raise_first_error(results)
        return results

    def copy(self, commands: bytes, data: bytes, deadline: float) -> int:
        """Run statements that end in COPY FROM STDIN, in one transaction; return how many rows it took.

        Raises as :meth:`run` does.
        """
        try:
            self._connection.exit_pipeline_mode()
            self._connection.send_query(commands)
            self._flush(deadline)
            results = list(self._answers(deadline))
            if results[-1].status == pq.ExecStatus.COPY_IN:
                self._put(data, deadline)
                results = list(self._answers(deadline))
        except psycopg.Error:
            raise ConnectionLostError("the connection broke") from None
        if self.alive:
            self._connection.enter_pipeline_mode()
        _raise_first_error(results)
        return results[-1].command_tuples or 0

    def roll_back(self, deadline: float) -> None:
        """End a refused transaction; where that fails the connection stays unusable."""
        refused = (pq.TransactionStatus.INERROR, pq.TransactionStatus.INTRANS)
        if self._connection.transaction_status in refused:
            with suppress(ServerError, ConnectionLostError, TimeoutError):
                self.run([(b"ROLLBACK", ())], deadline)

    def close(self) -> None:
        self._connection.finish()

    def _send(self, statements: Sequence[Statement], deadline: float) -> None:
        for command, values in statements:
            self._connection.send_query_params(command, values)
        self._connection.pipeline_sync()
        self._flush(deadline)

    def _put(self, data: bytes, deadline: float) -> None:
        if not (self._connection.put_copy_data(data) and self._connection.put_copy_end()):
            raise psycopg.OperationalError("no memory for the rows")
        self._flush(deadline)

    def _flush(self, deadline: float) -> None:
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        while self._connection.flush():
            if _wait(self._connection.socket, both, deadline) & selectors.EVENT_READ:
                self._connection.consume_input()

    def _answers(self, deadline: float) -> Iterator[abc.PGresult]:
        """Give the results up to the last, or up to where the server waits for rows."""
        while (result := self._result(deadline)) is not None:
            yield result
            if result.status == pq.ExecStatus.COPY_IN:
                return

    def _result(self, deadline: float) -> abc.PGresult | None:
        while self._connection.is_busy():
            _wait(self._connection.socket, selectors.EVENT_READ, deadline)
            self._connection.consume_input()
        return self._connection.get_result()

    def _results(self, deadline: float) -> Iterator[abc.PGresult]:
        while True:
            result = self._result(deadline)
            if result is not None and result.status == pq.ExecStatus.PIPELINE_SYNC:
                return
            if result is not None:
                yield result
            elif not self.alive:
                raise psycopg.OperationalError


def connect(parameters: Mapping[str, Any], resolver: Resolver, deadline: float) -> PgConnection:
    """Connect to the first of the hosts and addresses that answers.

    None of several may use up all of the time. Raises :class:`ConnectError`.
    """
    attempts = list(_attempts(parameters, resolver, deadline))
    for index, attempt in enumerate(attempts):
        share = seconds_left(deadline) / (len(attempts) - index)
        try:
            return _connect(attempt, Clock.monotonic() + share)
        except ConnectError:
            if attempt is attempts[-1]:
                raise
    raise ConnectError("the host has no address")


def open_session(parameters: Mapping[str, Any], *, autocommit: bool) -> psycopg.Connection[Any]:
    """Open a connection of psycopg's own, for work that may block; raise :class:`SinkError` where that fails."""
    try:
        return psycopg.connect(**{**_SESSION, **parameters}, autocommit=autocommit, prepare_threshold=None)
    except psycopg.Error as error:
        raise connect_error(str(error)) from None


@contextmanager
def server_errors() -> Iterator[None]:
    """Raise what psycopg raises in the block as :class:`SinkError`, with no value of a row in its words."""
    try:
        yield
    except psycopg.Error as error:
        raise server_error(error.sqlstate or "", error.diag.message_primary or "") from None


def _connect(parameters: Mapping[str, Any], deadline: float) -> PgConnection:
    conninfo = make_conninfo(**{**_SETTINGS, **parameters}).encode()
    connection = pq.PGconn.connect_start(conninfo)
    try:
        _finish_login(connection, deadline)
        return PgConnection(connection)
    except psycopg.Error:
        connection.finish()
        raise ConnectError("the connection broke") from None
    except BaseException:
        connection.finish()
        raise


def _finish_login(connection: abc.PGconn, deadline: float) -> None:
    while True:
        state = _poll(connection)
        if state == pq.PollingStatus.OK:
            return
        reading = state == pq.PollingStatus.READING
        try:
            _wait(connection.socket, selectors.EVENT_READ if reading else selectors.EVENT_WRITE, deadline)
        except TimeoutError:
            raise ConnectError("no connection in time") from None


def _poll(connection: abc.PGconn) -> int:
    bad = connection.status == pq.ConnStatus.BAD
    state = pq.PollingStatus.FAILED if bad else connection.connect_poll()
    if state == pq.PollingStatus.FAILED:
        raise ConnectError(connection.get_error_message())
    return state


def _raise_first_error(results: Sequence[abc.PGresult]) -> None:
    for result in results:
        if result.status not in _DONE:
            code = result.error_field(pq.DiagnosticField.SQLSTATE)
            if code is None:  # libpq's own words: there is no server to talk to
                raise ConnectionLostError("the connection broke")
            message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
            raise ServerError(code.decode(), message.decode(errors="replace"))


def _attempts(parameters: Mapping[str, Any], resolver: Resolver, deadline: float) -> Iterator[dict[str, Any]]:
    """Split several hosts, and the several addresses of a host, into single attempts."""
    hosts = str(parameters.get("host") or os.environ.get("PGHOST") or "").split(",")
    ports = str(parameters.get("port") or os.environ.get("PGPORT") or "").split(",")
    if "hostaddr" in parameters or "service" in parameters:
        yield dict(parameters)
        return
    for index, host in enumerate(hosts):
        port = ports[index] if len(ports) == len(hosts) else ports[0]
        for address in _addresses(host, port or _DEFAULT_PORT, resolver, deadline):
            yield {**parameters, **address, "host": host, "port": port}


def _addresses(host: str, port: str, resolver: Resolver, deadline: float) -> list[dict[str, str]]:
    if not host or host.startswith(("/", "@")):
        return [{}]
    try:
        return [{"hostaddr": address} for address in resolver.addresses(host, int(port), deadline)]
    except (OSError, ValueError) as error:
        raise ConnectError(str(error)) from None


def _wait(descriptor: int, events: int, deadline: float) -> int:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, events)
        ready = selector.select(seconds_left(deadline))
    if not ready:
        raise TimeoutError("no answer in time")
    return ready[0][1]
