"""Times TRL 1.12.0's PPOTrainer, the last PPO that TRL released, on saved models.

Runs in an environment of its own, made by `benchmarks.peer_environment`:

    .bench/peer/bin/python -m benchmarks.peer_ppo --policy DIR --reward DIR --prompts FILE.jsonl --out result.json

`train()` alone is timed. The trainer's own functions are watched from outside and left as they are. It trains in fp32
with one optimizer step a PPO epoch, whatever it is asked for, and clips no gradients.
"""

import argparse
import contextlib
import gc
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.arguments import Settings, add_flags, read_prompts, settings_of, snapshot_due
from benchmarks.measure import PhaseClock, peak_rss_mb, summarize_lengths, versions, write_result


class Progress(TrainerCallback):  # type: ignore[misc]
    """Notes when each update was done, and saves the policy where that is asked for."""

    def __init__(self, settings: Settings, clock: PhaseClock, tokenizer: Any, folder: Path | None) -> None:
        self.settings, self.clock, self.tokenizer, self.folder = settings, clock, tokenizer, folder
        self.update_seconds: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.update_seconds.append(round(self.clock.elapsed(), 3))
        done = len(self.update_seconds)
        if self.folder is not None and snapshot_due(self.settings, done):
            with self.clock.pause():
                target = self.folder / f"update_{done:04d}"
                model.policy.save_pretrained(target)
                self.tokenizer.save_pretrained(target)


def make_trainer(parsed: argparse.Namespace, settings: Settings, tokenizer: Any) -> Any:
    """The trainer on four models: policy, its copy as the reference, reward model, value model."""

    def policy() -> Any:
        return AutoModelForCausalLM.from_pretrained(parsed.policy, dtype=torch.float32)

    def scorer(folder: Path) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)

    prompts = Dataset.from_list([{"input_ids": ids} for ids in read_prompts(parsed.prompts)])
    return PPOTrainer(
        args=_config(settings),
        processing_class=tokenizer,
        model=policy(),
        ref_model=policy(),
        reward_model=scorer(parsed.reward),
        value_model=scorer(parsed.value or parsed.reward),
        train_dataset=prompts,
        eval_dataset=prompts.select(range(min(8, len(prompts)))),
    )


def _config(settings: Settings) -> Any:
    return PPOConfig(
        output_dir=tempfile.mkdtemp(prefix="bench_peer_"),
        total_episodes=settings.episodes,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.rollout // settings.micro_batch,
        local_rollout_forward_batch_size=64,
        num_ppo_epochs=settings.ppo_epochs,
        num_mini_batches=1,
        response_length=settings.response_tokens,
        temperature=settings.temperature,
        learning_rate=settings.learning_rate,
        adam_epsilon=1e-5,  # as ours
        kl_coef=settings.kl_coef,
        stop_token="eos" if settings.ends else None,
        missing_eos_penalty=settings.missing_eos_penalty or None,
        seed=settings.seed,
        use_cpu=settings.device == "cpu",
        gradient_checkpointing=False,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def watch(trainer: Any, clock: PhaseClock) -> list[torch.Tensor]:
    """Count the trainer's phases; returns the list in which it leaves each rollout's responses."""
    rollouts: list[torch.Tensor] = []
    generate = ppo_trainer.batch_generation

    def generate_and_keep(model: Any, queries: Any, *rest: Any, **named: Any) -> Any:
        sequences, logits = generate(model, queries, *rest, **named)
        rollouts.append(sequences[:, queries.shape[1] :])
        return sequences, logits

    ppo_trainer.batch_generation = generate_and_keep
    clock.watch(ppo_trainer, "batch_generation", "generation")
    clock.watch(ppo_trainer, "forward", lambda *_, **__: "train_forward" if torch.is_grad_enabled() else "ref_logprobs")
    clock.watch(
        ppo_trainer, "get_reward", lambda model, *_, **__: "scores" if model is trainer.reward_model else "values"
    )
    clock.watch(trainer.accelerator, "backward", "backward")
    clock.watch(trainer.optimizer.optimizer, "step", "optimizer")
    clock.watch(gc, "collect", "gc_collect")
    return rollouts


def response_lengths(responses: torch.Tensor, eos_token_id: int | None) -> list[int]:
    """Tokens of each response up to its first EOS, which counts; all of them where nothing ends."""
    if eos_token_id is None:
        return [responses.shape[1]] * len(responses)
    return [row.index(eos_token_id) + 1 if eos_token_id in row else len(row) for row in responses.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--value", type=Path, help="folder of the value model's start; the reward model's if not given")
    parsed = parser.parse_args()
    settings = settings_of(parsed)
    torch.set_num_threads(settings.threads)
    # The trainer shuffles its minibatches with numpy and never seeds it.
    np.random.seed(settings.seed)
    tokenizer = AutoTokenizer.from_pretrained(parsed.policy, padding_side="left")
    trainer = make_trainer(parsed, settings, tokenizer)
    clock = PhaseClock(torch.cuda.synchronize if settings.device == "cuda" else lambda: None)
    progress = Progress(settings, clock, tokenizer, parsed.snapshots)
    trainer.add_callback(progress)
    rollouts, logs = watch(trainer, clock), []
    trainer.log = lambda metrics, *_, **__: logs.append(dict(metrics))
    steps: list[None] = []
    register_optimizer_step_post_hook(lambda *_: steps.append(None))

    clock.start()
    with contextlib.redirect_stdout(None):
        trainer.train()
    wall_s = clock.elapsed()
    eos_token_id = tokenizer.eos_token_id if settings.ends else None
    result = {
        "trainer": "trl 1.12.0",
        "parameters": sum(p.numel() for p in trainer.policy_model.parameters()),
        "threads": torch.get_num_threads(),
        "episodes": settings.episodes,
        "wall_s": round(wall_s, 3),
        "episodes_per_s": round(settings.episodes / wall_s, 3),
        "seconds": clock.report(wall_s),
        "update_seconds": progress.update_seconds,
        "optimizer_steps": len(steps),
        "peak_rss_mb": peak_rss_mb(),
        "response_tokens": summarize_lengths([response_lengths(rows, eos_token_id) for rows in rollouts]),
        "log": [logs[0], logs[-1]],
        "versions": versions("torch", "transformers", "trl", "accelerate", "datasets", "peft"),
    }
    if settings.device == "cuda":
        result["peak_cuda_mb"] = torch.cuda.max_memory_allocated() // 2**20
    write_result(parsed.out, result)


if __name__ == "__main__":
    main()
