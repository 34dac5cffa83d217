"""Real servers for real applications."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import uvicorn

from tests.stack import small_servers
from tests.stack.ports import HOST
from tests.stack.waiting import wait_until

Serve = Callable[[Any], str]


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[str]:
    """Serve an ASGI application; give its address."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", **options))
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started, "the server has started")
            yield f"http://{HOST}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        pass


@contextmanager
def serving_wsgi(app: Any) -> Iterator[str]:
    """Serve a WSGI application; give its address."""
    with small_servers.serving(make_server(HOST, 0, app, handler_class=_Silent)) as port:
        yield f"http://{HOST}:{port}"
