"""Free TCP ports that stay ours while a server on them is down."""

import random
import socket

HOST = "127.0.0.1"

# Below the ports that systems hand to outgoing connections: one of those could take the port of a server that
# is stopped for a moment, or a client that keeps trying could even connect to itself there.
_RANGE = range(15_000, 32_000)


def free_port() -> int:
    """Find a port that nobody listens on."""
    for port in random.sample(_RANGE, 200):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free TCP port found")
