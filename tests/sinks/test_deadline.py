"""What bounds a request's time below httpx: name look-ups, several addresses, each read and write."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from otel_audit_exporter.sinks import dns as resolver_module
from otel_audit_exporter.sinks.dns import Resolver
from otel_audit_exporter.sinks.supabase.http_deadline import Deadline, keep_deadline
from tests.sinks.listening import listening
from tests.sinks.rows import soon


class SlowNames:
    """A name server that does not answer until it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = threading.Event()
        self.addresses = ["127.0.0.1"]

    def look_up(self, host: str, port: int) -> list[str]:
        self.asked += 1
        self.answer.wait(20)
        return self.addresses


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    names = SlowNames()
    monkeypatch.setattr(resolver_module, "_look_up", names.look_up)
    yield names
    names.answer.set()


def test_an_address_is_not_looked_up(names: SlowNames) -> None:
    for address in ("127.0.0.1", "::1", "fe80::1%eth0"):
        assert Resolver().addresses(address, 80, soon(0)) == [address]
    assert names.asked == 0


def test_a_hanging_look_up_ends_in_time_and_costs_one_thread(names: SlowNames) -> None:
    resolver = Resolver()
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"slow\.example"):
            resolver.addresses("slow.example", 80, soon(0.1))
    assert time.monotonic() - start < 5
    assert names.asked == 1


def test_the_answer_that_comes_late_is_for_the_next_who_asks(names: SlowNames) -> None:
    resolver = Resolver()
    with pytest.raises(TimeoutError):
        resolver.addresses("slow.example", 80, soon(0.1))
    names.answer.set()
    assert resolver.addresses("slow.example", 80, soon()) == ["127.0.0.1"]


def test_a_name_that_nobody_knows_is_an_error_that_names_it() -> None:
    for host in ("nowhere.invalid", "a" * 70 + ".example"):
        with pytest.raises(OSError, match=host[:20]):
            Resolver().addresses(host, 80, soon())


def test_a_look_up_works_while_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert "127.0.0.1" in Resolver().addresses("localhost", 80, soon())


def answer(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def test_an_address_that_never_answers_leaves_time_for_the_next(names: SlowNames) -> None:
    names.addresses = ["192.0.2.1", "127.0.0.1"]  # the first is a documentation address: no one answers there
    names.answer.set()
    deadline = Deadline()
    with listening(answer) as port, httpx.Client(trust_env=False) as client:
        assert keep_deadline(client, deadline)
        with deadline.until(soon(4)):
            assert client.get(f"http://two.example:{port}").text == "ok"


def test_a_look_up_that_hangs_is_a_connect_timeout(names: SlowNames) -> None:
    deadline = Deadline()
    with httpx.Client(trust_env=False) as client:
        keep_deadline(client, deadline)
        with pytest.raises(httpx.ConnectTimeout), deadline.until(soon(0.2)):
            client.get("http://slow.example")


def test_the_deadline_is_the_threads_own() -> None:
    deadline = Deadline()
    seen: list[float] = []
    with deadline.until(soon(0)):
        other = threading.Thread(target=lambda: seen.append(deadline.share(5.0)))
        other.start()
        other.join()
        assert deadline.share(5.0) == 0
    assert seen == [5.0]
    assert deadline.share(5.0) == 5.0


def test_it_says_whether_a_new_connection_was_made() -> None:
    deadline = Deadline()
    with listening(answer) as port, httpx.Client(trust_env=False) as client:
        keep_deadline(client, deadline)
        with deadline.until(soon()):
            client.get(f"http://127.0.0.1:{port}")
        assert deadline.connected
        with deadline.until(soon()):
            assert not deadline.connected


def test_every_way_through_the_client_has_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "localhost")
    with httpx.Client() as client:
        assert keep_deadline(client, Deadline())
        transports: list[Any] = [client._transport, *client._mounts.values()]
        backends = {type(each._pool._network_backend).__module__ for each in transports if each is not None}
    assert backends == {"otel_audit_exporter.sinks.supabase.http_deadline"}


def test_a_client_whose_insides_are_unknown_is_left_as_it_is() -> None:
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client:
        assert not keep_deadline(client, Deadline())
        assert client.get("http://any.example").status_code == 200
