"""A recipe on GPUs that are not here: memory of each process, whether it fits, what would let it, seconds and disk."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from pydantic import ValidationError

from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import ROLLOUT_METHODS
from rlhf.errors import ConfigError, InputError
from rlhf.planning.fit import (
    ADAPTERS,
    MICRO_BATCHES,
    ROOM,
    Peak,
    adapters,
    as_flags,
    changed_recipe,
    rows_at_once,
    smallest,
)
from rlhf.planning.hardware import Cluster
from rlhf.planning.memory import Parts, memory_per_process, rollout_moments
from rlhf.planning.shape import ModelShape, Workload
from rlhf.planning.throughput import Seconds, update_seconds

Settings = Mapping[str, Any]
Sharding = Literal["none", "node", "full"]
SHARDINGS: tuple[Sharding, ...] = get_args(Sharding)
"""Spread of a model's weights, gradients and optimizer. none: each process holds all. node: over the GPUs of each node.
full: over all GPUs."""
_KEPT_CHECKPOINTS = 2
_MOST_DOUBLINGS = 8
_GPUS_OF_A_NODE = 8
_ROWS = 1000
"""Rows of each kind of data; of memory on a GPU and of an update nothing depends on it."""


@dataclass(frozen=True)
class Sizing:
    """A recipe on a cluster.

    Attributes:
        config: the recipe, with one process per GPU.
        shape: of the model.
        cluster: the GPUs.
        sharding: how models are spread.
        stages: bytes of a process at each stage's peak, by what they are for.
        moments: the same of the policy's stage as it samples, trains and saves; of a method without rollouts its peak.
        update: seconds of an update's phases; None where they cannot be said.
    """

    config: PipelineConfig
    shape: ModelShape
    cluster: Cluster
    sharding: Sharding
    stages: Mapping[str, Parts]
    moments: Mapping[str, Parts]
    update: Mapping[str, Seconds] | None

    @property
    def peak(self) -> Peak:
        """The stage of which a process needs the most."""
        return max((Peak(*stage) for stage in self.stages.items()), key=lambda peak: peak.total)

    @property
    def room(self) -> float:
        """Bytes of a GPU that a process may take."""
        return ROOM * self.cluster.gpu.memory

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return self.peak.total <= self.room

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes on disk of the policy's checkpoints, the one that is being written and three whole policies included.

        It is what `rlhf.rl.checkpoint.needed_bytes` asks for before a run.
        """
        rl = self.config.rl
        if rl is None:
            return 4.0 * 3 * self.shape.parameters * (_KEPT_CHECKPOINTS + 1)
        learned = self.shape.parameters if rl.lora is None else self.shape.adapters(rl.lora.rank)
        has_value_model = _has_critic(self.config) and rl.sharing != "trunk"
        of_value = self.shape.parameters if rl.sharing == "none" else learned
        saved = learned + (of_value if has_value_model else 0)
        return 4.0 * 3 * ((_KEPT_CHECKPOINTS + 1) * saved + self.shape.parameters)


@dataclass(frozen=True)
class Option:
    """A change of a recipe or of its GPUs.

    Attributes:
        settings: those that are changed, by dotted name.
        sizing: what it comes to.
        before: what it changes.
    """

    settings: Settings
    sizing: Sizing
    before: Sizing

    @property
    def flags(self) -> str:
        """The change as it is typed."""
        after, before = self.sizing, self.before
        flags = [as_flags(self.settings)] if self.settings else []
        flags += [f"--gpus {after.cluster}"] if after.cluster != before.cluster else []
        flags += [f"--sharding {after.sharding}"] if after.sharding != before.sharding else []
        return " ".join(flags)


def size_recipe(config: PipelineConfig, shape: ModelShape, cluster: Cluster, sharding: Sharding = "none") -> Sizing:
    """Size a recipe, with every prompt and response as long as it allows.

    Args:
        config: the recipe; device and number of processes are the cluster's.
        shape: of the model that it starts from.
        cluster: the GPUs.
        sharding: how the policy's stage spreads its models.

    Raises:
        ConfigError: its settings do not go with so many processes.
        InputError: sharding would be ignored.
    """
    processes = cluster.size if _in_processes(config) else 1
    if sharding != "none" and processes == 1:
        why = "there is one GPU" if cluster.size == 1 else f"{config.method} trains in one process"
        raise InputError(f"--sharding {sharding}: {why}, so it would be ignored; drop it")
    config = _on(config, processes, sharding)
    shards = {"none": 1, "node": min(cluster.per_node, processes), "full": processes}[sharding]
    work = full_length(config)
    stages = memory_per_process(config, shape, work, shards)
    if config.data.sampled_from is None:
        del stages["data"]  # no model takes part in it
    moments = {"training": stages["policy"]}
    if config.rl is not None:
        process = {"process": stages["policy"]["process"]}
        of_rollouts = rollout_moments(config, config.rl, shape, work, shards)
        moments = {moment: parts | process for moment, parts in of_rollouts.items()}
    return Sizing(config, shape, cluster, sharding, stages, moments, update_seconds(config, shape, cluster, shards))


def full_length(config: PipelineConfig) -> Workload:
    """Data whose every row is as long as a recipe allows."""
    longest = config.model.max_length
    prompt = max(1, longest - config.max_response_tokens)
    return Workload(
        demonstrations=_ROWS,
        preferences=_ROWS,
        selection_preferences=_ROWS,
        test_preferences=_ROWS,
        validation_prompts=config.policy.num_validation_prompts,
        test_prompts=config.evaluation.batch_size,
        prompt_tokens=float(prompt),
        response_tokens=float(longest - prompt),
        longest=longest,
        longest_prompt=prompt,
        rows=_ROWS,
        prompts=_ROWS,
    )


def options(sizing: Sizing) -> Iterator[Option]:
    """Changes with which a recipe fits, of each kind the smallest; kinds that change the least of a result come first.

    Fewer rows in a pass and sharding change memory and time alone; adapters and a value head on the policy's trunk
    change what is trained; more GPUs change what a run costs. One that changes all that an earlier option does, and
    more, is left out.
    """
    given: list[set[str]] = []
    for settings, cluster, shardings in _kinds(sizing):
        fitting = (one for one in _variants(sizing, settings, cluster, shardings) if one.sizing.fits)
        option = next(fitting, None)
        if option is not None:
            option = _without_needless(sizing, option)
            changed = {f"{name} {value}" if name == "rl.sharing" else name for name, value in option.settings.items()}
            if not any(earlier <= changed for earlier in given):
                given.append(changed)
                yield option


def least_peak(sizing: Sizing) -> Peak:
    """The peak that adapters, a row at a time and the widest sharding leave on the same GPUs."""
    config = sizing.config
    settings = (smallest(config), adapters(config) | rows_at_once(config, 1))
    tried = (_sized(sizing, changed, sizing.cluster, sharding) for changed in settings for sharding in SHARDINGS)
    return min((one.sizing.peak for one in tried if one), key=lambda peak: peak.total, default=sizing.peak)


def _kinds(sizing: Sizing) -> Iterator[tuple[Settings, Cluster, Sequence[Sharding]]]:
    """Changed settings, GPUs, and how models are spread over them; beside each, fewer rows in a pass are tried."""
    config, cluster = sizing.config, sizing.cluster
    wider = SHARDINGS[SHARDINGS.index(sizing.sharding) + 1 :]
    # Within one node the two are the same.
    wider = tuple(sharding for sharding in wider if sharding == "full" or cluster.nodes > 1)
    now = (sizing.sharding, *wider)
    supervised = {f"{stage}.lora": ADAPTERS for stage in ("sft", "reward_model") if getattr(config, stage).lora is None}
    yield {}, cluster, (sizing.sharding,)
    yield {}, cluster, wider
    has_own_value_model = config.rl is not None and config.rl.sharing == "none" and _has_critic(config)
    trunk = {"rl.sharing": "trunk"} if has_own_value_model else {}
    yield trunk, cluster, now
    yield supervised, cluster, now
    yield supervised | trunk, cluster, now
    yield adapters(config), cluster, now
    yield smallest(config), cluster, now
    for settings in ({}, supervised, adapters(config)):
        more = cluster
        for _ in range(_MOST_DOUBLINGS):
            more = _doubled(more)
            yield settings, more, ("full",)


def _variants(sizing: Sizing, settings: Settings, cluster: Cluster, shardings: Sequence[Sharding]) -> Iterator[Option]:
    for rows in (None, *MICRO_BATCHES):
        fewer = {} if rows is None else rows_at_once(sizing.config, rows)
        if rows is None or fewer:
            tried = (_sized(sizing, {**fewer, **settings}, cluster, sharding) for sharding in shardings)
            yield from (option for option in tried if option)


def _sized(sizing: Sizing, settings: Settings, cluster: Cluster, sharding: Sharding) -> Option | None:
    """What a change comes to; None where it cannot be."""
    alone = {f"compute.{name}": value for name, value in _compute(1, "none").items()}
    config = changed_recipe(sizing.config, {**settings, **alone})
    if config is None:
        return None
    with suppress(InputError):
        return Option(settings, size_recipe(config, sizing.shape, cluster, sharding), sizing)
    return None


def _without_needless(before: Sizing, option: Option) -> Option:
    """The option without each setting that it fits without as well."""
    for name in option.settings:
        fewer = {other: value for other, value in option.settings.items() if other != name}
        without = _sized(before, fewer, option.sizing.cluster, option.sizing.sharding)
        if without is not None and without.sizing.fits:
            option = without
    return option


def _has_critic(config: PipelineConfig) -> bool:
    return config.rl is not None and ROLLOUT_METHODS[config.method].has_critic


def _doubled(cluster: Cluster) -> Cluster:
    """Twice the GPUs: in the same node as long as nodes have so many."""
    if cluster.nodes == 1 and cluster.per_node < _GPUS_OF_A_NODE:
        return replace(cluster, per_node=2 * cluster.per_node)
    return replace(cluster, nodes=2 * cluster.nodes)


def _in_processes(config: PipelineConfig) -> bool:
    """Whether several processes share the policy's stage: each of its rounds learns from rollouts."""
    return all(recipe.rl is not None for recipe in config.per_round)


def _on(config: PipelineConfig, processes: int, sharding: Sharding) -> PipelineConfig:
    """The recipe on CUDA devices, one per process.

    Raises:
        ConfigError: it cannot be so.
    """
    values = json.loads(config.model_dump_json())
    values["compute"] |= _compute(processes, sharding)
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        reasons = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise ConfigError(f"{config.name} on {processes} GPUs, a process each: {reasons}") from None


def _compute(processes: int, sharding: Sharding) -> dict[str, Any]:
    return {"device": "cuda", "num_processes": processes, "sharding": sharding}
