"""A TCP proxy before the database, whose way back can be stopped."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_DRIP_SECONDS = 0.1


class TcpProxy:
    """Forwards bytes both ways; what the server answers can be held, dripped, or lost with the connection."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._stopping = False
        self._changing = threading.Lock()
        self.port = int(self._listener.getsockname()[1])
        self.accepted = 0
        self.replies = "pass"
        """One of "pass", "hold", "drip" and "cut"."""

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client = self._keep(self._listener.accept()[0])
                self.accepted += 1
                server = self._keep(socket.create_connection(("127.0.0.1", self._target)))
                self._start(self._forward, client, server)
                self._start(self._answer, server, client)

    def through(self, dsn: str) -> str:
        """Return the DSN by which the database is reached through here."""
        return dsn.replace(f":{self._target}/", f":{self.port}/")

    def stop(self) -> None:
        with self._changing:
            self._stopping = True
            for one in [self._listener, *self._sockets]:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def _keep(self, one: socket.socket) -> socket.socket:
        """Have a socket closed at the end, which may be now."""
        with self._changing:
            if self._stopping:
                one.close()
            self._sockets.append(one)
        return one

    def cut(self) -> None:
        """Close every connection on both sides, but none that is made meanwhile."""
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        while content := client.recv(65_536):
            server.sendall(content)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        while content := server.recv(65_536):
            match self.replies:
                case "hold":
                    continue
                case "cut":
                    self.cut()
                case "drip":
                    for byte in content:
                        client.sendall(bytes([byte]))
                        time.sleep(_DRIP_SECONDS)
                case _:
                    client.sendall(content)

    def _start(self, way: object, source: socket.socket, sink: socket.socket) -> None:
        def run() -> None:
            with suppress(OSError):
                way(source, sink)  # type: ignore[operator]  # one of the two ways
            for one in (source, sink):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=run, daemon=True).start()


@contextmanager
def proxying(port: int) -> Iterator[TcpProxy]:
    """Run a proxy before ``port`` of this host."""
    proxy = TcpProxy(port)
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
