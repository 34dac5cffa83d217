"""A small application under one of three servers; it is forked for every invocation, as a platform starts an instance.

Run with the server's name: each line on stdin has one instance started, whose number of process group and port are
printed. Everything that the instances need is imported before.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

import otel_audit_exporter.pipeline.installation  # noqa: F401  # what configure_audit would import in every instance
from otel_audit_exporter import audit_event, configure_audit
from tests.support.events import arguments

BODY = b"done"


def audit(record_id: str) -> None:
    audit_event(**arguments(record_id=UUID(record_id)))


def fastapi_application() -> Any:
    from fastapi import FastAPI

    from otel_audit_exporter.integrations.asgi import AuditMiddleware

    app = FastAPI()
    app.add_middleware(AuditMiddleware)

    @app.get("/{record_id}")
    def touch(record_id: str) -> str:
        audit(record_id)
        return "done"

    return app


def flask_application() -> Any:
    from flask import Flask

    from otel_audit_exporter.integrations.wsgi import AuditMiddleware

    app = Flask(__name__)
    app.wsgi_app = AuditMiddleware(app.wsgi_app)  # type: ignore[method-assign]  # as Flask's documentation has it

    @app.get("/<record_id>")
    def touch(record_id: str) -> bytes:
        audit(record_id)
        return BODY

    return app


def serve_uvicorn(listener: socket.socket) -> None:
    import uvicorn

    configure_audit()
    uvicorn.Server(uvicorn.Config(APPLICATION, log_level="warning")).run([listener])


def serve_gunicorn(listener: socket.socket) -> None:
    from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # gunicorn has no types

    class Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
        def load_config(self) -> None:
            self.cfg.set("bind", f"fd://{listener.fileno()}")
            self.cfg.set("loglevel", "error")
            self.cfg.set("control_socket_disable", True) if "control_socket_disable" in self.cfg.settings else None

        def load(self) -> Any:
            configure_audit()
            return APPLICATION

    Application().run()


def serve_lambda(listener: socket.socket) -> None:
    from otel_audit_exporter.integrations.aws_lambda import audit_lambda

    configure_audit()

    @audit_lambda
    def handler(event: dict[str, str], context: object) -> str:
        audit(event["record_id"])
        return BODY.decode()

    class Context:
        aws_request_id = "an-invocation"

        def get_remaining_time_in_millis(self) -> int:
            return 30_000

    while True:  # what Lambda's runtime does
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            path = lines.readline().split()[1].decode()
            answer = json.dumps(handler({"record_id": path[1:]}, Context())).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))


SERVERS: dict[str, tuple[Callable[[], Any], Callable[[socket.socket], None]]] = {
    "uvicorn": (fastapi_application, serve_uvicorn),
    "gunicorn": (flask_application, serve_gunicorn),
    "lambda": (lambda: None, serve_lambda),
}
APPLICATION: Any = None


def main(name: str) -> None:
    global APPLICATION
    make, serve = SERVERS[name]
    APPLICATION = make()
    sys.argv = [name]
    for _ in sys.stdin:
        listener = socket.create_server(("127.0.0.1", 0))
        instance = os.fork()
        if instance == 0:
            os.setsid()
            serve(listener)
            os._exit(0)
        print(instance, listener.getsockname()[1], flush=True)
        listener.close()


if __name__ == "__main__":
    main(sys.argv[1])
