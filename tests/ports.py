"""Ports for the servers that tests start."""

import secrets
import socket

# Below those that the kernel gives to a connection that goes out (32768 and more): a server that is started again, or
# late, finds its port free.
FIRST, LAST = 10_000, 32_000


def free_port() -> int:
    """A port that nobody listens at. Drawn, as several processes of tests may look for one at the same time."""
    while True:
        port = FIRST + secrets.randbelow(LAST - FIRST)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
