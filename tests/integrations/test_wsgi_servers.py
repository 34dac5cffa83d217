"""Flask and Django under real servers, many users at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from tests.stack import AuditTable, Stack
from tests.support.servers import environment, running, to_table, write

FLASK = """
    from uuid import UUID

    from flask import Flask, request

    from otel_audit_exporter import audit_event, configure_audit, update_audit_context
    from otel_audit_exporter.integrations.wsgi import AuditMiddleware

    app = Flask(__name__)
    app.wsgi_app = AuditMiddleware(
        app.wsgi_app,
        identify=lambda request: {"yacht_id": request.headers.get("X-Yacht")},
        trusted_proxies=["127.0.0.1"],
    )
    configure_audit()


    @app.before_request
    def who():
        if "X-User" in request.headers:
            update_audit_context(user_id=request.headers["X-User"])


    def touch(kind, number):
        audit_event("touch", entity_type=kind, entity_id=UUID(int=number), new_values={"n": number})


    @app.get("/")
    def index():
        return "here"


    @app.get("/parts/<int:number>")
    def part(number):
        touch("view", number)

        def parts():
            touch("stream", number)
            yield b"streamed"

        return app.response_class(parts())
"""
DJANGO = """
    import uuid

    import django
    from django.conf import settings
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path

    from otel_audit_exporter import audit_event, configure_audit


    class User:
        is_authenticated = True

        def __init__(self, pk):
            self.pk = pk


    class SignIn:
        sync_capable = async_capable = True

        def __new__(cls, get_response):
            from asgiref.sync import iscoroutinefunction

            def sign_in(request):
                request.user = User(request.headers["X-User"]) if "X-User" in request.headers else None

            if iscoroutinefunction(get_response):
                async def middleware(request):
                    sign_in(request)
                    return await get_response(request)
            else:
                def middleware(request):
                    sign_in(request)
                    return get_response(request)
            from django.utils.decorators import sync_and_async_middleware
            return middleware


    def identify(request):
        from otel_audit_exporter.integrations.django import signed_in_user

        known = signed_in_user(request)
        return known and {**known, "yacht_id": request.headers["X-Yacht"]}


    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="made up",
        MIDDLEWARE=["shop.SignIn", "otel_audit_exporter.integrations.django.AuditMiddleware"],
        OTEL_AUDIT_IDENTIFY="shop.identify",
        OTEL_AUDIT_TRUSTED_PROXIES=["127.0.0.1"],
    )
    django.setup()
    configure_audit()


    def touch(kind, number):
        audit_event("touch", entity_type=kind, entity_id=uuid.UUID(int=number), new_values={"n": number})


    def index(request):
        return HttpResponse("here")


    def part(request, number):
        touch("view", number)

        def parts():
            touch("stream", number)
            yield b"streamed"

        return StreamingHttpResponse(parts())


    async def apart(request, number):
        touch("view", number)

        async def parts():
            touch("stream", number)
            yield b"streamed"

        return StreamingHttpResponse(parts())


    urlpatterns = [path("", index), path("parts/<int:number>", part), path("aparts/<int:number>", apart)]

    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application

    wsgi, asgi = get_wsgi_application(), get_asgi_application()
"""
EARLY = """
    from io import BytesIO
    from uuid import uuid4

    from otel_audit_exporter.testing import AuditLog

    with AuditLog() as audit_log:
        import shop

        def parts():
            try:
                shop.touch("stream", 1)
                yield b"one"
                yield b"two"
            finally:
                shop.touch("closed", 1)

        def leave(request):
            shop.touch("view", 1)
            return shop.StreamingHttpResponse(parts())

        shop.urlpatterns.append(shop.path("leave", leave))
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/leave", "REMOTE_ADDR": "127.0.0.1", "SERVER_NAME": "x",
                   "SERVER_PORT": "80", "wsgi.input": BytesIO(), "wsgi.url_scheme": "http",
                   "HTTP_X_USER": str(uuid4()), "HTTP_X_YACHT": str(uuid4())}
        answer = shop.wsgi(environ, lambda *_: None)
        print(next(iter(answer)))
        answer.close()
        print(*(event.entity_type for event in audit_log.events))
"""
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--threads", "8")
UVICORN = ("uvicorn", "--port", "{port}", "--no-proxy-headers", "--lifespan", "off")


@pytest.mark.parametrize(
    ("application", "command", "path"),
    [
        pytest.param(FLASK, (*GUNICORN, "shop:app"), "parts", id="flask-gunicorn"),
        pytest.param(DJANGO, (*GUNICORN, "shop:wsgi"), "parts", id="django-gunicorn"),
        pytest.param(DJANGO, (*UVICORN, "shop:asgi"), "aparts", id="django-uvicorn"),
        pytest.param(DJANGO, (*GUNICORN, "shop:wsgi"), "aparts", id="django-gunicorn-asynchronous-stream"),
        pytest.param(DJANGO, (*UVICORN, "shop:asgi"), "parts", id="django-uvicorn-synchronous-stream"),
    ],
)
def test_every_row_has_the_user_who_asked(
    application: str,
    command: Sequence[str],
    path: str,
    tmp_path: Path,
    stack: Stack,
    audit_table: AuditTable,
) -> None:
    audit_table.alter("add column source text, add column request text")
    stack.reload_schema_cache()
    write(tmp_path, "shop.py", application)
    columns = (
        "id=record_id,yacht_id=yacht_id,entity_type=entity_type,action=action,entity_id=entity_id,created_by=user_id,"
        "created_at=timestamp,old_values=old_values,new_values=new_values,source=source_ip,request=request_id"
    )
    environ = environment(tmp_path, OTEL_AUDIT_COLUMNS=columns, **to_table(stack, audit_table))
    users = [(number, uuid4(), uuid4()) for number in range(60)]
    with running(tmp_path, command, environ) as server:

        def ask(one: tuple[int, UUID, UUID]) -> tuple[int, str]:
            number, user, yacht = one
            headers = {
                "X-User": str(user),
                "X-Yacht": str(yacht),
                "X-Forwarded-For": f"203.0.113.{number}",
                "X-Request-ID": f"r-{number}",
            }
            answer = httpx.get(f"{server.url}/{path}/{number}", headers=headers, timeout=60, trust_env=False)
            return answer.status_code, answer.text

        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(ask, users)) == {(200, "streamed")}, server.output()
        server.end()
    found = sorted(
        (row["new_values"]["n"], row["entity_type"], row["created_by"], row["yacht_id"], row["source"], row["request"])
        for row in audit_table.rows()
    )
    assert found == sorted(
        (number, kind, user, yacht, f"203.0.113.{number}", f"r-{number}")
        for number, user, yacht in users
        for kind in ("view", "stream")
    ), json.dumps(found[:3], default=str)


def test_an_unfinished_stream_is_closed_in_the_context_of_its_request(tmp_path: Path) -> None:
    write(tmp_path, "shop.py", DJANGO)
    write(tmp_path, "early.py", EARLY)
    result = subprocess.run(
        [sys.executable, "early.py"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["b'one'", "view", "stream", "closed"]
