"""The machine of a run, and the versions of what runs on it."""

import hashlib
import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path

from rlhf.files.hashing import sha256
from rlhf.paths import source_root

_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "tokenizers", "numpy", "prefect", "mlflow", "dvc")
# The instructions by which torch and oneDNN choose their kernels, and so the order in which numbers are added.
_ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16")


def lock_sha256() -> str:
    """The sha256 of requirements.lock; of nothing where the package is installed without it."""
    lock = source_root() / "requirements.lock"
    return sha256(lock) if lock.is_file() else hashlib.sha256().hexdigest()


def machine() -> dict[str, str]:
    """The machine and the libraries of a run, for people who wonder why bits differ."""
    versions = {f"version.{name}": importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu()[0],
        "cpu_instructions": " ".join(cpu()[1]),
        "cpu_count": str(os.cpu_count()),
        "gpus": ", ".join(gpus()),
        **versions,
    }


@cache
def cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's model, and those of its instructions that decide which kernels run."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine(), ()
    first = info.read_text().partition("\n\n")[0]
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", platform.machine()), tuple(name for name in _ISA if name in flags)


def hardware() -> str:
    """The processor, the cores and the devices: runs on equal hardware take comparable time."""
    return ", ".join((cpu()[0], f"{os.cpu_count()} cores", *gpus()))


@cache
def gpus() -> tuple[str, ...]:
    """The models of NVIDIA's devices, as the driver names them."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return tuple(line.partition(":")[2].strip() for file in files for line in file.read_text().splitlines()[:1])
