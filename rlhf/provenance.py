"""What a result depends on beside its inputs: code, lock file and machine."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rlhf import reward_functions
from rlhf.config import ModelConfig, RewardSourceConfig
from rlhf.hashing import sha256
from rlhf.project import root, source_root
from rlhf.references import DataSource

_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "tokenizers", "numpy", "prefect", "mlflow", "dvc")
# The instructions by which torch and oneDNN choose their kernels, and so the order in which numbers are added.
_ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16")


@dataclass(frozen=True)
class GitState:
    """The commit of a working tree, and whether the tree differs from it.

    Attributes:
        commit: None outside a git repository, and before its first commit.
        dirty: tracked files have changed, or there are files that git neither tracks nor ignores.
    """

    commit: str | None
    dirty: bool


def git_state(folder: Path) -> GitState:
    """Commit and dirtiness of the git repository that `folder` is in."""
    commit = _git(folder, "rev-parse", "HEAD")
    return GitState(commit, dirty=bool(_git(folder, "status", "--porcelain")))


def lock_sha256() -> str:
    """The sha256 of requirements.lock; of nothing where the package is installed without it."""
    lock = source_root() / "requirements.lock"
    return sha256(lock) if lock.is_file() else hashlib.sha256().hexdigest()


def machine() -> dict[str, str]:
    """Where a run took place and with which libraries, for people who wonder why bits differ."""
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


@cache
def gpus() -> tuple[str, ...]:
    """The models of NVIDIA's devices, as the driver names them."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return tuple(line.partition(":")[2].strip() for file in files for line in file.read_text().splitlines()[:1])


def obstacles(
    git: GitState, source: DataSource, model: ModelConfig, rewards: Sequence[RewardSourceConfig] = ()
) -> list[str]:
    """Why a run could not be repeated from what is on record; empty where it could."""
    found = []
    if git.commit is None:
        found.append("the code is in no git commit")
    if git.dirty:
        found.append("the working tree differs from the commit")
    if source.dirty:
        found.append("data/ differs from data.dvc")
    elif not source.tracked:
        found.append("the data is not tracked by DVC; import it with `rlhf data import`")
    if model.base is not None and not (root() / model.base).is_dir() and model.revision is None:
        found.append(f"model.base {model.base} has no revision; set model.revision to a commit")
    return found + [why for reward in rewards if (why := _reward_obstacle(reward))]


def _reward_obstacle(reward: RewardSourceConfig) -> str | None:
    if reward.kind == "function":
        package = reward_functions.distribution(reward_functions.find(reward.name))
        lock = source_root() / "requirements.lock"
        if not lock.is_file() or package.lower().replace("_", "-") not in lock.read_text(encoding="utf-8").split():
            return f"the reward function {reward.name} is of {package}, which requirements.lock does not name"
    elif reward.path is not None and not (root() / reward.path).is_dir() and reward.revision is None:
        return f"the reward model {reward.path} has no revision; set revision to a commit"
    return None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None
    return answer.stdout.strip()
