"""TCP ports that are this process's own for as long as it lives, also while its server on one is down.

Other processes are told by a UDP socket on the same number, which nobody else uses and the system closes when the
process ends, however that ends.
"""

import random
import socket

HOST = "127.0.0.1"

# Below the ports that systems hand to outgoing connections: one of those could take the port of a server that
# is stopped for a moment, or a client that keeps trying could even connect to itself there.
_RANGE = range(15_000, 32_000)


def free_port() -> int:
    """Take a port that nobody listens on and no other process has taken."""
    for port in random.sample(_RANGE, len(_RANGE)):
        if _take(port):
            return port
    raise RuntimeError("no free TCP port found")


def _take(port: int) -> bool:
    with socket.socket(type=socket.SOCK_DGRAM) as claim, socket.socket() as probe:
        try:
            claim.bind((HOST, port))
            probe.bind((HOST, port))
        except OSError:
            return False
        claim.detach()  # open until the process ends
    return True
