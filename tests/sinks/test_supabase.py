"""PostgREST behind a gateway: what proves storage, whose fault the rest is, and how long it may take."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from otel_audit_exporter.sinks.base import SinkError
from otel_audit_exporter.sinks.supabase.sink import SupabaseSink
from otel_audit_exporter.sinks.verdict import Fault
from tests.sinks.rows import COLUMNS, VALUE, id_of, new_row, new_rows, refusal, soon
from tests.sinks.tls import serving_tls
from tests.stack import AuditTable, Stack, faults
from tests.stack.faults import Answer, Close, Delay, Drip, Hang, Place, ReplyPart, Reset, Rewrite
from tests.stack.messages import Reply
from tests.stack.small_servers import serving
from tests.stack.waiting import wait_until
from tests.support.running import in_threads, run_in_child

RECORD, CONFIGURATION, TRANSIENT = Fault.RECORD, Fault.CONFIGURATION, Fault.TRANSIENT


@pytest.fixture
def sink(supabase_sink: SupabaseSink) -> SupabaseSink:
    return supabase_sink


# What is sent


def test_the_request_is_the_one_that_the_least_privileges_allow(
    sink: SupabaseSink, stack: Stack, audit_table: AuditTable
) -> None:
    sink.insert([new_row()], soon())
    stack.gateway.clear()
    sink.insert(new_rows(2), soon())
    [request] = stack.gateway.requests
    url = httpx.URL(request.target)
    assert (request.method, url.path) == ("POST", f"/rest/v1/{audit_table.name}")
    assert url.params["on_conflict"] == '"id"'
    assert url.params["columns"] == ",".join(f'"{column}"' for column in COLUMNS)
    preferences = request.headers["prefer"].split(",")
    assert preferences[:3] == ["resolution=ignore-duplicates", "return=minimal", "count=exact"]
    assert set(preferences[3:]) <= {"handling=lenient", "handling=strict", "missing=null"}
    assert request.headers["content-profile"] == "public"
    assert request.headers["authorization"] == f"Bearer {stack.service_key}"


def test_a_new_kind_of_key_goes_only_in_the_apikey_header(stack: Stack, audit_table: AuditTable) -> None:
    stack.gateway.clear()
    insert_with(stack, audit_table, stack.secret_key)
    headers = stack.gateway.requests[-1].headers
    assert headers["apikey"] == stack.secret_key
    assert audit_table.count() == 1


def test_a_token_goes_beside_a_key_of_the_new_kind(stack: Stack, audit_table: AuditTable) -> None:
    insert_with(stack, audit_table, stack.secret_key, token=stack.token("audit_writer"))
    assert audit_table.count() == 1


def test_a_token_callable_is_asked_for_each_insert(stack: Stack, audit_table: AuditTable) -> None:
    tokens = iter([stack.token("audit_writer"), stack.token("audit_writer", expires_in_seconds=-100)])
    with closing(sink_with(stack, audit_table, stack.anon_key, token=lambda: next(tokens))) as sink:
        sink.insert([new_row()], soon())
        assert refusal(sink).code == "PGRST301"
        ended = refusal(sink)
    assert ended.verdict.fault is TRANSIENT
    assert "StopIteration" in ended.message


@pytest.mark.parametrize("token", [None, "", "two words", "line\nline", 7])
def test_a_token_callable_that_gives_no_token_is_the_configurations_fault(
    stack: Stack, audit_table: AuditTable, token: Any
) -> None:
    with closing(sink_with(stack, audit_table, stack.anon_key, token=lambda: token)) as sink:
        assert refusal(sink).verdict.fault is CONFIGURATION


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("", "k"),
        ("project.supabase.co", "k"),
        ("ftp://project.supabase.co", "k"),
        ("https://", "k"),
        ("https://user:S3CRET@project.supabase.co", "k"),
        ("https://project.supabase.co?apikey=S3CRET", "k"),
        ("https://project.supabase.co", ""),
        ("https://project.supabase.co", "S3CRET\nS3CRET"),
        ("https://project.supabase.co", "S3CRETü"),
    ],
)
def test_an_impossible_setting_raises_at_once_and_is_not_quoted(url: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"URL|key") as caught:
        SupabaseSink(url, key, columns=COLUMNS)
    assert "S3CRET" not in str(caught.value)


def test_the_target_names_project_and_table_and_no_key() -> None:
    sink = SupabaseSink("https://x.supabase.co/rest/v1/", " S3CRET\n", columns=COLUMNS)
    assert sink.target == "https://x.supabase.co public.pms_audit_log"
    assert "S3CRET" not in repr(sink)


def test_a_hanging_token_callable_ends_in_time_and_costs_one_thread(stack: Stack, audit_table: AuditTable) -> None:
    let_go = threading.Event()
    asked: list[str] = []

    def token() -> str:
        asked.append(threading.current_thread().name)
        let_go.wait(60)
        return stack.service_key

    with closing(sink_with(stack, audit_table, stack.anon_key, token=token)) as sink:
        for _ in range(3):
            error = refusal(sink, seconds=0.2)
            assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)
            assert "token callable" in error.message
        assert len(asked) == 1
        let_go.set()
        sink.insert([new_row()], soon())
    assert audit_table.count() == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, TimeoutError])
def test_a_token_callable_may_raise_anything(kind: type[BaseException]) -> None:
    def token() -> str:
        raise kind("S3CRET")

    error = refusal(SupabaseSink("http://127.0.0.1:9", "k", token=token, columns=COLUMNS))
    assert error.verdict.fault is TRANSIENT
    assert error.message == f"the token callable raised {kind.__name__}"


# What the answer means


def redirected_home() -> Answer:
    return faults.redirect(301, "https://elsewhere.example/")


ANSWERS: list[tuple[Callable[[], Answer], Fault, int, bool]] = [
    (faults.captive_portal, CONFIGURATION, 200, False),
    (faults.empty_ok, CONFIGURATION, 200, False),
    (faults.no_content, CONFIGURATION, 204, False),
    (redirected_home, CONFIGURATION, 301, False),
    (lambda: faults.redirect(302, "/login"), CONFIGURATION, 302, False),
    (lambda: faults.redirect(307, "/rest/v1/x"), CONFIGURATION, 307, False),
    (lambda: Answer(Reply(201, (("content-type", "application/json"),), b"[]")), CONFIGURATION, 201, False),
    (faults.invalid_api_key, CONFIGURATION, 401, False),
    (faults.not_found, CONFIGURATION, 404, False),
    (faults.project_paused, CONFIGURATION, 540, False),
    (faults.payload_too_large, RECORD, 413, False),
    (lambda: Answer(Reply(418)), RECORD, 418, False),
    (faults.too_many_requests, TRANSIENT, 429, False),
    (faults.internal_error, TRANSIENT, 500, True),
    (faults.bad_gateway_page, TRANSIENT, 502, True),
    (faults.unavailable_text, TRANSIENT, 503, True),
    (faults.unavailable_json, TRANSIENT, 503, True),
    (lambda: Answer(Reply(520)), TRANSIENT, 520, True),
    (lambda: Answer(Reply(530)), TRANSIENT, 530, True),
]


@pytest.mark.parametrize(("answer", "fault", "status", "perhaps"), ANSWERS)
def test_an_answer_that_is_no_proof_is_the_right_ones_fault(
    stack: Stack, sink: SupabaseSink, answer: Callable[[], Answer], fault: Fault, status: int, perhaps: bool
) -> None:
    stack.gateway.inject(answer())
    error = refusal(sink)
    assert (error.verdict.fault, error.status, error.code) == (fault, status, None)
    assert error.verdict.perhaps_stored is perhaps
    assert error.verdict.halve is (status == 413)
    sink.insert([new_row()], soon())


@pytest.mark.parametrize("header", ["server", "content-range", "preference-applied"])
def test_any_one_of_postgrests_own_headers_proves_storage(stack: Stack, sink: SupabaseSink, header: str) -> None:
    def keep_one(reply: Reply) -> Reply:
        kept = tuple(pair for pair in reply.headers if pair[0].lower() == header)
        return Reply(reply.status, kept, reply.body)

    stack.gateway.inject(Rewrite(keep_one))
    sink.insert([new_row()], soon())


def test_an_answer_without_any_of_them_proves_nothing(stack: Stack, sink: SupabaseSink) -> None:
    stack.gateway.inject(Rewrite(lambda reply: Reply(reply.status)))
    assert refusal(sink).verdict.fault is CONFIGURATION


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("86400", 300.0), ("soon", None), (None, None)])
def test_retry_after_is_passed_on(stack: Stack, sink: SupabaseSink, value: str | None, seconds: float | None) -> None:
    stack.gateway.inject(faults.too_many_requests(value))
    assert refusal(sink).retry_after == seconds


def test_the_header_of_a_database_that_is_away_is_passed_on(stack: Stack, sink: SupabaseSink) -> None:
    sink.insert([new_row()], soon())
    stack.postgres.stop()
    errors = [refusal(sink) for _ in range(2)]
    assert {error.status for error in errors} == {503}
    assert {error.code for error in errors} <= {"PGRST000", "PGRST001", "57P01"}


def test_a_wrong_key_is_the_configurations_fault(stack: Stack, audit_table: AuditTable) -> None:
    with closing(sink_with(stack, audit_table, "S3CRET-KEY")) as sink:
        error = refusal(sink, secrets=("S3CRET-KEY",))
    assert (error.verdict.fault, error.status, error.code) == (CONFIGURATION, 401, None)


def test_an_expired_token_is_the_configurations_fault(stack: Stack, audit_table: AuditTable) -> None:
    token = stack.token("service_role", expires_in_seconds=-100)
    with closing(sink_with(stack, audit_table, stack.anon_key, token=token)) as sink:
        error = refusal(sink, secrets=(token,))
    assert (error.verdict.fault, error.status, error.code) == (CONFIGURATION, 401, "PGRST301")
    assert "expired" in error.message


def test_a_token_of_another_project_is_the_configurations_fault(stack: Stack, audit_table: AuditTable) -> None:
    token = jwt.encode({"role": "service_role"}, "another project's secret, long enough", "HS256")
    with closing(sink_with(stack, audit_table, stack.anon_key, token=token)) as sink:
        error = refusal(sink, secrets=(token,))
    assert (error.verdict.fault, error.status, error.code) == (CONFIGURATION, 401, "PGRST301")


def test_a_token_of_an_unknown_role_is_the_configurations_fault(stack: Stack, audit_table: AuditTable) -> None:
    with closing(sink_with(stack, audit_table, stack.token("nobody_here"))) as sink:
        error = refusal(sink)
    assert (error.verdict.fault, error.status, error.code) == (CONFIGURATION, 400, "22023")
    assert '"nobody_here"' in error.verdict.remedy


def test_the_anonymous_role_is_refused_and_pointed_out(stack: Stack, audit_table: AuditTable) -> None:
    with closing(sink_with(stack, audit_table, stack.anon_key)) as sink:
        error = refusal(sink)
    assert (error.verdict.fault, error.status, error.code) == (CONFIGURATION, 401, "42501")
    assert "anonymous" in error.verdict.remedy


# When the network fails


@pytest.mark.parametrize("fault", [Reset, Close])
@pytest.mark.parametrize("place", Place)
def test_a_connection_that_breaks_anywhere_leaves_one_row_in_the_end(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable, fault: type[Reset | Close], place: Place
) -> None:
    stack.gateway.inject(fault(place))
    row = new_row()
    with suppress_transient():
        sink.insert([row], soon())
    sink.insert([row], soon())
    assert audit_table.ids() == [id_of(row)]


@pytest.mark.parametrize("place", Place)
def test_a_hang_anywhere_ends_with_the_deadline(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable, place: Place
) -> None:
    sink.insert([warm := new_row()], soon())
    hang = stack.gateway.inject(Hang(place))
    row = new_row()
    with within(8.0), suppress_transient():
        sink.insert([row], soon(0.5))
    hang.release()
    sink.insert([row], soon())
    assert audit_table.ids() == sorted([id_of(warm), id_of(row)])


@pytest.mark.parametrize("part", ReplyPart)
def test_a_reply_that_drips_ends_with_the_deadline(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable, part: ReplyPart
) -> None:
    sink.insert([warm := new_row()], soon())
    stack.gateway.inject(Drip(0.2, part))
    row = new_row()
    with within(8.0), suppress_transient():
        sink.insert([row], soon(0.6))
    sink.insert([row], soon())
    assert audit_table.ids() == sorted([id_of(warm), id_of(row)])


def test_an_error_that_drips_ends_with_the_deadline(stack: Stack, sink: SupabaseSink) -> None:
    sink.insert([new_row()], soon())
    stack.gateway.inject(faults.bad_gateway_page())
    stack.gateway.inject(Drip(0.2))
    with within(8.0):
        error = refusal(sink, seconds=0.6)
    assert error.verdict.fault is TRANSIENT


def test_a_peer_that_reads_nothing_ends_with_the_deadline(stack: Stack) -> None:
    row = new_row(new_values="x" * 30_000_000)
    with socket.create_server(("127.0.0.1", 0)) as listener, within(10.0):
        sink = SupabaseSink(f"http://127.0.0.1:{listener.getsockname()[1]}", "k", columns=COLUMNS)
        with closing(sink):
            error = refusal(sink, row, seconds=2.0)
    assert error.verdict.fault is TRANSIENT
    assert error.verdict.perhaps_stored


def test_a_lost_reply_says_that_the_row_is_perhaps_stored(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable
) -> None:
    sink.insert([new_row()], soon())
    stack.gateway.inject(Hang(Place.COMMITTED))
    error = refusal(sink, seconds=3.0)
    assert error.verdict.perhaps_stored
    wait_until(lambda: audit_table.count() == 2, "the row is stored all the same")


def test_a_slow_gateway_is_waited_for(stack: Stack, sink: SupabaseSink, audit_table: AuditTable) -> None:
    stack.gateway.inject(Delay(0.3))
    sink.insert([new_row()], soon())
    assert audit_table.count() == 1


def test_a_closed_port_is_surely_not_stored(stack: Stack, sink: SupabaseSink) -> None:
    with stack.gateway.refusing():
        error = refusal(sink)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)
    sink.insert([new_row()], soon())


def test_a_name_that_is_not_known_is_surely_not_stored() -> None:
    sink = SupabaseSink("http://nowhere.invalid", "k", columns=COLUMNS)
    error = refusal(sink)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)
    assert "nowhere.invalid" in error.message


def test_a_certificate_that_is_not_trusted_is_the_configurations_fault(tmp_path: Path) -> None:
    with serving_tls(tmp_path) as port:
        error = refusal(SupabaseSink(f"https://localhost:{port}", "k", columns=COLUMNS))
    assert error.verdict.fault is CONFIGURATION
    assert "SSL_CERT_FILE" in error.verdict.remedy


@pytest.mark.parametrize("dripping", [b"", b"HTTP/1.1 201 Created\r\nContent-Range: */*\r\nX: " + b"x" * 1000])
def test_the_deadline_holds_under_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dripping: bytes) -> None:
    with serving_tls(tmp_path, dripping=dripping) as port:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        with closing(SupabaseSink(f"https://localhost:{port}", "k", columns=COLUMNS)) as sink, within(10.0):
            error = refusal(sink, seconds=4.0)
    assert error.verdict.fault is TRANSIENT
    assert error.verdict.perhaps_stored


def test_a_handshake_that_never_comes_ends_with_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, within(8.0):
        port = listener.getsockname()[1]
        with closing(SupabaseSink(f"https://localhost:{port}", "k", columns=COLUMNS)) as sink:
            error = refusal(sink, seconds=0.5)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)


def test_no_time_is_no_request(stack: Stack, sink: SupabaseSink) -> None:
    stack.gateway.clear()
    error = refusal(sink, seconds=-1.0)
    assert (error.verdict.fault, error.verdict.perhaps_stored) == (TRANSIENT, False)
    assert stack.gateway.requests == []


def test_serialization_failures_are_a_timeout_and_leave_one_row(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable
) -> None:
    stack.sql(  # PostgREST tries again inside, for as long as the trigger is there
        "create or replace function audit_conflicts() returns trigger language plpgsql as"
        " $$ begin raise exception 'conflict' using errcode = '40001'; end $$;"
        f" create trigger conflicts before insert on {audit_table.name}"
        " for each row execute function audit_conflicts()"
    )
    row = new_row()
    with within(8.0):
        error = refusal(sink, row, seconds=0.5)
    assert error.verdict.fault is TRANSIENT
    stack.sql(f"drop trigger conflicts on {audit_table.name}")
    sink.insert([row], soon())
    assert audit_table.ids() == [id_of(row)]


# Connections


def test_a_connection_is_kept_and_each_thread_has_its_own(stack: Stack, sink: SupabaseSink) -> None:
    sink.insert([new_row()], soon())
    before = stack.gateway.connections_accepted
    for _ in range(5):
        sink.insert([new_row()], soon())
    assert stack.gateway.connections_accepted == before
    held = stack.gateway.inject(Hang(Place.REQUEST_BODY), times=None)

    def release_when_all_wait() -> None:
        held.wait(4)
        held.remove()

    in_threads([release_when_all_wait, *[lambda: sink.insert([new_row()], soon())] * 4])
    assert stack.gateway.connections_accepted == before + 3


@pytest.mark.parametrize("place", [Place.REQUEST_HEAD, Place.REQUEST_BODY, Place.COMMITTED])
def test_a_kept_connection_that_was_closed_meanwhile_is_no_fault(
    stack: Stack, sink: SupabaseSink, audit_table: AuditTable, place: Place
) -> None:
    sink.insert([new_row()], soon())
    stack.gateway.inject(Reset(place))
    sink.insert([new_row()], soon())
    assert audit_table.count() == 2


def test_a_new_connection_that_breaks_is_not_tried_again(stack: Stack, sink: SupabaseSink) -> None:
    reset = stack.gateway.inject(Reset(Place.REQUEST_BODY), times=None)
    assert refusal(sink).verdict.fault is TRANSIENT
    assert reset.hits == 1


def test_a_forked_child_uses_connections_of_its_own(stack: Stack, sink: SupabaseSink, audit_table: AuditTable) -> None:
    sink.insert([new_row()], soon())
    before = stack.gateway.connections_accepted

    def insert_in_child() -> None:
        sink.renew_after_fork()
        sink.insert([new_row()], soon())

    assert all(run_in_child(insert_in_child) for _ in range(3))
    sink.insert([new_row()], soon())
    assert audit_table.count() == 5
    assert stack.gateway.connections_accepted == before + 3


def test_a_fork_without_a_hook_is_noticed(stack: Stack, sink: SupabaseSink, audit_table: AuditTable) -> None:
    sink.insert([new_row()], soon())
    assert run_in_child(lambda: sink.insert([new_row()], soon()))
    sink.insert([new_row()], soon())
    assert audit_table.count() == 3


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_the_environments_proxy_is_used_and_keeps_the_deadline(
    stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with recording_proxy() as (port, seen):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        with closing(sink_with(stack, audit_table, stack.service_key)) as sink:
            sink.insert([new_row()], soon())
            assert len(seen) == 1
            hanging = stack.gateway.inject(Hang(Place.REQUEST_BODY))
            with within(8.0):
                assert refusal(sink, seconds=0.5).verdict.fault is TRANSIENT
        hanging.remove()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SSL_CERT_FILE", "/nowhere/S3CRET.pem"),
        ("HTTPS_PROXY", "nonsense://user:S3CRET@127.0.0.1:1"),
        ("HTTPS_PROXY", "http://user:S3CRET@:port"),
        ("ALL_PROXY", "socks9://user:S3CRET@127.0.0.1:1"),
        ("NO_PROXY", "localhost,S3CRET.example:port"),
        ("NO_PROXY", "[::1"),
    ],
)
def test_an_environment_that_breaks_the_client_is_a_configuration_fault(
    stack: Stack, audit_table: AuditTable, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    with closing(sink_with(stack, audit_table, stack.service_key)) as sink:
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            patch.delenv("no_proxy", raising=False)
            error = refusal(sink)
            assert error.verdict.fault is CONFIGURATION
            assert variable in error.verdict.remedy
            assert "S3CRET" not in f"{error}{error.verdict}"
        sink.insert([new_row()], soon())


# Helpers


def sink_with(stack: Stack, table: AuditTable, key: str, **options: Any) -> SupabaseSink:
    return SupabaseSink(stack.url, key, table=table.name, columns=COLUMNS, **options)


def insert_with(stack: Stack, table: AuditTable, key: str, **options: Any) -> None:
    with closing(sink_with(stack, table, key, **options)) as sink:
        sink.insert([new_row()], soon())


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail where the block took much longer than its deadline: the bound is generous."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


@contextmanager
def suppress_transient() -> Iterator[None]:
    """Pass over a transient refusal, which is what a fault of the network has to be, if it is any."""
    errors: list[SinkError] = []
    try:
        yield
    except SinkError as error:
        errors.append(error)
    assert all(error.verdict.fault is TRANSIENT for error in errors)
    assert not any(VALUE in str(error) for error in errors)


@contextmanager
def recording_proxy() -> Iterator[tuple[int, list[str]]]:
    """Run a plain HTTP proxy that notes what it forwards."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the name that http.server asks for
            seen.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"]))
            with httpx.Client(trust_env=False, timeout=30) as client, suppress(httpx.HTTPError, OSError):
                reply = client.post(self.path, content=body, headers=dict(self.headers))
                self.send_response(reply.status_code)
                for name in ("content-range", "content-type"):
                    if name in reply.headers:
                        self.send_header(name, reply.headers[name])
                self.send_header("content-length", str(len(reply.content)))
                self.end_headers()
                self.wfile.write(reply.content)

        def log_message(self, *_: object) -> None:
            pass

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield port, seen
