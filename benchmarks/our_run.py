"""Times one run of this project's PPO, RLOO or GRPO on saved models, with the flags and the measures of its peers.

    python -m benchmarks.our_run --policy DIR --reward DIR --prompts FILE.jsonl --out result.json

The loop over updates alone is timed. The library's functions are watched from outside and left as they are.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.arguments import Settings, add_flags, read_prompts, settings_of, snapshot_due
from benchmarks.measure import PhaseClock, peak_rss_mb, summarize_lengths, versions, write_result
from rlhf.config.model import ComputeConfig, LoraConfig, ModelConfig, Setup
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig, rollout_error
from rlhf.errors import ConfigError
from rlhf.modeling.context import start_stage
from rlhf.modeling.models import save_model
from rlhf.policy import sampling
from rlhf.policy.context import Prompts
from rlhf.rl import optimization as updates
from rlhf.rl import rollout as rollouts
from rlhf.rl.context import RLContext, make_context
from rlhf.rl.models import load_models
from rlhf.rl.update import run_update


def rl_config(settings: Settings, method: str, sharing: str, side_by_side: bool) -> RLConfig:
    """The settings in the project's own terms: one learning rate for both models, one minibatch, no warm-up."""
    critic = {"value_learning_rate": settings.learning_rate, "num_critic_warmup_updates": 0}
    return RLConfig.model_validate(
        (critic if ROLLOUT_METHODS[method].has_critic else {})
        | {
            "num_updates": settings.num_updates,
            "rollout_size": settings.rollout,
            "num_ppo_epochs": settings.ppo_epochs,
            "num_minibatches": 1,
            "micro_batch_size": settings.micro_batch,
            "max_response_tokens": settings.response_tokens,
            "temperature": settings.temperature,
            "learning_rate": settings.learning_rate,
            "learning_rate_schedule": "linear",
            "num_responses_per_prompt": settings.num_responses,
            "kl_coef": settings.kl_coef,
            "missing_eos_penalty": settings.missing_eos_penalty,
            "sharing": sharing,
            "side_by_side": side_by_side,
            "lora": LoraConfig() if sharing == "adapters" else None,
        }
    )


def load(parsed: argparse.Namespace, settings: Settings, scratch: Path) -> RLContext:
    """A learner on the given models, laid out in `scratch` (as links) the way the stages leave them."""
    config = rl_config(settings, parsed.method, parsed.sharing, parsed.side_by_side)
    if reason := rollout_error(parsed.method, config):
        raise ConfigError(reason)
    compute = ComputeConfig.model_validate(
        {"device": settings.device, "dtype": parsed.dtype, "num_threads": settings.threads}
    )
    prompts = read_prompts(parsed.prompts)
    longest = max(map(len, prompts)) + settings.response_tokens
    setup = Setup(seed=settings.seed, model=ModelConfig(max_length=longest), compute=compute)
    (scratch / "reward_models").mkdir()
    (scratch / "policy").symlink_to(parsed.policy.resolve())
    for name in ("reward_model", "selection_reward_model"):
        (scratch / "reward_models" / name).symlink_to(parsed.reward.resolve())
    stage = start_stage(config, setup, scratch / "policy")
    has_critic = ROLLOUT_METHODS[parsed.method].has_critic
    models = load_models(stage, scratch, scratch / "reward_models", has_critic=has_critic)
    # Held-out evaluations, which the peer has none of, are not timed, and neither is their model counted.
    models = replace(models, selection_reward_model=None)
    # The reward model reads the policy's tokens, so nobody looks at the text of a prompt.
    return make_context(stage, models, Prompts([[] for _ in prompts], prompts), method=parsed.method)


def watch(clock: PhaseClock, side_by_side: bool) -> None:
    """Count the library's phases."""
    forward = {"with_policy": "policy_logprobs", "with_values": "values", "logprobs": "ref_logprobs"}
    training = {"policy": "policy_training", "value": "value_training", "both": "policy_and_value_training"}
    clock.watch(sampling, "sample", "generation")
    clock.watch(updates, "_optimizer_step", "optimizer")
    if side_by_side:  # what goes on at the same time is counted once
        clock.watch(rollouts, "_policy_and_values", "policy_logprobs_and_values")
        clock.watch(rollouts, "_scores_and_ref_logprobs", "scores_and_ref_logprobs")
        clock.watch(updates.MinibatchLoss, "accumulate_side_by_side", "policy_and_value_training")
        return
    for module in (rollouts, sampling):
        clock.watch(module, "map_rows", lambda rows, *_, **__: forward.get(rows.__name__, "policy_logprobs_and_values"))
    clock.watch(rollouts, "score_responses", "scores")
    clock.watch(updates.MinibatchLoss, "accumulate", lambda _, losses: training[losses.__name__])


def run(
    learner: RLContext, settings: Settings, clock: PhaseClock, snapshots: Path | None, num_warmup: int = 0
) -> dict[str, Any]:
    """Take all updates, counting from `num_warmup` on; returns what was seen of them."""
    lengths: list[list[int]] = []
    update_seconds: list[float] = []
    metrics: list[dict[str, float]] = []
    for update in range(settings.num_updates):
        if update <= num_warmup:
            clock.start()
        taken = run_update(learner, update, settings.kl_coef)
        update_seconds.append(round(clock.elapsed(), 3))
        lengths.append(taken.rollout.batch.response_mask.sum(1).tolist())
        metrics.append(taken.metrics)
        if snapshots is not None and snapshot_due(settings, update + 1):
            with clock.pause():
                models = learner.models
                save_model(models.export_policy(), learner.tokenizer, snapshots / f"update_{update + 1:04d}")
    return {
        "update_seconds": update_seconds,
        "response_tokens": summarize_lengths(lengths),
        "log": [metrics[0], metrics[-1]],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--method", choices=sorted(ROLLOUT_METHODS), default="ppo")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--warmup-updates", type=int, default=0, help="first updates that are not counted at all")
    parser.add_argument("--sharing", choices=("none", "adapters", "trunk"), default="none")
    parser.add_argument("--side-by-side", action="store_true", help="policy and value model work at the same time")
    parsed = parser.parse_args(arguments)
    settings = settings_of(parsed)
    with tempfile.TemporaryDirectory(prefix="bench_ours_") as scratch:
        learner = load(parsed, settings, Path(scratch))
        clock = PhaseClock(torch.cuda.synchronize if settings.device == "cuda" else lambda: None)
        watch(clock, parsed.side_by_side)
        optimizers = learner.optimizers
        steps = {id(optimizer): 0 for optimizer in (optimizers.policy, optimizers.value) if optimizer is not None}

        def count(optimizer: Any, *_: object) -> None:
            steps[id(optimizer)] += 1

        register_optimizer_step_post_hook(count)
        seen = run(learner, settings, clock, parsed.snapshots, parsed.warmup_updates)
        wall_s = clock.elapsed()
    episodes = settings.episodes - parsed.warmup_updates * settings.rollout
    result = {
        "trainer": "rlhf",
        "method": parsed.method,
        "dtype": parsed.dtype,
        "sharing": parsed.sharing,
        "parameters": _num_parameters(parsed.policy),
        "threads": torch.get_num_threads(),
        "episodes": episodes,
        "wall_s": round(wall_s, 3),
        "episodes_per_s": round(episodes / wall_s, 3),
        "seconds": clock.report(wall_s),
        "optimizer_steps": max(steps.values()),
        "peak_rss_mb": peak_rss_mb(),
        **seen,
        "versions": versions("torch", "transformers", "peft"),
    }
    if settings.device == "cuda":
        result["peak_cuda_mb"] = torch.cuda.max_memory_allocated() // 2**20
    write_result(parsed.out, result)


def _num_parameters(folder: Path) -> int:
    """Of a saved model, read from the headers of its files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            total += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return total


if __name__ == "__main__":
    main()
