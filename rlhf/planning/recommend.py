"""Settings of a recipe for a person's own data, model and machine, each with the reason for its value."""

import math
from dataclasses import dataclass
from typing import Any

from rlhf.config.data import DataConfig
from rlhf.errors import InputError
from rlhf.planning.survey import DataSurvey, Machine, ModelSurvey

_GB = 1e9
# fp32 bytes for each parameter: weight, gradient and AdamW's two moments of policy and value model, and the weights of
# reference and two reward models.
_FULL_BYTES = 2 * 16 + 3 * 4
# One frozen backbone, and adapters of a few percent of it with all that their training needs.
_ADAPTER_BYTES = 4 + 2
_WEIGHTS_SHARE, _ACTIVATIONS_SHARE = 0.6, 0.25
"""Of the memory."""
_REFERENCE = 1e6
"""Parameters at which the demo's learning rates were tuned."""
_EXPONENT = -0.52
"""From the demo's 1e-3 at 1M parameters to the 1e-5 that InstructGPT and Llama 2 used at 6 and 7 billion."""
_LORA_FACTOR = 10.0
"""LoRA wants about ten times the rate of full weights (Schulman et al., LoRA Without Regret, 2025)."""
_FLOPS = {"cpu": 2e11, "cuda": 1e14}
"""Of a thread and of a device, for `hours`: of the CPU from benchmarks/README.md, halved; a guess for CUDA."""
_ROLLOUT, _EPOCHS, _MINIBATCHES, _UPDATES = 128, 2, 4, 50
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
    lora = _needs_lora(model, machine)
    response, why_response, length, why_length = _lengths(data, model)
    rows = _rows_at_once(model, machine, length)
    batch = 32 if data.num_demonstrations >= 640 else 8
    small = data.num_demonstrations < 1000
    rate = _rate(1e-3, model, lora)
    adapters = {"rank": 32, "alpha": 64} if lora else None
    updates, why_updates = _updates(data, model, machine, response, hours)
    test_fraction, prompts = _test_prompts(data)
    by_size = f"for {model.parameters:,} parameters{' and LoRA' if lora else ''}"
    choices = [
        Choice("model.base", model.base),
        Choice("model.max_length", length, why_length),
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
        Choice("rl.num_updates", updates, why_updates),
        Choice("rl.rollout_size", _ROLLOUT, "responses sampled per update"),
        Choice("rl.num_ppo_epochs", _EPOCHS),
        Choice("rl.num_minibatches", _MINIBATCHES),
        Choice("rl.micro_batch_size", min(_ROLLOUT // _MINIBATCHES, rows)),
        Choice("rl.max_response_tokens", response, why_response),
        Choice("rl.learning_rate", _rate(1.5e-4, model, lora), by_size),
        Choice("rl.value_learning_rate", _rate(3e-4, model, lora)),
        Choice("rl.kl_coef", 0.05, "larger keeps the policy nearer to the SFT policy"),
        Choice("rl.num_validation_prompts", 256),
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


def needed_memory(model: ModelSurvey, *, lora: bool) -> float:
    """Bytes that the weights of PPO's models take, with gradients and moments; activations come on top."""
    return model.parameters * float(_ADAPTER_BYTES if lora else _FULL_BYTES)


def discernible_win_rate(prompts: int) -> float | None:
    """The win rate whose 95% interval begins at one half, with this number of prompts; None where there is none."""
    half_width = 1.96 * 0.5 / math.sqrt(max(prompts, 1))
    return None if half_width >= 0.5 else 0.5 + half_width


def _needs_lora(model: ModelSurvey, machine: Machine) -> bool:
    room = _WEIGHTS_SHARE * machine.memory
    if needed_memory(model, lora=False) <= room:
        return False
    least = needed_memory(model, lora=True)
    if least > room:
        raise InputError(
            f"{model.base}: {model.parameters:,} parameters do not fit: with LoRA adapters over one backbone they take "
            f"{least / _GB:.0f} GB beside activations, and this machine has {machine.memory / _GB:.0f} GB "
            f"({machine.device}); take a base of at most {int(room / _ADAPTER_BYTES):,} parameters, or a larger machine"
        )
    return True


def _lengths(data: DataSurvey, model: ModelSurvey) -> tuple[int, str, int, str]:
    """Tokens of the longest response, tokens of prompt and response together, and the reason for each."""
    prompt, longest = data.prompt_tokens
    response = _up(data.response_tokens[1], 8)
    length = _up(longest + response, 16)
    of_prompts = f"one prompt in a hundred has {longest} tokens or more"
    if model.context is None or length <= model.context:
        return response, "19 responses of 20 in the data are no longer", length, f"room for the response; {of_prompts}"
    why_length = f"all that the base reads; {of_prompts}"
    if response <= model.context // 2:
        return response, "19 responses of 20 in the data are no longer", model.context, why_length
    response = model.context // 2
    if prompt + response > model.context:
        raise InputError(
            f"{model.base} reads {model.context} tokens, and a median prompt has {prompt}; take a base with a longer "
            "context, or shorter data"
        )
    why_response = f"half of what the base reads; one response in twenty has {data.response_tokens[1]} tokens or more"
    return response, why_response, model.context, why_length


def _rows_at_once(model: ModelSurvey, machine: Machine, length: int) -> int:
    """A power of two, at most 64: activations of a block are about 34 half-precision numbers a unit of width."""
    bytes_per_token = 68 * model.num_layers * model.hidden_size + 8 * model.vocab_size
    fitting = _ACTIVATIONS_SHARE * machine.memory / (bytes_per_token * length)
    return 1 << int(math.log2(min(64, max(1, fitting))))


def _rate(at_reference: float, model: ModelSurvey, lora: bool) -> float:
    scaled = at_reference * (max(model.parameters, 1) / _REFERENCE) ** _EXPONENT
    return float(f"{min(2 * at_reference, scaled * (_LORA_FACTOR if lora else 1)):.1e}")


def _updates(
    data: DataSurvey, model: ModelSurvey, machine: Machine, response: int, hours: float | None
) -> tuple[int, str]:
    if hours is None:
        return _UPDATES, "--hours N chooses it by time"
    tokens = _ROLLOUT * (data.prompt_tokens[0] + response)
    # Sampling and four scoring passes go forward alone; each epoch trains two models.
    flops = tokens * model.parameters * (2 + 4 * 2 + _EPOCHS * 2 * 6)
    speed = _FLOPS[machine.device] * (machine.num_threads if machine.device == "cpu" else 1)
    seconds = 0.2 + flops / speed
    return max(10, min(1000, int(3600 * hours / seconds))), f"{hours:g} h at about {seconds:.1f} s, an estimate"


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
