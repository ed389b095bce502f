"""GPUs as their data sheets describe them, and groups of them as `8xH100` or `2x8xA100-80GB` names them."""

import re
from dataclasses import dataclass

from rlhf.errors import InputError, nearest

_GROUP = re.compile(r"(?:(?P<nodes>\d+)x)?(?P<per_node>\d+)x(?P<kind>.+)", re.IGNORECASE)
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)GB", re.IGNORECASE)
_FORM = "give NUMBERxKIND or NODESxNUMBERxKIND, such as 8xH100, 2x8xA100-80GB or 1x24GB"
_MOST_GPUS = 65_536


@dataclass(frozen=True)
class GPU:
    """A kind of GPU.

    Attributes:
        name: of the kind.
        memory: bytes.
        flops: operations per second of dense products in bf16 with fp32 sums; None where only the memory is known.
        bandwidth: bytes of its memory that it reads per second; None likewise.
        link: bytes per second that it sends to the other GPUs of its node, while it receives as many; None likewise.
        source: the document that says so.
    """

    name: str
    memory: float
    flops: float | None = None
    bandwidth: float | None = None
    link: float | None = None
    source: str = ""


def _of_sheet(name: str, memory_gb: float, tflops: float, gb_per_s: float, both_ways: float, source: str) -> GPU:
    """A kind by its data sheet, which counts a link's two directions together."""
    return GPU(name, memory_gb * 1e9, tflops * 1e12, gb_per_s * 1e9, both_ways * 1e9 / 2, source)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _of_sheet("B200", 180, 2250, 8000, 1800, "NVIDIA DGX B200 datasheet, an eighth of the system"),
        _of_sheet("H200", 141, 989, 4800, 900, "NVIDIA H200 datasheet, SXM"),
        _of_sheet("H100", 80, 989, 3350, 900, "NVIDIA H100 datasheet, SXM"),
        _of_sheet("A100-80GB", 80, 312, 2039, 600, "NVIDIA A100 datasheet, SXM"),
        _of_sheet("A100-40GB", 40, 312, 1555, 600, "NVIDIA A100 datasheet, SXM"),
        _of_sheet("L40S", 48, 362, 864, 64, "NVIDIA L40S datasheet, PCIe 4.0"),
        _of_sheet("L4", 24, 121, 300, 64, "NVIDIA L4 datasheet, PCIe 4.0"),
        _of_sheet("A10", 24, 125, 600, 64, "NVIDIA A10 datasheet, PCIe 4.0"),
        _of_sheet("RTX-4090", 24, 165, 1008, 64, "NVIDIA Ada GPU architecture whitepaper, PCIe 4.0"),
    )
}
"""Kinds by name. TFLOPS are those without sparsity, and a GB is 10^9 bytes, which is somewhat less than there is."""


@dataclass(frozen=True)
class Cluster:
    """GPUs of one kind.

    Attributes:
        gpu: their kind.
        per_node: GPUs in each node.
        nodes: machines.
    """

    gpu: GPU
    per_node: int = 1
    nodes: int = 1

    @property
    def size(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.per_node

    def __str__(self) -> str:
        """The cluster as the command line has it."""
        nodes = f"{self.nodes}x" if self.nodes > 1 else ""
        return f"{nodes}{self.per_node}x{self.gpu.name}"


def read_cluster(text: str) -> Cluster:
    """The GPUs that a text such as `2x8xH100` names; `1x24GB` is for memory alone.

    Raises:
        InputError: it has another form, or names a kind that is not known.
    """
    matched = _GROUP.fullmatch(text.strip())
    if matched is None:
        raise InputError(f"--gpus {text}: not a number of GPUs and their kind; {_FORM}")
    cluster = Cluster(_kind(matched["kind"], text), int(matched["per_node"]), int(matched["nodes"] or 1))
    if not 1 <= cluster.size <= _MOST_GPUS:
        raise InputError(f"--gpus {text}: {cluster.size:,} GPUs; give between 1 and {_MOST_GPUS:,}")
    return cluster


def _kind(name: str, text: str) -> GPU:
    known = {kind.lower(): gpu for kind, gpu in GPUS.items()}
    if name.lower() in known:
        return known[name.lower()]
    memory = _MEMORY.fullmatch(name)
    if memory is None or not float(memory[1]):
        closest = known[nearest(name.lower(), known)].name
        raise InputError(
            f"--gpus {text}: {name} is not a known kind of GPU; the nearest known one is {closest}, of "
            f"{', '.join(GPUS)}; or give its memory, such as {text[: -len(name)]}24GB"
        )
    return GPU(f"{float(memory[1]):g}GB", float(memory[1]) * 1e9)
