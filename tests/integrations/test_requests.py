"""What of a request is believed: source addresses and request ids."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from otel_audit_exporter import AuditConfigurationError, audit_event, update_audit_context
from otel_audit_exporter.integrations import asgi, wsgi
from otel_audit_exporter.integrations.http_request import TrustedProxies, request_id
from otel_audit_exporter.testing import AuditLog

PROXIES = ["10.0.0.0/8", "192.168.1.1", "fd00::/8"]
USER, YACHT = uuid4(), uuid4()


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["6.6.6.6"], "203.0.113.7"),  # nobody we trust says so
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),  # the first one is the client's own claim
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7, 10.9.9.9, 192.168.1.1"], "203.0.113.7"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.7"], "203.0.113.7"),  # two header lines
        ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.2"),  # proxies all the way
        ("10.0.0.1", ["203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db8::7]:4711"], "2001:db8::7"),
        ("10.0.0.1", ["2001:DB8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("fd00::1%eth0", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["<script>"], "10.0.0.1"),
        ("10.0.0.1", [", ,"], "10.0.0.1"),
        (None, ["203.0.113.7"], None),
        ("testclient", ["203.0.113.7"], "testclient"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str | None, forwarded: list[str], source: str | None) -> None:
    assert TrustedProxies(PROXIES).source(peer, forwarded) == source


def test_a_peer_on_a_unix_socket_is_trusted_by_name() -> None:
    assert TrustedProxies(["unix", "10.0.0.0/8"]).source(None, ["6.6.6.6, 203.0.113.7, 10.1.1.1"]) == "203.0.113.7"
    assert TrustedProxies(["unix"]).source("", []) is None


@pytest.mark.parametrize("proxies", [["proxy.example"], ["10.0.0.0/99"], [""]])
def test_what_is_no_address_is_refused_at_set_up(proxies: list[str]) -> None:
    with pytest.raises(AuditConfigurationError, match="trusted_proxies"):
        TrustedProxies(proxies)


@pytest.mark.parametrize("given", ["r-1", "a" * 128, "01J9Z:abc/def=+@._"])
def test_a_request_id_is_taken_over(given: str) -> None:
    assert request_id(f" {given} ") == given


@pytest.mark.parametrize("given", [None, "", " ", "a" * 129, "a b", "a\nb", "<x>", "é", '"', "-leading"])
def test_an_unfit_request_id_is_replaced(given: str | None) -> None:
    made = request_id(given)
    assert UUID(made).version == 7
    assert made != request_id(given)


class Served:
    """One small application under either middleware, called as a server calls it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, headers: dict[str, str], work: Any, **options: Any) -> list[bytes]:
        return (
            asyncio.run(self._asgi(headers, work, options))
            if self.kind == "asgi"
            else self._wsgi(headers, work, options)
        )

    async def _asgi(self, headers: dict[str, str], work: Any, options: Any) -> list[bytes]:
        sent: list[bytes] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for part in work():
                await send({"type": "http.response.body", "body": part})

        async def send(message: Any) -> None:
            sent.append(message["body"])

        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/parts",
            "query_string": b"",
            "client": ("10.0.0.1", 5000),
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        await asgi.AuditMiddleware(app, **options)(scope, None, send)  # type: ignore[arg-type]  # nothing is received
        return sent

    def _wsgi(self, headers: dict[str, str], work: Any, options: Any) -> list[bytes]:
        environ = {"REMOTE_ADDR": "10.0.0.1", "REQUEST_METHOD": "GET", "PATH_INFO": "/parts"}
        environ.update({f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()})
        answer: Any = wsgi.AuditMiddleware(lambda environ, start: work(), **options)(environ, lambda *_: None)
        try:
            return list(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()


@pytest.fixture(params=["asgi", "wsgi"])
def serve(request: pytest.FixtureRequest) -> Served:
    return Served(request.param)


def touch() -> bytes:
    audit_event("touch", entity_type="part", entity_id=uuid4())
    return b""


def test_events_know_where_the_request_came_from(serve: Served, audit_log: AuditLog) -> None:
    def work() -> Iterator[bytes]:
        touch()
        yield b"one"
        update_audit_context(metadata={"part": 2})
        touch()
        yield b"two"

    headers = {"X-Forwarded-For": "203.0.113.7", "X-Request-ID": "r-1", "User-Agent": "curl/8"}
    identity = {"user_id": USER, "yacht_id": YACHT}
    answer = serve(headers, work, identify=lambda request: identity, trusted_proxies=["10.0.0.1"])
    assert answer == [b"one", b"two"]
    first, second = audit_log.events
    assert (first.source_ip, first.request_id, first.user_agent) == ("203.0.113.7", "r-1", "curl/8")
    assert (first.user_id, first.yacht_id, second.metadata) == (str(USER), str(YACHT), {"part": 2})


@pytest.mark.parametrize("blank", [" ", "\x1f", "\t\x1c "])
def test_a_blank_user_agent_is_none_and_the_request_is_served(serve: Served, blank: str, audit_log: AuditLog) -> None:
    identity = {"user_id": USER, "yacht_id": YACHT}
    serve({"User-Agent": blank}, lambda: [touch()], identify=lambda request: identity)
    audit_log.assert_recorded(user_agent=None)


def test_x_forwarded_for_is_not_believed_by_default(serve: Served, audit_log: AuditLog) -> None:
    identity = {"user_id": USER, "yacht_id": YACHT}
    serve({"X-Forwarded-For": "6.6.6.6"}, lambda: [touch()], identify=lambda request: identity)
    event = audit_log.assert_recorded(source_ip="10.0.0.1", user_agent=None)
    assert UUID(str(event.request_id)).version == 7


def test_identify_sees_headers_and_the_servers_own_keys(serve: Served, audit_log: AuditLog) -> None:
    seen = []

    def identify(request: Any) -> None:
        seen.append((request.headers["x-user"], request.headers.get("nothing"), request.method))
        seen.append(request["path"] if serve.kind == "asgi" else request["PATH_INFO"])

    serve({"X-User": "ada"}, lambda: [b""], identify=identify)
    assert seen == [("ada", None, "GET"), "/parts"]


@pytest.mark.parametrize("answer", [{"colour": "red"}, "text", {"user_id": object()}, KeyError("hunter2")])
def test_an_identify_that_fails_lets_the_request_go_on(
    serve: Served, answer: Any, audit_log: AuditLog, caplog: pytest.LogCaptureFixture
) -> None:
    def identify(request: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert serve({}, lambda: [b"served"], identify=identify) == [b"served"]
    (record,) = caplog.records
    assert "identify failed" in record.getMessage()
    assert "hunter2" not in caplog.text


def test_an_identify_that_cannot_be_called_is_reported_at_set_up() -> None:
    for module in (asgi, wsgi):
        with pytest.raises(AuditConfigurationError, match="identify"):
            module.AuditMiddleware(lambda *_: None, identify="name")


def test_lists_and_files_are_the_servers_own_business() -> None:
    class Wrapper:
        def __init__(self, file: Any) -> None:
            self.file = file

    wrapped = Wrapper(None)
    environ = {"REMOTE_ADDR": "10.0.0.1", "wsgi.file_wrapper": Wrapper}
    for answer in ([b"x"], wrapped):
        app: Any = lambda environ, start, answer=answer: answer  # noqa: E731
        assert wsgi.AuditMiddleware(app)(environ, lambda *_: None) is answer


def test_other_kinds_of_scopes_pass_untouched() -> None:
    passed = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    asyncio.run(asgi.AuditMiddleware(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]  # not called
    assert passed == ["lifespan"]
