"""Whether a recipe fits the memory of a machine, and which changes let it."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rlhf.config.flat import flatten
from rlhf.config.loading import settings
from rlhf.config.pipeline import PipelineConfig
from rlhf.planning.memory import GB, Parts, peak_memory
from rlhf.planning.shape import ModelShape, Workload

ROOM = 0.9
"""Share of a machine's memory that a run may take."""
ADAPTERS: Mapping[str, Any] = {"rank": 32, "alpha": 64}
MICRO_BATCHES = (8, 4, 2, 1)
_FEW_RESPONSES = 16
_NAMED_PARTS = 4


@dataclass(frozen=True)
class Peak:
    """The stage that needs the most memory.

    Attributes:
        stage: its name.
        parts: bytes by what they are for.
    """

    stage: str
    parts: Parts

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """The largest parts, in GB."""
        largest = sorted(self.parts.items(), key=lambda part: -part[1])[:_NAMED_PARTS]
        return ", ".join(f"{name} {size / GB:.1f}" for name, size in largest)


def peak_of(config: PipelineConfig, shape: ModelShape, work: Workload) -> Peak:
    """The stage of a recipe that needs the most memory."""
    return max((Peak(*stage) for stage in peak_memory(config, shape, work).items()), key=lambda peak: peak.total)


def what_would_fit(config: PipelineConfig, shape: ModelShape, work: Workload, memory: float) -> str:
    """What lets a recipe fit that does not: flags, or else the largest base.

    Args:
        config: the recipe.
        shape: of the model that it starts from.
        work: its data.
        memory: bytes of the machine.
    """
    for changes in _changes(config):
        changed = changed_recipe(config, changes)
        total = peak_of(changed, shape, work).total if changed is not None else memory
        if total <= ROOM * memory:
            return f"it takes {total / GB:.1f} GB with {as_flags(changes)}"
    return f"take a base of at most {most_parameters(config, shape, work, memory):,} parameters, or a larger machine"


def most_parameters(config: PipelineConfig, shape: ModelShape, work: Workload, memory: float) -> int:
    """Parameters of the largest model of this kind that fits as adapters over one backbone, a row at a time."""
    peak = peak_of(changed_recipe(config, smallest(config)) or config, shape, work)
    fixed = sum(peak.parts.get(name, 0.0) for name in ("process", "kernels", "rows"))
    return max(0, int(shape.parameters * (ROOM * memory - fixed) / (peak.total - fixed)))


def _changes(config: PipelineConfig) -> Iterator[dict[str, Any]]:
    """In the order in which they cost the least: time first, then what is trained."""
    for rows in MICRO_BATCHES:
        yield rows_at_once(config, rows)
    yield adapters(config)
    for rows in MICRO_BATCHES:
        yield adapters(config) | rows_at_once(config, rows)
    yield smallest(config)


def adapters(config: PipelineConfig) -> dict[str, Any]:
    """Adapters in place of all weights, in every stage that trains, over one backbone where the method samples."""
    lora = {f"{section}.lora": ADAPTERS for section in ("sft", "reward_model", config.section)}
    if config.rl is None:
        return lora
    in_turn = {"rl.side_by_side": False} if config.rl.side_by_side else {}
    return lora | {"rl.sharing": "adapters"} | in_turn


def smallest(config: PipelineConfig) -> dict[str, Any]:
    """Adapters, a row at a time, and few responses that are sampled together."""
    rl = config.rl
    if rl is None:
        return adapters(config) | rows_at_once(config, 1)
    responses = math.lcm(rl.num_minibatches, rl.num_responses_per_prompt)
    sampled = min(rl.rollout_size, -(-_FEW_RESPONSES // responses) * responses)
    few = {"rl.rollout_size": sampled, "rl.num_validation_prompts": min(sampled, rl.num_validation_prompts)}
    return adapters(config) | rows_at_once(config, 1) | few


def rows_at_once(config: PipelineConfig, rows: int) -> dict[str, Any]:
    """Rows of each forward pass, where the recipe has more."""
    now = {
        "sft.micro_batch_size": config.sft.micro_batch_size or config.sft.batch_size,
        "reward_model.micro_batch_size": config.reward_model.micro_batch_size or config.reward_model.batch_size,
        "reward_audit.batch_size": config.reward_audit.batch_size,
        f"{config.section}.micro_batch_size": config.policy.rows_per_pass,
        "evaluation.batch_size": config.evaluation.batch_size,
    }
    return {name: rows for name, number in now.items() if number > rows}


def changed_recipe(config: PipelineConfig, changes: Mapping[str, Any]) -> PipelineConfig | None:
    """The recipe with other settings; None where it cannot be so."""
    changed = json.loads(config.model_dump_json())
    for name, value in changes.items():
        section, _, key = name.partition(".")
        changed[section][key] = value
    try:
        return PipelineConfig.model_validate(changed)
    except ValidationError:
        return None


def as_flags(changes: Mapping[str, Any]) -> str:
    """Changed settings as they are typed."""
    values = flatten(changes)
    return " ".join(f"{settings()[name].flag} {json.dumps(value).strip(chr(34))}" for name, value in values.items())
