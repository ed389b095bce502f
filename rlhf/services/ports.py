"""Ports that servers are to listen at."""

import socket

from rlhf.errors import ConfigError


def check_port_is_free(host: str, port: int, what: str, flag: str) -> None:
    """Tell before anything is started that a server could not listen.

    Args:
        host: address.
        port: likewise.
        what: would listen there, for the message.
        flag: names another port.

    Raises:
        ConfigError: something listens there, or the address is none of this machine.
    """
    if not 0 < port < 2**16:
        raise ConfigError(f"{flag} is {port}; give a number from 1 to {2**16 - 1}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{what} cannot listen at {host}:{port} ({error.strerror}); give another {flag}, or stop what listens "
                "there"
            ) from None
