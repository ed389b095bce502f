"""Times TRL's own RLOOTrainer and GRPOTrainer, of the locked version, on saved models.

    python -m benchmarks.peer_groups --method rloo --policy DIR --reward DIR --prompts FILE.jsonl --out result.json

`train()` alone is timed. The trainer's own functions are watched from outside and left as they are. It is given what
makes it fastest here: one step of a whole rollout, sampled in one batch.
"""

import argparse
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig as PeftLora
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from benchmarks.arguments import Settings, add_flags, read_prompts, settings_of
from benchmarks.measure import PhaseClock, peak_rss_mb, summarize_lengths, versions, write_result
from rlhf.config.model import LoraConfig

_TRAINERS = {"rloo": (RLOOConfig, RLOOTrainer, {}), "grpo": (GRPOConfig, GRPOTrainer, {"loss_type": "grpo"})}


class Progress(TrainerCallback):  # type: ignore[misc]
    """Notes when each update was done."""

    def __init__(self, clock: PhaseClock) -> None:
        self.clock = clock
        self.update_seconds: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.update_seconds.append(round(self.clock.elapsed(), 3))


def make_trainer(parsed: argparse.Namespace, settings: Settings, tokenizer: Any) -> Any:
    """The trainer on policy, reference (its copy, or the policy without adapters) and reward model.

    Raises:
        ValueError: the tokens of a prompt are lost in its text, which is what the trainer takes.
    """
    config_class, trainer_class, own = _TRAINERS[parsed.method]
    ids = read_prompts(parsed.prompts)
    texts = tokenizer.batch_decode(ids)
    if tokenizer(texts)["input_ids"] != ids:
        raise ValueError(f"{parsed.prompts}: a prompt's text has other tokens than the prompt")
    args = config_class(
        output_dir=tempfile.mkdtemp(prefix="bench_peer_"),
        max_steps=settings.num_updates * settings.ppo_epochs,
        num_iterations=settings.ppo_epochs,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.rollout // settings.micro_batch,
        num_generations=settings.num_responses,
        max_completion_length=settings.response_tokens,
        temperature=settings.temperature,
        learning_rate=settings.learning_rate,
        adam_epsilon=1e-5,  # as ours
        beta=settings.kl_coef,
        seed=settings.seed,
        use_cpu=settings.device == "cpu",
        bf16=parsed.dtype == "bf16",
        model_init_kwargs={"dtype": "float32"},
        gradient_checkpointing=False,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        **own,
    )
    lora = LoraConfig()
    adapters = PeftLora(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return trainer_class(
        model=str(parsed.policy),
        reward_funcs=str(parsed.reward),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": texts}),
        processing_class=tokenizer,
        reward_processing_classes=tokenizer,
        peft_config=adapters if parsed.adapters else None,
    )


def watch(trainer: Any, clock: PhaseClock) -> list[list[int]]:
    """Count the trainer's phases; returns the list in which it leaves the lengths of each rollout's responses."""
    rollouts: list[list[int]] = []
    generate = trainer._generate_single_turn

    def generate_and_keep(*arguments: Any, **named: Any) -> Any:
        made = generate(*arguments, **named)
        responses = made[0] if isinstance(made, tuple) else made
        rollouts.append([len(ids) for ids in responses])
        return made

    trainer._generate_single_turn = generate_and_keep
    clock.watch(trainer, "_generate_single_turn", "generation")
    logprobs = "_get_per_token_logps_and_entropies"
    clock.watch(trainer, logprobs, lambda *_, **__: "train_forward" if torch.is_grad_enabled() else "logprobs")
    clock.watch(trainer, "_calculate_rewards", "scores")
    clock.watch(trainer.accelerator, "backward", "backward")
    return rollouts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--method", choices=sorted(_TRAINERS), required=True)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--adapters", action="store_true", help="LoRA of the policy, whose reference is its backbone")
    parsed = parser.parse_args()
    settings = settings_of(parsed)
    torch.set_num_threads(settings.threads)
    tokenizer = AutoTokenizer.from_pretrained(parsed.policy, padding_side="left")
    trainer = make_trainer(parsed, settings, tokenizer)
    clock = PhaseClock(torch.cuda.synchronize if settings.device == "cuda" else lambda: None)
    progress = Progress(clock)
    trainer.add_callback(progress)
    rollouts = watch(trainer, clock)
    steps: list[None] = []
    register_optimizer_step_post_hook(lambda *_: steps.append(None))

    clock.start()
    trainer.train()
    wall_s = clock.elapsed()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    result = {
        "trainer": f"trl {versions('trl')['trl']} {parsed.method}",
        "dtype": parsed.dtype,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "threads": torch.get_num_threads(),
        "episodes": settings.episodes,
        "wall_s": round(wall_s, 3),
        "episodes_per_s": round(settings.episodes / wall_s, 3),
        "seconds": clock.report(wall_s),
        "update_seconds": progress.update_seconds,
        "optimizer_steps": len(steps),
        "peak_rss_mb": peak_rss_mb(),
        "response_tokens": summarize_lengths(rollouts),
        "log": [logs[0], logs[-1]],
        "versions": versions("torch", "transformers", "trl", "accelerate", "datasets", "peft"),
    }
    if settings.device == "cuda":
        result["peak_cuda_mb"] = torch.cuda.max_memory_allocated() // 2**20
    write_result(parsed.out, result)


if __name__ == "__main__":
    main()
