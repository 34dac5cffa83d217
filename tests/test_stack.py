"""The stack that every other test relies on: what its parts and its faults really do."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from postgrest import APIError
from supabase import Client, ClientOptions, create_client

from tests.stack import AuditTable, Stack, faults
from tests.stack.faults import Answer, Close, Delay, Drip, Fault, Hang, Place, ReplyPart, Reset, Rewrite
from tests.stack.messages import Reply
from tests.stack.ports import HOST, free_port
from tests.stack.postgrest import PostgREST
from tests.stack.waiting import wait_until

BEFORE_THE_DATABASE = (Place.REQUEST_HEAD, Place.REQUEST_BODY)


def new_row(**values: Any) -> dict[str, Any]:
    return {
        "id": str(uuid4()),
        "yacht_id": str(uuid4()),
        "entity_type": "receiving",
        "action": "create_receiving",
        "entity_id": str(uuid4()),
        "created_by": str(uuid4()),
        "new_values": {"lines": [1, 2.5, None, "ü"]},
    } | values


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=60.0) as client:
        yield client


@pytest.fixture
def hasty_http() -> Iterator[httpx.Client]:
    """For what never answers."""
    with httpx.Client(trust_env=False, timeout=httpx.Timeout(60.0, read=0.3)) as client:
        yield client


def supabase_client(stack: Stack, http: httpx.Client, key: str) -> Client:
    return create_client(stack.url, key, ClientOptions(httpx_client=http))


def insert(client: Client, table: AuditTable, *rows: dict[str, Any]) -> None:
    query = client.table(table.name).upsert(
        list(rows),
        on_conflict="id",
        ignore_duplicates=True,
        returning="minimal",  # type: ignore[arg-type]
    )
    query.execute()


def post(
    http: httpx.Client, stack: Stack, table: AuditTable, row: dict[str, Any], key: str | None = None
) -> httpx.Response:
    key = key or stack.service_key
    headers = {"apikey": key, "authorization": f"Bearer {key}", "prefer": "return=minimal"}
    return http.post(f"{stack.url}/rest/v1/{table.name}", json=row, headers=headers)


class TestRows:
    def test_a_row_of_the_real_client_lands_once_and_unchanged(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        client = supabase_client(stack, http, stack.service_key)
        row = new_row()
        insert(client, audit_table, row)
        insert(client, audit_table, row, new_row())
        stored = {str(found["id"]): found for found in audit_table.rows()}
        assert len(stored) == 2
        assert stored[row["id"]]["new_values"] == row["new_values"]
        assert [len(request.rows) for request in stack.gateway.requests] == [1, 2]
        assert [request.status for request in stack.gateway.requests] == [201, 201]

    def test_a_body_of_many_megabytes_and_one_in_chunks_pass(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        long = new_row(new_values={"text": "x" * 8_000_000})
        assert post(http, stack, audit_table, long).status_code == 201
        request = stack.gateway.requests[0]
        half = request.body_length // 2
        headers = {"authorization": f"Bearer {stack.service_key}", "apikey": stack.service_key}
        again = http.post(
            f"{stack.url}{request.target}",
            content=iter([request.body[:half], request.body[half:]]),
            headers=headers | {"content-type": "application/json"},
        )
        assert again.status_code == 409
        assert again.json()["code"] == "23505"
        assert audit_table.rows()[0]["new_values"] == long["new_values"]

    def test_a_table_in_another_exposed_schema_is_served(self, stack: Stack, http: httpx.Client) -> None:
        table = stack.create_table(schema="audit")
        client = supabase_client(stack, http, stack.service_key)
        client.schema("audit").table(table.name).insert(new_row()).execute()
        assert table.count() == 1
        table.drop()

    def test_a_changed_column_is_known_after_a_reload(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        audit_table.alter("rename column action to verb")
        stack.reload_schema_cache()
        refused = post(http, stack, audit_table, new_row())
        assert (refused.status_code, refused.json()["code"]) == (400, "PGRST204")


class TestRoles:
    @pytest.mark.parametrize(("role", "status"), [("anon", 401), ("authenticated", 403)])
    def test_row_level_security_refuses_who_is_not_the_service(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client, role: str, status: int
    ) -> None:
        refused = post(http, stack, audit_table, new_row(), stack.token(role))
        assert (refused.status_code, refused.json()["code"]) == (status, "42501")
        assert audit_table.count() == 0

    def test_the_least_privileged_writer_inserts_and_reads_ids_only(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        client = supabase_client(stack, http, stack.token("audit_writer"))
        row = new_row()
        insert(client, audit_table, row)
        insert(client, audit_table, row)
        assert client.table(audit_table.name).select("id").execute().data == [{"id": row["id"]}]
        with pytest.raises(APIError, match="42501"):
            client.table(audit_table.name).select("*").execute()
        with pytest.raises(APIError, match="42501"):
            client.table(audit_table.name).delete().eq("id", row["id"]).execute()

    def test_an_expired_token_and_an_unknown_role_are_refused(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        expired = post(
            http,
            stack,
            audit_table,
            new_row(),
            stack.token("service_role", expires_in_seconds=-60),
        )
        assert (expired.status_code, expired.json()["code"]) == (401, "PGRST301")
        unknown = post(http, stack, audit_table, new_row(), stack.token("nobody_knows"))
        assert (unknown.status_code, unknown.json()["code"]) == (400, "22023")

    def test_the_gateway_knows_its_keys_and_makes_tokens_of_secret_keys(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        wrong = post(http, stack, audit_table, new_row(), "wrong")
        assert (wrong.status_code, wrong.json().get("code")) == (401, None)
        url = f"{stack.url}/rest/v1/{audit_table.name}"
        assert http.post(url, json=new_row()).status_code == 401
        keyed = http.post(url, json=new_row(), headers={"apikey": stack.secret_key})
        assert keyed.status_code == 201
        assert audit_table.count() == 1


class TestInterruptions:
    @pytest.mark.parametrize("place", Place)
    @pytest.mark.parametrize("kind", [Reset, Close])
    def test_a_row_is_stored_only_if_it_passed_the_cut(
        self,
        stack: Stack,
        audit_table: AuditTable,
        http: httpx.Client,
        kind: type[Reset] | type[Close],
        place: Place,
    ) -> None:
        """A connection is cut at each place on the way."""
        stack.gateway.inject(kind(at=place))
        errors = [httpx.RemoteProtocolError if kind is Close else httpx.ReadError]
        if place is Place.REQUEST_HEAD:
            # A client that is still sending when the reset comes finds only the end of the connection.
            errors.append(httpx.RemoteProtocolError)
        with pytest.raises(tuple(errors)):
            post(http, stack, audit_table, new_row())
        assert audit_table.count() == (place not in BEFORE_THE_DATABASE)
        assert post(http, stack, audit_table, new_row()).status_code == 201

    @pytest.mark.parametrize("place", Place)
    def test_a_request_that_hangs_times_out_and_goes_on_when_released(
        self, stack: Stack, audit_table: AuditTable, hasty_http: httpx.Client, place: Place
    ) -> None:
        injection = stack.gateway.inject(Hang(at=place))
        with pytest.raises(httpx.ReadTimeout):
            post(hasty_http, stack, audit_table, new_row())
        injection.wait()
        assert stack.gateway.open_requests == 1
        if place in BEFORE_THE_DATABASE:
            assert audit_table.count() == 0
        else:
            wait_until(lambda: audit_table.count() == 1, "the row is stored")
        injection.release()
        stack.gateway.wait_until_idle()

    def test_a_delay_after_the_commit_times_out_a_stored_row(
        self, stack: Stack, audit_table: AuditTable, hasty_http: httpx.Client
    ) -> None:
        stack.gateway.inject(Delay(600, at=Place.COMMITTED))
        with pytest.raises(httpx.ReadTimeout):
            post(hasty_http, stack, audit_table, new_row())
        wait_until(lambda: audit_table.count() == 1, "the row is stored")

    @pytest.mark.parametrize("part", ReplyPart)
    def test_a_reply_that_drips_takes_its_time_and_is_whole(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client, part: ReplyPart
    ) -> None:
        stack.gateway.inject(Drip(0.01, part))
        response = post(http, stack, audit_table, new_row())
        assert response.status_code == 201
        assert response.elapsed.total_seconds() > 0.5

    def test_a_closed_port_refuses_and_serves_again(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        with stack.gateway.refusing(), pytest.raises(httpx.ConnectError):
            post(http, stack, audit_table, new_row())
        assert post(http, stack, audit_table, new_row()).status_code == 201

    @pytest.mark.parametrize("with_reset", [False, True])
    def test_a_dropped_idle_connection_is_replaced(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client, with_reset: bool
    ) -> None:
        assert post(http, stack, audit_table, new_row()).status_code == 201
        accepted = stack.gateway.connections_accepted
        stack.gateway.drop_connections(with_reset=with_reset)
        assert post(http, stack, audit_table, new_row()).status_code == 201
        assert stack.gateway.connections_accepted == accepted + 1


class TestAnswers:
    @pytest.mark.parametrize(
        ("fault", "status", "start"),
        [
            (faults.too_many_requests("7"), 429, "{"),
            (faults.too_many_requests("Wed, 21 Oct 2015 07:28:00 GMT"), 429, "{"),
            (faults.too_many_requests("soon"), 429, "{"),
            (faults.payload_too_large(), 413, "<"),
            (faults.bad_gateway_page(), 502, "<"),
            (faults.unavailable_text(), 503, "upstream"),
            (faults.unavailable_json(), 503, "{"),
            (faults.internal_error(), 500, "{"),
            (faults.project_paused(), 540, "{"),
            (faults.invalid_api_key(), 401, '{"message": "Invalid API key"}'),
            (faults.not_found(), 404, "{}"),
            (faults.captive_portal(), 200, "<"),
            (faults.empty_ok(), 200, ""),
            (faults.no_content(), 204, ""),
            (faults.redirect(301, "/elsewhere"), 301, ""),
            (faults.redirect(302, "/elsewhere"), 302, ""),
            (faults.redirect(307, "/elsewhere"), 307, ""),
        ],
    )
    def test_an_answer_of_the_gateway_stores_nothing_and_comes_once(
        self,
        stack: Stack,
        audit_table: AuditTable,
        http: httpx.Client,
        fault: Answer,
        status: int,
        start: str,
    ) -> None:
        stack.gateway.inject(fault)
        answer = post(http, stack, audit_table, new_row())
        assert answer.status_code == status
        assert answer.text.startswith(start)
        for name, value in fault.reply.headers:
            assert answer.headers[name] == value
        assert audit_table.count() == 0
        assert post(http, stack, audit_table, new_row()).status_code == 201

    def test_an_answer_over_the_database_s_head_hides_a_stored_row(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        lost = Answer(faults.bad_gateway_page().reply, after_commit=True)
        stack.gateway.inject(lost)
        assert post(http, stack, audit_table, new_row()).status_code == 502
        assert audit_table.count() == 1

    def test_the_real_client_sees_a_reply_that_was_rewritten(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        def as_ok(reply: Reply) -> Reply:
            return Reply(200, reply.headers, b'[{"id": 1}]')

        stack.gateway.inject(Rewrite(as_ok))
        client = supabase_client(stack, http, stack.service_key)
        answer = client.table(audit_table.name).insert(new_row()).execute()
        assert answer.data == [{"id": 1}]

    def test_faults_choose_their_requests_and_last_until_removed(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        bad = new_row(action="bad")
        lasting: Fault = faults.internal_error()
        injection = stack.gateway.inject(lasting, times=None, when=lambda request: b'"bad"' in request.body)
        for _ in range(3):
            assert post(http, stack, audit_table, bad).status_code == 500
            assert post(http, stack, audit_table, new_row()).status_code == 201
        assert injection.hits == 3
        injection.remove()
        assert post(http, stack, audit_table, bad).status_code == 201


class TestOutages:
    def test_a_database_that_is_away_gives_503_until_it_returns(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        assert post(http, stack, audit_table, new_row()).status_code == 201
        stack.postgres.stop()

        def away() -> bool:
            # Connections that were open tell of their end first, one request each (57P01).
            answer = post(http, stack, audit_table, new_row())
            assert answer.status_code == 503
            return answer.json()["code"] in ("PGRST000", "PGRST001")

        wait_until(away, "PostgREST says that the database is away")
        stack.postgres.start()
        stack.wait_until_serving()
        assert post(http, stack, audit_table, new_row()).status_code == 201
        assert audit_table.count() == 2

    def test_killed_backends_are_replaced(self, stack: Stack, audit_table: AuditTable, http: httpx.Client) -> None:
        assert post(http, stack, audit_table, new_row()).status_code == 201
        assert stack.postgres.terminate_backends() > 0
        stack.wait_until_serving()
        for _ in range(20):  # and no later one finds a dead connection, or a schema cache that is just gone
            assert post(http, stack, audit_table, new_row()).status_code == 201

    def test_a_killed_postgrest_is_a_502_until_it_is_started(
        self, stack: Stack, audit_table: AuditTable, http: httpx.Client
    ) -> None:
        stack.postgrest.kill()
        assert post(http, stack, audit_table, new_row()).status_code == 502
        stack.postgrest.start()
        assert post(http, stack, audit_table, new_row()).status_code == 201

    def test_a_frozen_postgrest_stores_the_row_when_it_thaws(
        self, stack: Stack, audit_table: AuditTable, hasty_http: httpx.Client
    ) -> None:
        stack.postgrest.pause()
        with pytest.raises(httpx.ReadTimeout):
            post(hasty_http, stack, audit_table, new_row())
        stack.gateway.wait_for_requests()
        stack.postgrest.resume()
        stack.gateway.wait_until_idle()
        assert audit_table.count() == 1


class TestStarting:
    def test_a_port_taken_by_one_process_is_skipped_by_others(self) -> None:
        program = f"from tests.stack import ports; ports._RANGE = [{free_port()}]; ports.free_port()"
        other = subprocess.run(
            [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
        )
        assert "no free TCP port" in other.stderr

    def test_a_server_that_ends_during_its_start_shows_its_output(self, stack: Stack, tmp_path: Path) -> None:
        another = PostgREST(tmp_path, dsn=stack.dsn("authenticator"), jwt_secret="s" * 32)
        with socket.create_server((HOST, another.port)):
            with pytest.raises(RuntimeError, match=r"PostgREST ended with status 1, and said:\n.*Address in use"):
                another.start()
            another.stop()
