"""Nodes of a Ray cluster: what they are, and whether a group can work on them. Nothing here speaks to Ray."""

import platform
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from rlhf.errors import ConfigError
from rlhf.provenance import cpu, gpus
from rlhf.provenance.same_code import Code, check_same, this_code

CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself.

    Attributes:
        address: by which Ray knows it.
        machine: what a fingerprint has of it.
        python: version.
        code: of the project.
    """

    address: str
    machine: tuple[Any, ...]
    python: str
    code: Code


def facts(address: str) -> NodeFacts:
    """The facts of the node that this process is on."""
    machine = (platform.machine(), cpu(), gpus())
    return NodeFacts(address, machine, platform.python_version(), this_code())


def check_alike(node: NodeFacts, host: NodeFacts) -> None:
    """Refuse a node on which the stage would have another fingerprint than on its own host.

    Args:
        node: the node.
        host: that of the stage, where the fingerprint was made.

    Raises:
        ConfigError: names what differs.
    """
    check_same(node.code, f"the node {node.address}")
    for what, theirs, ours in (("Python", node.python, host.python), ("machine", node.machine, host.machine)):
        if theirs != ours:
            raise ConfigError(
                f"the node {node.address} has {what} {_shown(theirs)}, and the host of the stage {_shown(ours)}, whose "
                f"fingerprint would be wrong then; take nodes of one kind, and send the stage to one of them "
                f"(`rlhf worker --pool`, cluster.stage_pools.policy)"
            )


def interface_of(address: str, named: str | None) -> str:
    """The interface that processes of this node talk by.

    Args:
        address: of the node, by which Ray knows it.
        named: `cluster.network_interface`.

    Raises:
        ConfigError: the node has no such interface.
    """
    known = psutil.net_if_addrs()
    chosen = named or next((name for name, at in known.items() if address in (one.address for one in at)), None)
    if chosen is None:
        raise ConfigError(
            f"no interface of the node {address} has its Ray address; set cluster.network_interface to the one that "
            f"joins the nodes: {', '.join(sorted(known))}"
        )
    if chosen not in known:
        raise ConfigError(
            f"cluster.network_interface is {chosen}, which the node {address} does not have; it has "
            f"{', '.join(sorted(known))}. Drop the setting to take the one of the node's Ray address"
        )
    return chosen


def address_at(interface: str, node: str) -> str:
    """The IPv4 address of an interface of this node.

    Raises:
        ConfigError: it has none.
    """
    for one in psutil.net_if_addrs()[interface]:
        if one.family == socket.AF_INET:
            return str(one.address)
    raise ConfigError(
        f"the interface {interface} of the node {node} has no IPv4 address; set cluster.network_interface to another"
    )


class Probe:
    """A look at one node, from a process on it.

    Args:
        node: its address, by which Ray knows it.
        named: `cluster.network_interface`.
    """

    def __init__(self, node: str, named: str | None) -> None:
        self._node = node
        self._named = named
        self._listener: socket.socket | None = None

    def facts(self) -> NodeFacts:
        """What the node is."""
        return facts(self._node)

    def listen(self) -> tuple[str, int]:
        """Listen as a process of the group would; returns address and port.

        Raises:
            ConfigError: there is no such interface.
        """
        interface = interface_of(self._node, self._named)
        self._listener = socket.create_server((address_at(interface, self._node), 0))
        threading.Thread(target=_answer, args=(self._listener, self._node), daemon=True).start()
        address, port = self._listener.getsockname()
        return str(address), int(port)

    def unreached(self, others: Mapping[str, tuple[str, int]]) -> str | None:
        """The first of other nodes that this one does not reach where they listen; None where all are."""
        return next((node for node, (address, port) in others.items() if not _answers(node, address, port)), None)


def check_reached(unreached: Mapping[str, str | None], listening: Mapping[str, tuple[str, int]]) -> None:
    """Refuse interfaces by which nodes do not reach each other.

    Args:
        unreached: by node, the first that it did not reach.
        listening: by node, address and port.

    Raises:
        ConfigError: names the two nodes.
    """
    for node, other in unreached.items():
        if other is not None:
            raise ConfigError(
                f"the node {node} does not reach the node {other} at {listening[other][0]}, where its process would "
                f"listen; set cluster.network_interface to the interface that joins the nodes (`ip address` shows "
                f"them), or open its ports"
            )


def room(nodes: Sequence[Mapping[str, float]], needed: Mapping[str, float]) -> list[int]:
    """How many processes each node has room for.

    Args:
        nodes: what each has, by Ray's names.
        needed: what a process occupies.
    """
    return [min(int(node.get(name, 0.0) // amount) for name, amount in needed.items()) for node in nodes]


def _answer(listener: socket.socket, node: str) -> None:
    """Tell all who connect which node this is."""
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(node.encode())


def _answers(node: str, address: str, port: int) -> bool:
    """Whether a node answers at an address: 127.0.0.1 leads to another one from each node."""
    try:
        with socket.create_connection((address, port), CONNECT_SECONDS) as connection:
            return connection.recv(len(node.encode())) == node.encode()
    except OSError:
        return False


def _shown(value: object) -> str:
    return ", ".join(map(_shown, value)) if isinstance(value, tuple) else str(value)
