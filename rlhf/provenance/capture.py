"""Filling the record of a run: what is known at its start, then its data, then stage after stage."""

import configparser
import re
from collections.abc import Iterator
from pathlib import Path

from rlhf.addresses import public_address
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.files.manifest import folder_sha256
from rlhf.paths import root, source_root
from rlhf.provenance.code import GitState, Patch
from rlhf.provenance.environment import lock_sha256, machine
from rlhf.provenance.record import BaseRecord, CodeRecord, DataRecord, ProvenanceRecord, StageRecord, canonical_sha256
from rlhf.references import DataSource
from rlhf.rewards import functions as reward_functions

_REMOTE = re.compile(r"""'?remote "(?P<name>.*)"'?""")


def begin_record(config: PipelineConfig, git: GitState, patch: Patch) -> ProvenanceRecord:
    """The record of a run at its start.

    Args:
        config: resolved, with models of the hub at commits.
        git: commit and dirtiness of the code.
        patch: what was changed since the commit.
    """
    compute = config.compute
    return ProvenanceRecord(
        recipe=config.name,
        seed=config.seed,
        config_sha256=canonical_sha256(config.model_dump(mode="json")),
        lock_sha256=lock_sha256(),
        code=CodeRecord(commit=git.commit, dirty=git.dirty, patch_sha256=patch.sha256, left_out=patch.left_out),
        bases=base_records(config),
        machine=machine(),
        compute={name: str(value) for name, value in compute.model_dump().items()},
        obstacles=(
            *([] if git.commit else ["the code is in no git commit"]),
            *(
                f"the patch lacks {name}: it looks like a credential, is too large, or lies in a folder that is a link"
                for name in patch.left_out
            ),
            *_reward_obstacles(config),
        ),
    )


def with_data(record: ProvenanceRecord, source: DataSource) -> ProvenanceRecord:
    """The record once the data is known."""
    obstacles = []
    if source.dirty:
        obstacles.append("data/ differs from data.dvc")
    elif not source.tracked:
        obstacles.append("the data is not tracked by DVC; import it with `rlhf data import`")
    facts = source.model_dump() | {"path": _portable(source.path)}
    data = DataRecord(**facts, remote=default_remote(root()))
    return record.model_copy(update={"data": data, "obstacles": (*record.obstacles, *obstacles)})


def with_stage(record: ProvenanceRecord, name: str, stage: StageRecord) -> ProvenanceRecord:
    """The record after a stage."""
    return record.model_copy(update={"stages": record.stages | {name: stage}})


def default_remote(folder: Path) -> str | None:
    """The address of a DVC repository's default remote, without user and password; None where there is none."""
    config = configparser.ConfigParser(interpolation=None)
    config.read([folder / ".dvc" / "config", folder / ".dvc" / "config.local"], encoding="utf-8")
    name = config.get("core", "remote", fallback=None)
    for section in config.sections():
        remote = _REMOTE.fullmatch(section)
        if remote and remote["name"] == name:
            url = config.get(section, "url", fallback=None)
            return public_address(url) if url else None
    return None


def base_records(config: PipelineConfig) -> dict[str, BaseRecord]:
    """The models from outside that a recipe names, by the settings that do, as they are on this host."""
    return dict(_bases(config))


def _bases(config: PipelineConfig) -> Iterator[tuple[str, BaseRecord]]:
    if config.model.base is not None:
        yield "model.base", _base(config.model.base, config.model.revision)
    for section, policy in config.sections.items():
        for number, source in enumerate(policy.rewards):
            if source.path is not None:
                yield f"{section}.rewards.{number}.path", _base(source.path, source.revision)


def _base(name: str, revision: str | None) -> BaseRecord:
    folder = root() / name
    if folder.is_dir():
        return BaseRecord(name=_portable(name), revision=None, sha256=folder_sha256(folder))
    return BaseRecord(name=name, revision=revision, sha256=None)


def _portable(path: str) -> str:
    """A folder below the project's root as it is; of another only the name, since records are published."""
    return f"PATH/TO/{Path(path).name}" if Path(path).is_absolute() else path


def _reward_obstacles(config: PipelineConfig) -> list[str]:
    return [why for source in config.rewards if (why := _reward_obstacle(source))]


def _reward_obstacle(reward: RewardSourceConfig) -> str | None:
    if reward.kind != "function":
        return None
    package = reward_functions.distribution(reward_functions.find_function(reward.name))
    lock = source_root() / "requirements.lock"
    if lock.is_file() and package.lower().replace("_", "-") in lock.read_text(encoding="utf-8").split():
        return None
    return f"the reward function {reward.name} is of {package}, which requirements.lock does not name"
