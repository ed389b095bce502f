"""Peak memory of a stage, from its settings, the model's shape and the data: bytes, added up role by role.

What training holds for each weight: 4 bytes for the weight, 4 for its gradient, 8 for AdamW's two moments; mixed
precision adds 2 for the copy that products read. The activations of a block are those of Korthikanti et al.
(2205.05198, section 4), less what this project's layers do not keep. `python -m benchmarks.plan` holds it against runs.

Shapes: B rows at once, T tokens of the longest row, R of them of a response, V vocabulary.
"""

from collections.abc import Callable, Mapping

from rlhf.config.model import ComputeConfig
from rlhf.config.offline import OfflineConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.config.supervised import TrainingSection
from rlhf.planning.shape import ModelShape, Workload

GB = 1e9
Parts = dict[str, float]
"""Bytes by what they are for."""

_WEIGHT, _GRADIENT, _MOMENTS, _CAST = 4, 4, 8, 2
_SAMPLED = 28
"""Bytes of a logit that is sampled from: fp32 with its softmax, and the softmax and its sums in fp64."""
_SFT_LOGIT, _RL_LOGIT = 16, 8
"""Bytes of a logit in training: itself and its gradient in fp32, and in transformers' own loss two copies of them."""
_DATA_ROW = 2_500
"""Bytes of a row of data, as text and as token ids in Python."""
_PROCESS = {
    "cpu": {
        "data": 520e6,
        "sft": 715e6,
        "reward_model": 725e6,
        "reward_audit": 775e6,
        "policy": 775e6,
        "evaluation": 775e6,
    },
    "cuda": dict.fromkeys(("data", "sft", "reward_model", "reward_audit", "policy", "evaluation"), 600e6),
}
"""Bytes of a process without a model: libraries, and on a CUDA device its context (a guess)."""
_KERNELS = {"sft": 140e6, "reward_model": 320e6, "reward_audit": 235e6, "policy": 260e6, "evaluation": 340e6}
"""Bytes of what oneDNN has made by then for products of rows of many lengths, and of holes in the heap."""
_LEAST_FP32_WEIGHTS = 2**14
"""Of a layer that oneDNN multiplies in fp32 (`rlhf.modeling.cpu.onednn`)."""
_SLACK = 1.2
"""What comes and goes does not fill all memory that it leaves behind."""


def peak_memory(config: PipelineConfig, shape: ModelShape, work: Workload) -> dict[str, Parts]:
    """Bytes of each stage at its peak, by what they are for; of the device that computes.

    Args:
        config: the recipe.
        shape: of the model that it starts from.
        work: its data.
    """
    processes = config.compute.num_processes
    is_sharded = config.compute.sharding != "none"
    peaks = memory_per_process(config, shape, work, processes if is_sharded else 1)
    if config.compute.device == "cpu" and processes > 1:
        policy = peaks["policy"]
        beside = (processes - 1) * sum(policy.values()) + policy["process"]
        peaks["policy"] = policy | {"further processes": beside}
    return peaks


def memory_per_process(config: PipelineConfig, shape: ModelShape, work: Workload, shards: int = 1) -> dict[str, Parts]:
    """Bytes of a process of each stage at its peak, by what they are for. The policy's stage alone has several.

    Args:
        config: the recipe.
        shape: of the model that it starts from.
        work: its data.
        shards: processes over which the weights of all models of the policy's stage are spread, with gradients and
            optimizer; 1: each process holds all of them.

    Source:
        The layers that are gathered for a pass, and let go after it: FSDP2, `torch.distributed.fsdp.fully_shard`.
    """
    device = config.compute.device
    stages: Mapping[str, Callable[[PipelineConfig, ModelShape, Workload], Parts]] = {
        "data": _data,
        "sft": _sft,
        "reward_model": _reward_models,
        "reward_audit": _audit,
        "policy": lambda config, shape, work: _larger(
            *(_policy(recipe, shape, work, shards) for recipe in config.per_round)
        ),
        "evaluation": _evaluation,
    }
    peaks = {}
    for stage, memory in stages.items():
        parts = memory(config, shape, work) | {"process": _PROCESS[device][stage]}
        if device == "cpu" and (config.compute.dtype == "bf16" or shape.hidden_size**2 >= _LEAST_FP32_WEIGHTS):
            parts["kernels"] = _KERNELS.get(stage, 0.0)
        peaks[stage] = parts
    return peaks


def _data(config: PipelineConfig, shape: ModelShape, work: Workload) -> Parts:
    parts = {"rows": float(_DATA_ROW * work.rows)}
    if config.data.sampled_from is None:
        return parts
    return parts | _sampling(config, shape, 288, work)


def _sft(config: PipelineConfig, shape: ModelShape, work: Workload) -> Parts:
    section = config.sft
    tokens = (section.micro_batch_size or section.batch_size) * work.longest
    passes = {
        "activations": _SLACK * tokens * kept_bytes(shape, work.longest, config.compute),
        "logits": _SLACK * tokens * shape.vocab_size * _SFT_LOGIT,
    }
    return _trained(section, shape, config.compute, passes) | {"rows": float(_DATA_ROW * work.demonstrations)}


def _reward_models(config: PipelineConfig, shape: ModelShape, work: Workload) -> Parts:
    section = config.reward_model
    tokens = 2 * (section.micro_batch_size or section.batch_size) * work.longest
    passes = {"activations": _SLACK * tokens * kept_bytes(shape, work.longest, config.compute)}
    rows = 2 * (work.preferences + work.selection_preferences)
    return _trained(section, shape, config.compute, passes) | {"rows": float(_DATA_ROW * rows)}


def _audit(config: PipelineConfig, shape: ModelShape, work: Workload) -> Parts:
    return {
        "weights": float((_WEIGHT + _CAST) * shape.parameters),
        "activations": _SLACK * _passing(config.reward_audit.batch_size, shape, work.longest, config.compute),
        "rows": float(_DATA_ROW * 2 * work.test_preferences),
    }


def _policy(config: PipelineConfig, shape: ModelShape, work: Workload, shards: int) -> Parts:
    if config.rl is not None:
        return _larger(*rollout_moments(config, config.rl, shape, work, shards).values())
    section, compute = config.policy, config.compute
    assert isinstance(section, OfflineConfig), "the other sections' settings"
    frozen = frozen_bytes(shape, compute)
    tokens = rows_of_one(config) * section.rows_per_pass * work.longest
    passes = {
        "activations": _SLACK * tokens * kept_bytes(shape, work.longest, compute),
        "logits": _SLACK * tokens * shape.vocab_size * _SFT_LOGIT,
    }
    sampled = min(section.num_validation_prompts, work.validation_prompts)
    largest = _larger(passes, _sampling(config, shape, sampled, work))
    num_reward_models = 1 + sum(source.kind != "function" for source in section.rewards)
    others = {"reference": float(frozen), "reward models": float(num_reward_models * frozen)}
    return _trained(section, shape, compute, largest) | others


def rows_of_one(config: PipelineConfig) -> int:
    """Responses that a row of a method's data has: two of a pair."""
    return 2 if config.method in ("dpo", "ipo", "simpo") else 1


def frozen_bytes(shape: ModelShape, compute: ComputeConfig) -> int:
    """Bytes of a model that does not learn."""
    if compute.dtype == "bf16":
        return _CAST * shape.products + _WEIGHT * shape.embeddings
    return _WEIGHT * shape.parameters


def rollout_moments(
    config: PipelineConfig, rl: RLConfig, shape: ModelShape, work: Workload, shards: int
) -> dict[str, Parts]:
    """Bytes that a process holds as it samples, learns from a rollout and saves the policy, by what they are for.

    Args:
        config: the recipe, of one round.
        rl: its settings of rollouts.
        shape: of the model.
        work: its data.
        shards: as `memory_per_process` has them.
    """
    compute = config.compute
    share = rl.minibatch_size // compute.num_processes
    rows, longest = min(rl.micro_batch_size or share, share), _longest(config, work)
    at_a_time = 2 if rl.side_by_side else 1
    held = {name: size / shards for name, size in _models(config, rl, shape).items()}
    sampled = max(rl.rollout_size, min(rl.num_validation_prompts, work.validation_prompts)) // compute.num_processes
    sampling = _sampling(config, shape, sampled, work, rows)
    training = {
        "activations": _SLACK * at_a_time * rows * longest * kept_bytes(shape, longest, compute),
        "logits": _SLACK * rows * rl.max_response_tokens * shape.vocab_size * _RL_LOGIT,
    }
    if shards > 1:
        sampling |= {
            "gathered policy": _gathered_policy(rl, shape, compute),
            "casts": _policy_casts(rl, shape, compute),
        }
        training |= {"gathered blocks": _gathered_blocks(rl, shape, compute), "gradients": held.pop("gradients")}
        training |= {"casts": _policy_casts(rl, shape, compute)}
    else:
        held["casts"] = at_a_time * _policy_casts(rl, shape, compute)
    moments = {"sampling": sampling, "training": training, "saving": _saving(rl, shape, compute, shards)}
    return {moment: held | parts for moment, parts in moments.items()}


def _models(config: PipelineConfig, rl: RLConfig, shape: ModelShape) -> Parts:
    """Weights by their role, gradients and AdamW's moments."""
    frozen = float(frozen_bytes(shape, config.compute))
    num_reward_models = 1 + sum(source.kind != "function" for source in rl.rewards)
    has_value_model = ROLLOUT_METHODS[config.method].has_critic and rl.sharing != "trunk"
    if rl.sharing == "adapters":
        assert rl.lora is not None, "the configuration asks for it"
        adapters = shape.adapters(rl.lora.rank)
        learned = (2 if has_value_model else 1) * adapters
        return {
            "backbone": frozen,
            "adapters that learn": float(_WEIGHT * learned),
            "adapters of reward models": float(_WEIGHT * num_reward_models * adapters),
            "gradients": float(_GRADIENT * learned),
            "optimizer": float(_MOMENTS * learned),
        }
    trained = shape.adapters(rl.lora.rank) if rl.lora else shape.parameters
    of_value = shape.parameters if has_value_model else 0
    return {
        "policy": float(_WEIGHT * (shape.parameters + (trained if rl.lora else 0))),
        "value model": float(_WEIGHT * of_value),
        "optimizer": float(_MOMENTS * (trained + of_value)),
        # The two models take turns, unless they work side by side.
        "gradients": float(_GRADIENT * max(trained, of_value) * (2 if rl.side_by_side else 1)),
        "reference": frozen,
        "reward models": num_reward_models * frozen,
    }


def _policy_casts(rl: RLConfig, shape: ModelShape, compute: ComputeConfig) -> float:
    """Rounded weights, which a pass keeps for its backward pass, gathered layers or not; a backbone is rounded once."""
    return 0.0 if rl.sharing == "adapters" else _casts(shape, compute)


def _gathered_policy(rl: RLConfig, shape: ModelShape, compute: ComputeConfig) -> float:
    """A sharded policy as it samples: gathered once, since decoding calls each layer at every token."""
    return float(frozen_bytes(shape, compute) if rl.sharing == "adapters" else _WEIGHT * shape.parameters)


def _gathered_blocks(rl: RLConfig, shape: ModelShape, compute: ComputeConfig) -> float:
    """What of a sharded model a pass holds whole: what is around the blocks, a block, the next one, and a buffer.

    Gradients of what is around them and of one block are whole before they are summed and spread. In the heap of a CPU
    activations fill the room that a block leaves, so that the next one needs other room, and in the end all of them do.
    """
    if compute.device == "cpu":
        return _gathered_policy(rl, shape, compute) + (0.0 if rl.lora else _GRADIENT * shape.parameters)
    block = shape.products / max(1, shape.num_layers)
    if rl.sharing == "adapters":
        return 3 * block * _CAST + _WEIGHT * shape.head
    gradients = 0.0 if rl.lora else _GRADIENT * (shape.embeddings + block)
    return _WEIGHT * (shape.embeddings + 2 * block + max(shape.embeddings, block)) + gradients


def _saving(rl: RLConfig, shape: ModelShape, compute: ComputeConfig, shards: int) -> Parts:
    """The best policy as it is saved: a plain copy, unless the policy is one itself."""
    if shards == 1 and rl.lora is None:
        return {}
    whole = {"gathered policy": _gathered_policy(rl, shape, compute)} if shards > 1 else {}
    return whole | {"copy that is saved": float(_WEIGHT * shape.parameters)}


def _evaluation(config: PipelineConfig, shape: ModelShape, work: Workload) -> Parts:
    rows = min(config.evaluation.batch_size, work.test_prompts)
    sampling = {"casts": _casts(shape, config.compute), **_sampling(config, shape, rows, work)}
    # The second model is loaded while the first is still there.
    return {"weights": float(_WEIGHT * shape.parameters)} | _larger(
        sampling, {"second model": float(_WEIGHT * shape.parameters)}
    )


def _trained(section: TrainingSection, shape: ModelShape, compute: ComputeConfig, passes: Parts) -> Parts:
    """A model that learns alone; one with adapters is merged into a copy in the end."""
    learned = shape.parameters if section.lora is None else shape.adapters(section.lora.rank)
    frozen = 0 if section.lora is None else shape.parameters
    training = {"casts": _casts(shape, compute), **passes}
    merging = {"merged copy": float(_WEIGHT * frozen)}
    return {
        "weights": float(_WEIGHT * (frozen + learned)),
        "gradients": float(_GRADIENT * learned),
        "optimizer": float(_MOMENTS * learned),
        **_larger(training, merging),
    }


def _larger(*alternatives: Parts) -> Parts:
    """What takes the most, of parts that are not held at the same time."""
    return max(alternatives, key=lambda parts: sum(parts.values()))


def _casts(shape: ModelShape, compute: ComputeConfig) -> float:
    return float(_CAST * shape.products) if compute.dtype == "bf16" else 0.0


def kept_bytes(shape: ModelShape, longest: int, compute: ComputeConfig) -> float:
    """Bytes that a token's forward pass keeps for the backward pass, all blocks together."""
    width, inner = shape.hidden_size, shape.feed_forward_size
    # On a CUDA device attention's probabilities are computed again.
    numbers = 12 * width + 3 * inner + (shape.num_heads * longest if compute.device == "cpu" else 0)
    return shape.num_layers * numbers * (2 if compute.dtype == "bf16" else 4)


def _passing(rows: int, shape: ModelShape, longest: int, compute: ComputeConfig) -> float:
    """Bytes of a forward pass that keeps nothing: those of one block at a time."""
    return rows * longest * kept_bytes(shape, longest, compute) / max(1, shape.num_layers)


def _sampling(
    config: PipelineConfig, shape: ModelShape, rows: int, work: Workload, prompts_at_once: int | None = None
) -> Parts:
    """Rows that are decoded together: keys and values of every token so far, and one distribution a row."""
    number = 2 if config.compute.dtype == "bf16" else 4
    cache = rows * _longest(config, work) * shape.num_layers * 2 * shape.key_value_size * number
    return {
        "keys and values": _SLACK * cache,
        "logits": _SLACK * rows * shape.vocab_size * _SAMPLED,
        "activations": _SLACK * _passing(prompts_at_once or rows, shape, work.longest_prompt, config.compute),
    }


def _longest(config: PipelineConfig, work: Workload) -> int:
    """Tokens of the longest prompt with the longest response that may be sampled."""
    return min(config.model.max_length, work.longest_prompt + config.policy.max_response_tokens)
