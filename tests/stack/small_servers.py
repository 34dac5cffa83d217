"""Small servers in threads of the test's own process, with no connection and no thread left at their end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import TCPServer, ThreadingMixIn

_POLL_SECONDS = 0.02


@contextmanager
def serving(server: TCPServer) -> Iterator[int]:
    """Have a server of the standard library serve, and close it afterwards; yields its port."""
    if isinstance(server, ThreadingMixIn):
        server.daemon_threads = False  # closing waits for such threads alone
    with server:
        accepting = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,))
        accepting.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            accepting.join()
