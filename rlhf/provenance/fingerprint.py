"""The fingerprint: one hash over all that decides what a stage makes."""

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from rlhf.config.cluster import ClusterConfig
from rlhf.config.data import DataConfig
from rlhf.config.judge import JudgeConfig
from rlhf.config.model import ModelConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.files.hashing import sha256
from rlhf.files.manifest import folder_sha256
from rlhf.paths import root, source_root
from rlhf.provenance import cpu, gpus, lock_sha256
from rlhf.references import DataSource, Reference
from rlhf.rewards import functions as reward_functions

if TYPE_CHECKING:
    from grimp import ImportGraph

# They carry values or keep books; no number of a result is made in them. A contract keeps torch and numpy out of them.
_NO_NUMBERS = frozenset(
    f"rlhf.{name}"
    for name in (
        "addresses",
        "config",
        "errors",
        "files",
        "metrics",
        "paths",
        "progress",
        "provenance",
        "references",
        "stages",
        "tracking",
        "workspace",
    )
)
_NO_NUMBERS_IN_TASKS = ("tasks.stage", "tasks.pipeline_run")


def stage_fingerprint(stage: str, version: str, arguments: Mapping[str, object], module: str) -> str:
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
        "machine": [platform.machine(), *cpu(), *gpus()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def reached_sources(module: str) -> dict[str, Path]:
    """The source files that a module's numbers come from, by their path below the source root.

    They are those of the module and of all project modules that it imports, directly or not, at its top or inside a
    function; a template that bears a module's name belongs to it. Modules that make no numbers are left out.
    """
    names = {module} | _imports().find_upstream_modules(module)
    files = sorted(file for name in names for file in _files_of(name))
    return {file.relative_to(source_root()).as_posix(): file for file in files}


@cache
def _imports() -> "ImportGraph":
    """What imports what, but for the modules that make no numbers."""
    import grimp

    graph = grimp.build_graph("rlhf", "tasks", cache_dir=None)
    for name in list(graph.modules):
        if ".".join(name.split(".")[:2]) in _NO_NUMBERS or name in _NO_NUMBERS_IN_TASKS:
            graph.remove_module(name)
    return graph


@cache
def _source_sha256(path: Path) -> str:
    """Read once a process, before the module is imported: what is edited later is not what this process runs."""
    return sha256(path)


@cache
def _files_of(module: str) -> tuple[Path, ...]:
    """The module, what lies beside it under its name, and the packages that are imported on the way to it."""
    path = source_root().joinpath(*module.split("."))
    packages = [folder for folder in (path, *path.parents) if folder.is_relative_to(source_root())]
    files = (*path.parent.glob(f"{path.name}.*"), *(folder / "__init__.py" for folder in packages))
    return tuple(file for file in files if file.is_file())


def _canonical(value: object) -> object:
    """The part of an argument that decides a result, as JSON.

    A place, the run that made something, and how fast and how often an endpoint is asked do not.
    """
    if isinstance(value, Reference):
        return value.sha256
    if isinstance(value, DataSource):
        return {"md5": value.md5, "embedded": value.embedded}
    if isinstance(value, DataConfig):
        return value.model_dump(mode="json", exclude={"path", "allow_dirty_data"})
    if isinstance(value, ClusterConfig):
        return None
    if isinstance(value, ModelConfig):
        return value.model_dump(mode="json") | {"base": _content(value.base)}
    if isinstance(value, JudgeConfig):
        return value.model_dump(mode="json", include={"url", "model"})
    if isinstance(value, RewardSourceConfig):
        return value.model_dump(mode="json") | {"path": _content(value.path), "code": _reward_code(value)}
    if isinstance(value, BaseModel):
        return {name: _canonical(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    assert value is None or isinstance(value, str | int | float | bool), f"{type(value)} has no canonical form"
    return value


def _content(model: str | None) -> str | None:
    """A model in a folder is known by its content, one of the hub by its id and commit."""
    folder = root() / model if model else None
    return folder_sha256(folder) if folder and folder.is_dir() else model


def _reward_code(source: RewardSourceConfig) -> dict[str, object] | None:
    """A reward function's package and the sources of that package, which are read and not imported."""
    if source.kind != "function":
        return None
    point = reward_functions.find_function(source.name)
    files = reward_functions.source_files(point)
    sources = {name: _source_sha256(path) for name, path in sorted(files.items())}
    return {"package": reward_functions.distribution(point), "function": point.value, "sources": sources}
