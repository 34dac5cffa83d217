"""A collector in a process of its own, which takes everything: it says where, and ends with its stdin."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.stack.ports import HOST
from tests.stack.small_servers import serving


class _Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *said: object) -> None:
        """Keep silent."""


def main() -> None:
    with serving(ThreadingHTTPServer((HOST, 0), _Taker)) as port:
        print(f"http://{HOST}:{port}/v1/logs", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
