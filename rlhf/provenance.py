"""What a result depends on: code, lock file, machine and inputs, and the fingerprint over all of it."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from rlhf import reward_functions
from rlhf.config import DataConfig, ModelConfig, RewardSourceConfig
from rlhf.project import root, source_root
from rlhf.references import DataSource, Reference

_LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "tokenizers", "numpy", "prefect", "mlflow", "dvc")
# The instructions by which torch and oneDNN choose their kernels, and so the order in which numbers are added.
_ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16")
# They carry values or keep books; no number of a result is made in them.
_NO_NUMBERS = frozenset(
    f"rlhf.{name}"
    for name in (
        "artifacts",
        "config",
        "configuration",
        "disk",
        "errors",
        "metrics",
        "progress",
        "project",
        "provenance",
        "references",
        "shared_view",
        "spool",
        "tracking",
        "workspace",
    )
)


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
    return file_sha256(lock) if lock.is_file() else hashlib.sha256().hexdigest()


def machine() -> dict[str, str]:
    """Where a run took place and with which libraries, for people who wonder why bits differ."""
    versions = {f"version.{name}": importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu()[0],
        "cpu_instructions": " ".join(_cpu()[1]),
        "cpu_count": str(os.cpu_count()),
        "gpus": ", ".join(_gpus()),
        **versions,
    }


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


def file_sha256(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_manifest(folder: Path) -> str:
    """A line `sha256  relative/path` for every file, sorted by path: what `sha256sum --check` reads."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return "".join(f"{file_sha256(folder / name)}  {name}\n" for name in names)


def folder_sha256(folder: Path) -> str:
    """The sha256 of a folder: of its manifest."""
    return manifest_sha256(folder_manifest(folder))


def manifest_sha256(manifest: str) -> str:
    """The sha256 that a folder with this manifest has."""
    return hashlib.sha256(manifest.encode()).hexdigest()


def fingerprint(stage: str, version: str, arguments: Mapping[str, object], module: str) -> str:
    """The sha256 over all that decides what a stage makes. Equal fingerprints, equal output.

    Thread count, device and dtype are settings, so they come with the arguments.

    Args:
        stage: name of the stage.
        version: version of the stage, raised by hand where something that is not seen here has changed.
        arguments: what the stage is called with: settings, references, plain values.
        module: the module by which the stage is entered; the sources of the project's modules that it reaches count.
    """
    parts = {
        "stage": stage,
        "version": version,
        "arguments": {name: _canonical(value) for name, value in arguments.items()},
        "sources": {name: _source_sha256(path) for name, path in reached_sources(module).items()},
        "lock": lock_sha256(),
        "python": platform.python_version(),
        "machine": [platform.machine(), *_cpu(), *_gpus()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def reached_sources(module: str) -> dict[str, Path]:
    """The source files that a module's numbers come from, by their path below the source root.

    They are those of the module and of all project modules that it imports, directly or not, at its top or inside a
    function; a template that bears a module's name belongs to it. Modules that make no numbers are left out.
    """
    import grimp

    graph = grimp.build_graph("rlhf", "tasks", cache_dir=None)
    for name in _NO_NUMBERS | {"tasks.stage", "tasks.pipeline"}:
        if name in graph.modules:
            graph.remove_module(name)
    names = {module} | graph.find_upstream_modules(module)
    files = sorted(file for name in names for file in _files_of(name))
    return {file.relative_to(source_root()).as_posix(): file for file in files}


@cache
def _source_sha256(path: Path) -> str:
    """Read once a process, before the module is imported: what is edited later is not what this process runs."""
    return file_sha256(path)


def _files_of(module: str) -> Iterator[Path]:
    """The module, what lies beside it under its name, and the packages that are imported on the way to it."""
    path = source_root().joinpath(*module.split("."))
    yield from (file for file in path.parent.glob(f"{path.name}.*") if file.is_file())
    packages = [path, *path.parents]
    yield from (
        folder / "__init__.py"
        for folder in packages
        if folder.is_relative_to(source_root()) and (folder / "__init__.py").is_file()
    )


def _canonical(value: object) -> object:
    """What of an argument decides a result, as JSON: where something lies and which run made it does not."""
    if isinstance(value, Reference):
        return value.sha256
    if isinstance(value, DataSource):
        return {"md5": value.md5, "embedded": value.embedded}
    if isinstance(value, DataConfig):
        return value.model_dump(mode="json", exclude={"path", "allow_dirty_data"})
    if isinstance(value, ModelConfig):
        return value.model_dump(mode="json") | {"base": _content(value.base)}
    if isinstance(value, RewardSourceConfig):
        return value.model_dump(mode="json") | {"path": _content(value.path), "code": _reward_code(value)}
    if isinstance(value, BaseModel):
        return {name: _canonical(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    assert value is None or isinstance(value, str | int | float | bool), f"{type(value)} has no canonical form"
    return value


def _content(model: str | None) -> str | None:
    """A model in a folder is known by its content, one of the hub by its id and revision."""
    folder = root() / model if model else None
    return folder_sha256(folder) if folder and folder.is_dir() else model


def _reward_code(source: RewardSourceConfig) -> dict[str, object] | None:
    """Of a reward function: which package has it, and the sources of that package. They are read, not imported."""
    if source.kind != "function":
        return None
    point = reward_functions.find(source.name)
    files = reward_functions.source_files(point)
    sources = {name: _source_sha256(path) for name, path in sorted(files.items())}
    return {"package": reward_functions.distribution(point), "function": point.value, "sources": sources}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None
    return answer.stdout.strip()


@cache
def _cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's model, and those of its instructions that decide which kernels run."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine(), ()
    first = info.read_text().partition("\n\n")[0]
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return fields.get("model name", platform.machine()), tuple(name for name in _ISA if name in flags)


@cache
def _gpus() -> tuple[str, ...]:
    """The models of NVIDIA's devices, as the driver names them."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return tuple(line.partition(":")[2].strip() for file in files for line in file.read_text().splitlines()[:1])
