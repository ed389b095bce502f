"""Supervised fine-tuning on the completions of demonstrations, with TRL's SFTTrainer."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer
from trl import SFTConfig as TRLConfig
from trl import SFTTrainer

from rlhf.config.model import ComputeConfig, Setup
from rlhf.config.supervised import SFTConfig, policy_name
from rlhf.data.schema import Row, json_lines, read_rows
from rlhf.modeling.batches import batches_by_length, pad_sequences
from rlhf.modeling.context import StageContext, start_stage
from rlhf.modeling.conversations import decode_responses, encode_pairs, encode_prompts
from rlhf.modeling.device import derive_seed
from rlhf.modeling.generation import generate_responses
from rlhf.modeling.logprobs import chosen_logprobs, response_logits
from rlhf.modeling.lora import merged, peft_config
from rlhf.modeling.models import load_policy, save_model, start_policy
from rlhf.modeling.precision import autocast
from rlhf.progress import report_progress
from rlhf.supervised.trainer import (
    StageCallback,
    WatchedTrainer,
    refuse_divergence,
    run_trainer,
    train_once,
    trainer_settings,
    training_order,
)
from rlhf.text.markdown import escape, table
from rlhf.workspace import Workspace

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt and of its completion."""


@dataclass(frozen=True)
class HeldOut:
    """How well a policy predicts completions.

    Attributes:
        loss: nats a completion token, every token counting the same.
        token_accuracy: share of completion tokens that were the most likely one.
    """

    loss: float
    token_accuracy: float


class CompletionTrainer(WatchedTrainer, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer, with the model's own loss on a CPU."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood of the completion tokens of the whole batch, micro-batches and all.

        TRL's loss spares memory and skips the prompts on a GPU. On a CPU it scores every position, takes its entropy
        and its most likely token: an eighth of the time of a small model's step.
        """
        if self.args.device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, return_outputs, num_items_in_batch)


def train_sft(config: SFTConfig, setup: Setup, data: Path, workspace: Workspace) -> None:
    """Train the policy that reward models and PPO start from.

    Writes `policy/` to the output, `policy_2/` and so on where settings ask for several, and `samples.jsonl` and
    `samples.md` to the report.

    Args:
        config: settings of the stage.
        setup: seed, model and compute.
        data: prepared data.
        workspace: where results, checkpoints and metrics go.

    Raises:
        TrainingDivergedError: the loss or a weight is not finite.
    """
    context = start_stage(config, setup, data / "tokenizer")
    pairs = _encode(context.tokenizer, data / "demonstrations" / "train.jsonl")
    policy = _train_policy(context, "sft", pairs, data, workspace.output / "policy", workspace)
    for number in range(2, config.num_policies + 1):
        name = f"sft_{number}"
        finished = train_once(name, partial(_train_further_policy, context, name, pairs, data), workspace)
        shutil.copytree(finished / "policy", workspace.output / policy_name(number), dirs_exist_ok=True)
    if config.num_samples:
        max_response_tokens = max(len(completion) for _, completion in pairs)
        _write_samples(context, policy, max_response_tokens, data, workspace)


@torch.no_grad()
def evaluate_completions(
    policy: Any, compute: ComputeConfig, pairs: Sequence[Pair], pad_token_id: int, batch_size: int
) -> HeldOut:
    """Loss and accuracy over all completion tokens, their EOS included.

    Args:
        policy: a causal language model in evaluation mode.
        compute: device and precision.
        pairs: prompts and completions.
        pad_token_id: stands where nothing is.
        batch_size: rows per forward pass.
    """
    loss, num_right, num_tokens = 0.0, 0, 0
    for index in batches_by_length([len(prompt) + len(completion) for prompt, completion in pairs], batch_size):
        batch = pad_sequences([pairs[i][0] for i in index], [pairs[i][1] for i in index], pad_token_id, compute.device)
        with autocast(compute):
            logits = response_logits(policy, batch)
        loss -= float(chosen_logprobs(logits, batch.responses, temperature=1.0)[batch.response_mask].double().sum())
        num_right += int((logits.argmax(-1) == batch.responses)[batch.response_mask].sum())
        num_tokens += int(batch.response_mask.sum())
    return HeldOut(loss / num_tokens, num_right / num_tokens)


def _train_policy(
    context: StageContext[SFTConfig], name: str, pairs: Sequence[Pair], data: Path, folder: Path, workspace: Workspace
) -> Any:
    """Train, save and evaluate a policy, whose metrics begin with its name."""
    num_steps = _train(context, name, pairs, folder, workspace)
    policy = load_policy(folder, context.compute)
    _evaluate(context, name, policy, data, num_steps, workspace)
    return policy


def _train_further_policy(
    context: StageContext[SFTConfig], name: str, pairs: Sequence[Pair], data: Path, folder: Path, workspace: Workspace
) -> None:
    """Train a policy that differs from the first in its seed alone."""
    setup = context.setup.model_copy(update={"seed": derive_seed(context.setup.seed, name) % 2**31})
    _train_policy(replace(context, setup=setup), name, pairs, data, folder / "policy", workspace)


def _train(
    context: StageContext[SFTConfig], name: str, pairs: Sequence[Pair], folder: Path, workspace: Workspace
) -> int:
    """Train and save. Returns the number of steps."""
    config, tokenizer, dataset = context.config, context.tokenizer, _dataset(context, pairs)
    report = partial(_report, name, config.num_policies)
    curve = {"loss": f"{name}/loss", "learning_rate": f"{name}/learning_rate"}
    model = start_policy(context.setup, tokenizer)
    trainer = CompletionTrainer(
        model=model,
        args=TRLConfig(
            **trainer_settings(context, workspace.checkpoints, len(dataset), context.seed("sft")),
            dataset_kwargs={"skip_prepare_dataset": True},
            # The loss is that of the tokens alone. With another one mixtures of experts would be saved so that they
            # compute it wherever they are called.
            router_aux_loss_coef=0.0,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=peft_config(config.lora, "CAUSAL_LM", model) if config.lora else None,
        callbacks=[StageCallback(curve, workspace.log_metrics, config.checkpoint_every_seconds, report)],
    )
    num_steps = run_trainer(trainer, workspace.checkpoints)
    save_model(merged(trainer.model), tokenizer, folder)
    return num_steps


def _report(name: str, num_policies: int, done: int, total: int) -> None:
    """To those who watch, all policies are one stage, and each is as much of it."""
    number = int(name.removeprefix("sft_")) if name != "sft" else 1
    report_progress("sft", (number - 1) * total + done, num_policies * total)


def _dataset(context: StageContext[SFTConfig], pairs: Sequence[Pair]) -> Dataset:
    """Rows in the order of training, prompts masked: TRL takes rows with labels as they are."""
    lengths = [len(prompt) + len(completion) for prompt, completion in pairs]
    config, seed = context.config, context.seed("sft", "order")
    order = training_order(lengths, config.num_epochs, config.batch_size, seed)
    columns = {
        "input_ids": [prompt + completion for prompt, completion in pairs],
        "labels": [[-100] * len(prompt) + completion for prompt, completion in pairs],
    }
    return Dataset.from_dict(columns).select(order)


def _evaluate(
    context: StageContext[SFTConfig], name: str, policy: Any, data: Path, num_steps: int, workspace: Workspace
) -> None:
    pairs = _encode(context.tokenizer, data / "demonstrations" / "validation.jsonl")
    batch_size = context.config.micro_batch_size or context.config.batch_size
    held_out = evaluate_completions(policy, context.compute, pairs, context.tokenizer.pad_token_id, batch_size)
    refuse_divergence(held_out.loss, "the validation loss", num_steps, workspace.checkpoints)
    workspace.log_metrics(
        {f"{name}/validation_loss": held_out.loss, f"{name}/validation_token_accuracy": held_out.token_accuracy}, None
    )


def _encode(tokenizer: Any, path: Path) -> list[Pair]:
    rows = [row for _, row in read_rows(path, "demonstrations")]
    return encode_pairs(tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])


def _write_samples(
    context: StageContext[SFTConfig], policy: Any, max_response_tokens: int, data: Path, workspace: Workspace
) -> None:
    """Answers at temperature 1 to the first validation prompts, as long as the longest demonstration at most."""
    config, tokenizer = context.config, context.tokenizer
    rows = [row for _, row in read_rows(data / "prompts" / "validation.jsonl", "prompts")]
    chosen = [row["prompt"] for row in rows[: config.num_samples]]
    prompts = encode_prompts(tokenizer, chosen)
    room = context.setup.model.max_length - max(map(len, prompts))
    responses = generate_responses(
        policy,
        tokenizer,
        prompts,
        compute=context.compute,
        max_response_tokens=min(max_response_tokens, room),
        temperature=1.0,
        seed=context.seed("sft", "samples"),
        batch_size=config.micro_batch_size or config.batch_size,
    )
    texts = decode_responses(tokenizer, responses)
    samples = [
        {"prompt": prompt, "response": text, "ended": ids[-1:] == [tokenizer.eos_token_id]}
        for prompt, text, ids in zip(chosen, texts, responses, strict=True)
    ]
    lines = "".join(json_lines(samples))
    (workspace.report / "samples.jsonl").write_text(lines, encoding="utf-8")
    (workspace.report / "samples.md").write_text(_table(samples), encoding="utf-8")


def _table(samples: Sequence[Row]) -> str:
    rows = []
    for sample in samples:
        prompt = "<br>".join(escape(f"{message['role']}: {message['content']}") for message in sample["prompt"])
        rows.append([prompt, escape(sample["response"]), "yes" if sample["ended"] else "no"])
    return table(["Prompt", "Response", "Ended"], rows) + "\n"
