"""Settings of a recipe for a person's own data, model and machine, each with the reason for its value."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.config.data import DataConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import InputError
from rlhf.planning.duration import seconds_per_update
from rlhf.planning.fit import ADAPTERS, ROOM, most_parameters, peak_of
from rlhf.planning.memory import GB
from rlhf.planning.survey import DataSurvey, Machine, ModelSurvey
from rlhf.planning.workload import expected_workload

_REFERENCE = 1e6
"""Parameters at which the demo's learning rates were tuned."""
_EXPONENT = -0.52
"""From the demo's 1e-3 at 1M parameters to the 1e-5 that InstructGPT and Llama 2 used at 6 and 7 billion."""
_LORA_FACTOR = 10.0
"""LoRA wants about ten times the rate of full weights (Schulman et al., LoRA Without Regret, 2025)."""
_ROLLOUT, _EPOCHS, _MINIBATCHES, _UPDATES = 128, 2, 4, 50
_WHOLE_MODELS, _ADAPTED = (64, 32, 16, 8, 4), (64, 32, 16, 8, 4, 2, 1)
"""Rows of a forward pass, without adapters and with them; with fewer, training all weights is not worth its time."""
_FEWER_RESPONSES = (64, 32, 16)
_LEAST_PROMPTS = 100
"""Test prompts with which a win rate of 60% can be told from 50%."""


@dataclass(frozen=True)
class Choice:
    """A setting.

    Attributes:
        name: dotted.
        value: as YAML has it.
        reason: why, as a comment; empty where the name says it.
    """

    name: str
    value: Any
    reason: str = ""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the longest response, of prompt and response together, and the reason for each."""

    response: int
    why_response: str
    length: int
    why_length: str


def recommend(data: DataSurvey, model: ModelSurvey, machine: Machine, hours: float | None) -> list[Choice]:
    """The settings, in the order of the recipe. The same for the same arguments.

    Args:
        data: in tokens of the base.
        model: the base.
        machine: where it is to run.
        hours: that PPO may take; None for the usual number of updates.

    Raises:
        InputError: the base does not fit the machine's memory, or its context the data.
    """
    lengths = _lengths(data, model)
    for lora, rows, rollout in _sizes():
        choices = _choices(data, model, machine, lengths, lora, rows, rollout)
        if _peak(choices, data, model) <= ROOM * machine.memory:
            return _with_updates(choices, data, model, hours)
    raise InputError(_too_large(choices, data, model, machine))


def _sizes() -> Iterator[tuple[bool, int, int]]:
    """Adapters or not, rows of a forward pass and responses of a rollout: what gives up the least comes first."""
    yield from ((False, rows, _ROLLOUT) for rows in _WHOLE_MODELS)
    yield from ((True, rows, rollout) for rollout in (_ROLLOUT, *_FEWER_RESPONSES) for rows in _ADAPTED)


def _choices(
    data: DataSurvey, model: ModelSurvey, machine: Machine, lengths: Lengths, lora: bool, rows: int, rollout: int
) -> list[Choice]:
    """The settings for one of `_sizes`."""
    batch = 32 if data.num_demonstrations >= 640 else 8
    small = data.num_demonstrations < 1000
    rate = _rate(1e-3, model, lora)
    adapters = dict(ADAPTERS) if lora else None
    test_fraction, prompts = _test_prompts(data)
    fewer = "" if rollout == _ROLLOUT else ", all at once, by memory"
    by_size = f"for {model.shape.parameters:,} parameters{' and LoRA' if lora else ''}"
    choices = [
        Choice("model.base", model.base),
        Choice("model.max_length", lengths.length, lengths.why_length),
        Choice("data.overlong", "drop", "a row whose last turn alone is longer is left out and counted"),
        Choice("data.test_fraction", test_fraction, f"{prompts} test prompts: {_tells(prompts)}"),
        Choice("compute.device", machine.device),
        Choice("compute.num_threads", machine.num_threads, "cores"),
        Choice("sft.num_epochs", 3 if small else 1, f"{data.num_demonstrations:,} demonstrations"),
        Choice("sft.batch_size", batch),
        Choice("sft.micro_batch_size", min(batch, rows), "rows at once, by memory"),
        Choice("sft.learning_rate", rate, by_size),
        *([Choice("sft.lora", adapters)] if lora else []),
        Choice("reward_model.num_epochs", 1, "more overfits: each pair is learned by heart"),
        Choice("reward_model.batch_size", batch),
        Choice("reward_model.micro_batch_size", min(batch, max(1, rows // 2)), "pairs at once"),
        Choice("reward_model.learning_rate", rate, by_size),
        *([Choice("reward_model.lora", adapters)] if lora else []),
        Choice("reward_audit.batch_size", rows),
        Choice("rl.num_updates", _UPDATES, "--hours N chooses it by time"),
        Choice("rl.rollout_size", rollout, f"responses sampled per update{fewer}"),
        Choice("rl.num_ppo_epochs", _EPOCHS),
        Choice("rl.num_minibatches", _MINIBATCHES),
        Choice("rl.micro_batch_size", min(rollout // _MINIBATCHES, rows)),
        Choice("rl.max_response_tokens", lengths.response, lengths.why_response),
        Choice("rl.learning_rate", _rate(1.5e-4, model, lora), by_size),
        Choice("rl.value_learning_rate", _rate(3e-4, model, lora)),
        Choice("rl.kl_coef", 0.05, "larger keeps the policy nearer to the SFT policy"),
        Choice("rl.num_validation_prompts", 256 if rollout == _ROLLOUT else rollout),
    ]
    if lora:
        choices += [
            Choice("rl.lora", adapters),
            Choice("rl.sharing", "adapters", "one backbone for all models: four whole ones do not fit"),
        ]
    return [
        *choices,
        Choice("evaluation.num_prompts", 1024, "or as many as there are"),
        Choice("evaluation.batch_size", rows),
    ]


def discernible_win_rate(prompts: int) -> float | None:
    """The win rate whose 95% interval begins at one half, with this number of prompts; None where there is none."""
    half_width = 1.96 * 0.5 / math.sqrt(max(prompts, 1))
    return None if half_width >= 0.5 else 0.5 + half_width


def _recipe(choices: Sequence[Choice]) -> PipelineConfig:
    settings: dict[str, Any] = {}
    for choice in choices:
        section, _, key = choice.name.partition(".")
        settings.setdefault(section, {})[key] = choice.value
    return PipelineConfig.model_validate(settings)


def _peak(choices: Sequence[Choice], data: DataSurvey, model: ModelSurvey) -> float:
    config = _recipe(choices)
    return peak_of(config, model.shape, expected_workload(data, config)).total


def _too_large(choices: Sequence[Choice], data: DataSurvey, model: ModelSurvey, machine: Machine) -> str:
    config = _recipe(choices)
    work = expected_workload(data, config)
    peak = peak_of(config, model.shape, work)
    return (
        f"{model.base}: {model.shape.parameters:,} parameters do not fit: with LoRA adapters over one backbone and a "
        f"row at a time the stage {peak.stage} takes {peak.total / GB:.1f} GB ({peak}), and this machine has "
        f"{machine.memory / GB:.1f} GB ({machine.device}); take a base of at most "
        f"{most_parameters(config, model.shape, work, machine.memory):,} parameters, or a larger machine"
    )


def _with_updates(choices: Sequence[Choice], data: DataSurvey, model: ModelSurvey, hours: float | None) -> list[Choice]:
    """The number of updates that PPO's time allows, where it is given."""
    if hours is None:
        return list(choices)
    config = _recipe(choices)
    seconds = seconds_per_update(config, model.shape, expected_workload(data, config))
    number = max(10, min(1000, int(3600 * hours / seconds)))
    chosen = Choice("rl.num_updates", number, f"{hours:g} h at about {seconds:.1f} s, an estimate")
    return [chosen if choice.name == chosen.name else choice for choice in choices]


def _lengths(data: DataSurvey, model: ModelSurvey) -> Lengths:
    prompt, longest = data.prompt_tokens
    response = _up(data.response_tokens[1], 8)
    length = _up(longest + response, 16)
    of_prompts = f"one prompt in a hundred has {longest} tokens or more"
    of_data = "19 responses of 20 in the data are no longer"
    if model.context is None or length <= model.context:
        return Lengths(response, of_data, length, f"room for the response; {of_prompts}")
    why_length = f"all that the base reads; {of_prompts}"
    if response <= model.context // 2:
        return Lengths(response, of_data, model.context, why_length)
    response = model.context // 2
    if prompt + response > model.context:
        raise InputError(
            f"{model.base} reads {model.context} tokens, and a median prompt has {prompt}; take a base with a longer "
            "context, or shorter data"
        )
    why_response = f"half of what the base reads; one response in twenty has {data.response_tokens[1]} tokens or more"
    return Lengths(response, why_response, model.context, why_length)


def _rate(at_reference: float, model: ModelSurvey, lora: bool) -> float:
    scaled = at_reference * (max(model.shape.parameters, 1) / _REFERENCE) ** _EXPONENT
    return float(f"{min(2 * at_reference, scaled * (_LORA_FACTOR if lora else 1)):.1e}")


def _test_prompts(data: DataSurvey) -> tuple[float, int]:
    """Share of test prompts, and how many of them reports use; more where there would be too few to tell anything."""
    reported = 1 - DataConfig().gate_fraction
    default = DataConfig().test_fraction
    share = min(0.2, max(default, _LEAST_PROMPTS / (reported * max(data.num_prompts, 1))))
    share = math.ceil(100 * share) / 100
    return share, int(share * reported * data.num_prompts)


def _tells(prompts: int) -> str:
    rate = discernible_win_rate(prompts)
    return "too few to tell anything" if rate is None else f"a win rate above {rate:.0%} can be told from 50%"


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
