"""Operations over HTTP: closed by default, JSON for programs, a page for people, a retry that nobody can forge."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from starlette.applications import Starlette
from starlette.routing import Mount

from otel_audit_exporter import compat, flush_audit
from otel_audit_exporter.integrations.fastapi import audit_router
from otel_audit_exporter.operations.page import PageData, render_page
from otel_audit_exporter.operations.wsgi_asgi import operations_asgi, operations_wsgi
from tests.operations.conftest import Configure
from tests.operations.serving import serving, serving_wsgi
from tests.operations.stubs import AWAY, BAD_ROW, MISCONFIGURED, StubExporter, emit
from tests.stack.waiting import wait_until

TOKEN = "a-token-of-some-length"
PATHS = ("/", "/stats", "/health", "/dead-letters")


def fastapi_app(**options: Any) -> Any:
    app = FastAPI()
    app.include_router(audit_router(**options), prefix="/audit")
    return serving(app)


def starlette_app(**options: Any) -> Any:
    return serving(Starlette(routes=[Mount("/audit", operations_asgi(**options))]))


def wsgi_app(**options: Any) -> Any:
    application = operations_wsgi(**options)

    def dispatch(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if not path.startswith("/audit"):
            start_response("404 Not Found", [])
            return []
        return application(
            environ | {"SCRIPT_NAME": "/audit", "PATH_INFO": path.removeprefix("/audit")}, start_response
        )

    return serving_wsgi(dispatch)


Make = Callable[..., Any]
KINDS = pytest.mark.parametrize("make", [fastapi_app, starlette_app, wsgi_app], ids=["fastapi", "starlette", "wsgi"])


@contextmanager
def visiting(make: Make, **options: Any) -> Iterator[httpx.Client]:
    """Serve operations, and give a client that brings the token."""
    with make(**{"token": TOKEN} | options) as url:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=f"{url}/audit", headers=headers, trust_env=False, timeout=60) as client:
            yield client


@contextmanager
def strangers(make: Make, **options: Any) -> Iterator[httpx.Client]:
    with make(**options) as url, httpx.Client(base_url=f"{url}/audit", trust_env=False, timeout=60) as client:
        yield client


def park(stub: StubExporter, count: int = 1, **said: Any) -> list[str]:
    """Have so many events parked; return their ids."""
    emit(1)
    assert flush_audit()
    stub.sink.fail(BAD_ROW, containing=b"refuse me")
    receipts = emit(count, **{"action": "refuse me"} | said)
    assert flush_audit()
    return [receipt.record_id for receipt in receipts]


# --- who may look ---------------------------------------------------------------------------------------------------


@KINDS
def test_without_token_or_dependency_every_path_is_closed_and_explains_why(configured: Configure, make: Make) -> None:
    configured()
    with strangers(make) as client:
        answers = [client.get(path) for path in PATHS] + [client.post("/dead-letters/x/retry")]
    assert [answer.status_code for answer in answers] == [403] * 5
    assert all("closed" in answer.json()["error"] for answer in answers)


@KINDS
def test_an_empty_token_opens_nothing(configured: Configure, make: Make) -> None:
    configured()
    with strangers(make, token="") as client:
        assert client.get("/stats", auth=("anybody", "")).status_code == 403


@KINDS
@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "Bearer wrong", "Bearer", "Basic !", TOKEN, "Bearer ü", "Basic ü"),
        "Basic " + base64.b64encode(b"x:wrong").decode(),
    ],
)
def test_a_missing_or_wrong_token_is_401_everywhere(
    configured: Configure, make: Make, authorization: str | None
) -> None:
    configured()
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    with strangers(make, token=TOKEN) as client:
        answers = [client.get(path, headers=headers) for path in PATHS]
        answers.append(client.post("/dead-letters/x/retry", headers=headers))
    assert [answer.status_code for answer in answers] == [401] * 5
    assert all(answer.headers["www-authenticate"].startswith("Basic") for answer in answers)
    assert not any(TOKEN in answer.text for answer in answers)


@KINDS
def test_the_token_works_as_bearer_token_or_as_browser_password(configured: Configure, make: Make) -> None:
    configured()
    with strangers(make, token=TOKEN) as client:
        assert client.get("/stats", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
        assert client.get("/stats", auth=("anybody", TOKEN)).status_code == 200


@KINDS
def test_a_token_may_have_any_letters(configured: Configure, make: Make) -> None:
    configured()
    token = "päss wörd"
    basic = b"Basic " + base64.b64encode(f"anybody:{token}".encode())
    with strangers(make, token=token) as client:
        for authorization in (f"Bearer {token}".encode(), basic):
            assert client.get("/stats", headers=[(b"authorization", authorization)]).status_code == 200


def test_a_dependency_of_the_application_lets_in_or_keeps_out(configured: Configure) -> None:
    configured()

    def admin(x_role: str = Header("")) -> None:
        if x_role != "admin":
            raise HTTPException(403, "admins only")

    for guard in (admin, Depends(admin)):
        with strangers(fastapi_app, dependencies=[guard]) as client:
            assert client.get("/stats").json() == {"detail": "admins only"}
            assert client.get("/stats", headers={"x-role": "admin"}).status_code == 200


@pytest.mark.parametrize("make", [starlette_app, wsgi_app], ids=["starlette", "wsgi"])
def test_a_question_to_the_application_lets_in_or_keeps_out(configured: Configure, make: Make) -> None:
    configured()
    answers = iter([False, True])
    with strangers(make, allow=lambda request: next(answers)) as client:
        assert [client.get("/stats").status_code for _ in range(2)] == [403, 200]


def test_a_question_may_be_a_coroutine_function_where_it_is_awaited(configured: Configure) -> None:
    configured()

    async def nobody(scope: Any) -> bool:
        return False

    with strangers(starlette_app, allow=nobody) as client:
        assert client.get("/stats").status_code == 403
    with pytest.raises(TypeError, match="plain function"):
        operations_wsgi(allow=nobody)  # type: ignore[arg-type]  # the mistake that is looked at


@KINDS
def test_before_auditing_is_configured_the_answer_is_503_and_says_so(make: Make) -> None:
    with visiting(make) as client:
        answer = client.get("/health")
    assert answer.status_code == 503
    assert "configure_audit" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/audit/stats", "/api/audit/stats"], ids=["taken away", "left"])
def test_a_mount_is_found_behind_a_stripped_or_kept_prefix(configured: Configure, path: str) -> None:
    configured()
    app = Starlette(routes=[Mount("/audit", operations_asgi(token=TOKEN))])

    async def below_prefix(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/api"}, receive, send)

    with serving(below_prefix, lifespan="off") as url:
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert "submitted" in httpx.get(url + path, headers=headers, timeout=60, trust_env=False).json()


# --- what is answered -----------------------------------------------------------------------------------------------


@KINDS
def test_stats_have_the_keys_of_the_drop_in_and_its_values(configured: Configure, make: Make) -> None:
    configured()
    emit(3)
    assert flush_audit()
    with visiting(make) as client:
        answer = client.get("/stats")
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert compat.get_audit_stats().items() <= document.items()
    assert (document["submitted"], document["succeeded"], document["success_rate"]) == (3, 3, "100.0%")
    assert document["sinks"]["stub"]["succeeded"] == 3


@KINDS
def test_health_is_200_with_its_level_while_events_are_accepted(
    configured: Configure, stub: StubExporter, make: Make
) -> None:
    pipeline = configured()
    with visiting(make) as client:
        assert client.get("/health").json()["level"] == "good"
        stub.sink.fail(AWAY)
        emit(20)
        wait_until(lambda: pipeline.health().overdue == 20, "20 are overdue")
        assert (client.get("/health").status_code, client.get("/health").json()["overdue"]) == (200, 20)
        emit(40)
        wait_until(lambda: pipeline.health().level == "critical", "60 are overdue")
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["level"]) == (200, "critical")
        assert answer.json()["reasons"] == list(pipeline.health().reasons)
        assert client.head("/health?strict=1").status_code == 503


@KINDS
def test_dead_letters_show_what_and_why_and_no_values(configured: Configure, stub: StubExporter, make: Make) -> None:
    configured()
    ids = park(stub, 3, new_values={"iban": "DE02120300000000202051"})
    with visiting(make) as client:
        whole, part = client.get("/dead-letters"), client.get("/dead-letters?limit=2").json()
        page = client.get("/")
    document = whole.json()
    assert document["count"] == part["count"] == 3
    assert [letter["record_id"] for letter in document["dead_letters"]] == ids
    assert len(part["dead_letters"]) == 2
    first = document["dead_letters"][0]
    assert (first["action"], first["entity_type"], first["entity_id"]) == ("refuse me", "part", "part-0")
    assert first["code"] == "22P02"
    assert first["attempts"] >= 1  # one more where somebody else had the dead letters in hand
    assert "DE02120300000000202051" not in whole.text + page.text


@KINDS
def test_dead_letters_show_their_rows_where_the_application_asks_for_it(
    configured: Configure, stub: StubExporter, make: Make
) -> None:
    configured()
    park(stub, new_values={"stock": 17})
    with visiting(make, show_values=True) as client:
        assert client.get("/dead-letters").json()["dead_letters"][0]["row"]["new_values"] == {"stock": 17}
        assert "&quot;stock&quot;: 17" in client.get("/").text


@KINDS
def test_rows_of_dead_letters_are_shown_whatever_is_in_them(
    configured: Configure, stub: StubExporter, make: Make
) -> None:
    configured()
    deep: Any = "deep"
    for _ in range(500):
        deep = {"a": deep}
    park(stub, new_values={"number": 2**70})
    park(stub, new_values=deep)
    park(stub, new_values={"long": "x" * 1_000_000})
    with visiting(make, show_values=True) as client:
        answer, page = client.get("/dead-letters"), client.get("/")
    assert [len(letter["row"]) for letter in answer.json()["dead_letters"]] == [9] * 3
    assert str(2**70) in answer.text
    assert str(2**70) in page.text
    assert page.text.count(">Row</summary>") == 3
    assert len(page.text) < 1_000_000


@KINDS
def test_head_says_the_length_that_get_has(configured: Configure, make: Make) -> None:
    configured()
    with visiting(make) as client:
        head, get = client.head("/dead-letters"), client.get("/dead-letters")
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(get.content)))
    assert head.content == b""


@KINDS
@pytest.mark.parametrize("value", [2**70, 10**5000, "deep"], ids=["2**70", "10**5000", "deep"])
def test_a_dead_letter_with_a_huge_or_deep_value_is_shown(
    configured: Configure, stub: StubExporter, make: Make, value: Any
) -> None:
    configured()
    for _ in range(3000 if value == "deep" else 1):
        value = [value]
    park(stub, new_values=value)
    with visiting(make, show_values=True) as client:
        assert client.get("/dead-letters").text.count("00000000000000000000" if value == [10**5000] else "row") >= 1
        assert client.get("/").status_code == 200
    with visiting(make) as client:
        assert client.get("/dead-letters").status_code == 200


@KINDS
def test_what_is_not_there_is_404_and_a_wrong_method_405(configured: Configure, make: Make) -> None:
    configured()
    with visiting(make) as client:
        assert client.get("/nothing").status_code == 404
        assert client.post("/stats").status_code == 405
        assert client.get("/dead-letters/x/retry").status_code == 405


@KINDS
def test_the_page_is_found_without_its_last_slash(configured: Configure, make: Make) -> None:
    configured()
    with visiting(make) as client:
        answer = client.get("", follow_redirects=True)
    assert answer.status_code == 200
    assert str(answer.url).endswith("/audit/")


# --- the retry ------------------------------------------------------------------------------------------------------


@KINDS
def test_a_retried_dead_letter_is_in_the_table_and_counted(
    configured: Configure, stub: StubExporter, make: Make
) -> None:
    pipeline = configured()
    (record_id,) = park(stub)
    stub.sink.heal()
    with visiting(make) as client:
        answer = client.post(f"/dead-letters/{record_id}/retry")
        assert (answer.status_code, answer.json()) == (200, {"record_id": record_id, "state": "stored"})
        assert client.post(f"/dead-letters/{record_id}/retry").status_code == 404
        assert client.get("/dead-letters").json()["count"] == 0
    assert (pipeline.stats().succeeded, pipeline.stats().failed) == (2, 0)


@KINDS
def test_a_refused_or_failed_retry_gives_a_clear_message(configured: Configure, stub: StubExporter, make: Make) -> None:
    configured()
    (record_id,) = park(stub)
    with visiting(make) as client:
        attempts = client.get("/dead-letters").json()["dead_letters"][0]["attempts"]
        answer = client.post(f"/dead-letters/{record_id}/retry")
        assert (answer.status_code, answer.json()["state"]) == (409, "parked")
        stub.sink.fail(MISCONFIGURED)
        answer = client.post(f"/dead-letters/{record_id}/retry")
        assert (answer.status_code, answer.json()["error"]) == (503, str(MISCONFIGURED))
        assert client.get("/dead-letters").json()["dead_letters"][0]["attempts"] == attempts + 1


@KINDS
def test_a_retry_by_a_browser_returns_with_a_notice(configured: Configure, stub: StubExporter, make: Make) -> None:
    configured()
    (record_id,) = park(stub)
    stub.sink.heal()
    with visiting(make) as client:
        headers = {"accept": "text/html", "sec-fetch-site": "same-origin"}
        answer = client.post(f"/dead-letters/{record_id}/retry", headers=headers)
        assert answer.status_code == 303
        page = client.get(str(answer.url.join(answer.headers["location"])))
    assert str(page.url).endswith("/audit/?done=stored")
    assert "The dead letter is in the table now." in page.text


@KINDS
@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
    ids=str,
)
def test_a_retry_that_another_page_makes_a_browser_send_is_refused(
    configured: Configure, stub: StubExporter, make: Make, headers: dict[str, str]
) -> None:
    configured()
    (record_id,) = park(stub)
    stub.sink.heal()
    with visiting(make) as client:
        answer = client.post(f"/dead-letters/{record_id}/retry", headers=headers)
        assert answer.status_code == 403
        assert client.get("/dead-letters").json()["count"] == 1


@KINDS
def test_a_retry_from_the_pages_own_or_an_allowed_origin_works(
    configured: Configure, stub: StubExporter, make: Make
) -> None:
    configured()
    first, second = park(stub, 2)
    stub.sink.heal()
    with visiting(make, origins=["https://admin.example"]) as client:
        own = {"origin": f"http://{client.base_url.netloc.decode()}"}
        named = {"origin": "https://admin.example", "sec-fetch-site": "cross-site"}
        assert client.post(f"/dead-letters/{first}/retry", headers=own).status_code == 200
        assert client.post(f"/dead-letters/{second}/retry", headers=named).status_code == 200


# --- the page -------------------------------------------------------------------------------------------------------


class Found(HTMLParser):
    """The tags of a page, each with its attributes, and that they are closed in order."""

    VOID = frozenset({"meta", "link", "line", "path", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag


@KINDS
def test_the_page_shows_level_figures_picture_errors_and_buttons(
    configured: Configure, stub: StubExporter, make: Make
) -> None:
    """Each dead letter has a button."""
    pipeline = configured()
    ids = park(stub, 2)
    wait_until(lambda: bool(pipeline.samples), "a sample is taken")
    with visiting(make) as client:
        html = client.get("/").text
    tags = Found(html).tags
    assert "<title>✕ audit critical</title>" in html
    everything = {"dead-letters/retry", "losses/acknowledge"}
    assert everything | {f"dead-letters/{record_id}/retry" for record_id in ids} == {
        attributes["action"] for tag, attributes in tags if tag == "form"
    }
    assert any(tag == "path" and attributes["class"] == "line" for tag, attributes in tags)
    assert html.count("invalid input syntax for type uuid") == 5  # in the reason and among the causes, too


@KINDS
def test_the_page_loads_nothing_foreign_and_runs_only_its_script(configured: Configure, make: Make) -> None:
    configured()
    with visiting(make) as client:
        answers = [client.get("/") for _ in range(2)]
    nonces = set()
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
        nonces.add(nonce)
        tags = Found(answer.text).tags
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert {attributes["nonce"] for tag, attributes in tags if tag in ("script", "style")} == {nonce}
        assert not any(name in ("src", "style") or name.startswith("on") for _, found in tags for name in found)
        assert {found["href"] for _, found in tags if "href" in found} == {
            "data:,",
            "stats",
            "health",
            "losses",
            "dead-letters",
        }
    assert len(nonces) == 2


@KINDS
def test_everything_on_the_page_that_comes_from_outside_is_escaped(
    configured: Configure, stub: StubExporter, make: Make
) -> None:
    configured()
    evil = "<script>alert(1)</script>\"'&"
    park(stub, action="refuse me" + evil, entity_type=evil)
    with visiting(make, show_values=True) as client:
        html = client.get("/", params={"retried": evil}).text
    assert "<script>alert" not in html
    assert len([tag for tag, _ in Found(html).tags if tag == "script"]) == 1


@KINDS
def test_the_focus_is_found_again_after_the_page_is_renewed(
    configured: Configure, stub: StubExporter, make: Make
) -> None:
    """Each element that can have the focus has an id of its own."""
    configured()
    park(stub, 2)
    with visiting(make, show_values=True) as client:
        page = client.get("/").text
    tags = Found(page).tags
    found = [attributes.get("id") for tag, attributes in tags if tag in ("a", "button", "details", "summary")]
    assert len(found) == 6 + 2 * 3
    assert None not in found
    assert len(set(found)) == len(found)


@KINDS
def test_the_page_is_there_where_the_dead_letters_cannot_be_read(
    configured: Configure, stub: StubExporter, make: Make, tmp_path: Path
) -> None:
    configured()
    park(stub)
    (file,) = (tmp_path / "outbox").glob("*/dead-letters.db")
    file.write_bytes(b"damaged" * 1000)
    with visiting(make) as client:
        page, letters = client.get("/"), client.get("/dead-letters")
    assert page.status_code == 200
    assert "<b>critical</b>" in page.text
    assert "They cannot be read." in page.text
    assert letters.status_code == 503


def test_a_page_with_everything_at_its_largest_stays_a_page(configured: Configure) -> None:
    pipeline = configured()
    letter = dict.fromkeys(("action", "entity_type", "entity_id", "error"), "x" * 5000)
    letters = [letter | {"record_id": "x" * 36, "attempts": 1, "parked_at": "2026-01-01T00:00:00+00:00"}] * 50
    data = PageData("t", pipeline.stats(), pipeline.health(), pipeline.samples, (), letters)
    html, _ = render_page(data)
    Found(html)
    assert len(html) < 100_000
