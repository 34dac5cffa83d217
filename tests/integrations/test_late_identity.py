"""Who asks, where that is known late, and requests that pass two middlewares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from otel_audit_exporter.event.context import current_scope
from otel_audit_exporter.integrations import asgi, wsgi
from tests.support.servers import environment, write

SHOP = """
    import json
    from uuid import UUID

    import django
    from django.conf import settings
    from django.test import Client
    from django.urls import path

    USER = UUID(int=7)

    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="made up",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "rest_framework"],
        MIDDLEWARE=["otel_audit_exporter.integrations.django.AuditMiddleware"],
        OTEL_AUDIT_IDENTIFY="otel_audit_exporter.integrations.django.signed_in_user",
        REST_FRAMEWORK={"UNAUTHENTICATED_USER": None},
    )
    django.setup()

    from rest_framework.authentication import BaseAuthentication
    from rest_framework.response import Response
    from rest_framework.views import APIView

    from otel_audit_exporter import audit_event
    from otel_audit_exporter.testing import AuditLog


    class User:
        is_authenticated = True
        pk = USER


    class ByToken(BaseAuthentication):
        def authenticate(self, request):
            return (User(), None) if "HTTP_TOKEN" in request.META else None


    class Parts(APIView):
        authentication_classes = [ByToken]

        def post(self, request):
            audit_event("touch", entity_type="part", entity_id=UUID(int=1), yacht_id=UUID(int=2))
            return Response({})


    urlpatterns = [path("parts", Parts.as_view())]

    if __name__ == "shop":
        with AuditLog() as audit_log:
            assert Client().post("/parts", HTTP_TOKEN="t").status_code == 200
            print(audit_log.events[0].user_id == str(USER))
"""


def test_the_user_that_rest_framework_authenticates_is_in_the_event(tmp_path: Path) -> None:
    write(tmp_path, "shop.py", SHOP)
    program = [sys.executable, "-c", "import shop"]
    run = subprocess.run(program, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "True"), run.stderr


def ids_seen(seen: list[str]) -> None:
    scope = current_scope()
    assert scope is not None
    seen.append(scope.merged()["request_id"])


def test_an_inner_wsgi_middleware_makes_no_second_request_id() -> None:
    seen: list[str] = []

    def application(environ: Any, start_response: Any) -> list[bytes]:
        ids_seen(seen)
        return []

    def between(environ: Any, start_response: Any) -> Any:
        ids_seen(seen)
        return wsgi.AuditMiddleware(application)(environ, start_response)

    wsgi.AuditMiddleware(between)({"REMOTE_ADDR": "192.0.2.1"}, lambda *_: None)
    wsgi.AuditMiddleware(between)({"REMOTE_ADDR": "192.0.2.1"}, lambda *_: None)
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_an_inner_asgi_middleware_makes_no_second_request_id() -> None:
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        ids_seen(seen)

    async def between(scope: Any, receive: Any, send: Any) -> None:
        ids_seen(seen)
        await asgi.AuditMiddleware(application)(scope, receive, send)

    served: Any = asgi.AuditMiddleware(between)({"type": "http", "headers": []}, None, None)  # type: ignore[arg-type]
    try:
        served.send(None)
    except StopIteration:
        assert seen[0] == seen[1]
