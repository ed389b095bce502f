"""Held-out evaluation during a PPO run: the evidence by which a checkpoint is chosen.

The score that PPO climbs goes up whatever happens. What counts is the selection reward model, which was trained on
other preferences: its mean score on validation prompts, less kl_coef times the KL.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf.compute import seeded
from rlhf.config import PPOConfig, Setup
from rlhf.conversations import Conversation, decode_responses
from rlhf.generation import sample, sampling_noise
from rlhf.masking import masked_sum
from rlhf.ppo.kl import kl_k1
from rlhf.ppo.rollout import Models, response_logprobs_of, score_batch
from rlhf.sequences import pad_sequences

BATCH_SIZE = 256


@dataclass(frozen=True)
class ValidationPrompts:
    """Prompts as they are written and as token ids."""

    conversations: Sequence[Conversation]
    ids: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Generation:
    """One response to a validation prompt. The score is the reward model's own, without clipping or penalties."""

    prompt: Conversation
    response: str
    score: float
    selection_score: float
    kl: float
    num_tokens: int
    ended: bool


@dataclass(frozen=True)
class Evaluation:
    """Means over the validation prompts after `update` updates. The KL is the sum of k1, nats a response."""

    update: int
    episodes: int
    score: float
    selection_score: float
    kl: float
    response_tokens: float
    eos_rate: float
    objective: float

    def metrics(self) -> dict[str, float]:
        """Under the names of `rlhf.metrics`."""
        return {
            "ppo/validation_score": self.score,
            "ppo/validation_selection_score": self.selection_score,
            "ppo/validation_kl": self.kl,
            "ppo/validation_response_tokens": self.response_tokens,
            "ppo/validation_eos_rate": self.eos_rate,
            "ppo/validation_objective": self.objective,
        }


def validate(
    config: PPOConfig, setup: Setup, models: Models, prompts: ValidationPrompts, update: int
) -> tuple[Evaluation, list[Generation]]:
    """Sample a response to every validation prompt, with the same noise at every evaluation."""
    generations: list[Generation] = []
    for start in range(0, len(prompts.ids), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        part = ValidationPrompts(prompts.conversations[rows], prompts.ids[rows])
        generations += _generate(config, setup, models, part, start)
    return _summarize(config, generations, update), generations


def write_generations(path: Path, generations: Sequence[Generation]) -> None:
    """Keep the generations as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(generation), ensure_ascii=False) + "\n" for generation in generations)
    path.write_text("".join(lines), encoding="utf-8")


def _generate(
    config: PPOConfig, setup: Setup, models: Models, prompts: ValidationPrompts, first: int
) -> list[Generation]:
    keys: list[tuple[str | int, ...]] = [("validation", first + row) for row in range(len(prompts.ids))]
    noise = sampling_noise(seeded(setup.seed, "validation"), keys, config.max_response_tokens)
    tokenizer = models.tokenizer
    responses = sample(models.policy, prompts.ids, noise, tokenizer, setup.compute, config.temperature)
    batch = pad_sequences(prompts.ids, responses, tokenizer.pad_token_id, setup.compute.device)
    kl = kl_k1(
        response_logprobs_of(models.policy, batch, config, setup),
        response_logprobs_of(models.ref_policy, batch, config, setup),
    )
    columns: list[Any] = [
        prompts.conversations,
        decode_responses(tokenizer, responses),
        score_batch(models.reward_model, batch, config, setup).tolist(),
        score_batch(models.selection_reward_model, batch, config, setup).tolist(),
        masked_sum(kl, batch.response_mask).tolist(),
        [len(response) for response in responses],
        [response[-1] == tokenizer.eos_token_id for response in responses],
    ]
    return [Generation(*row) for row in zip(*columns, strict=True)]


def _summarize(config: PPOConfig, generations: Sequence[Generation], update: int) -> Evaluation:
    def mean(name: str) -> float:
        return float(torch.tensor([float(getattr(g, name)) for g in generations], dtype=torch.float64).mean())

    return Evaluation(
        update=update,
        episodes=update * config.rollout_size,
        score=mean("score"),
        selection_score=mean("selection_score"),
        kl=mean("kl"),
        response_tokens=mean("num_tokens"),
        eos_rate=mean("ended"),
        objective=mean("selection_score") - config.kl_coef * mean("kl"),
    )
