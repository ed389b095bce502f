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
from rlhf.disk import sync
from rlhf.masking import masked_sum
from rlhf.ppo.kl import kl_k1
from rlhf.ppo.models import Models
from rlhf.ppo.rollout import (
    Prompts,
    has_ended,
    response_logprobs_of,
    sample_responses,
    score_responses,
    selection_scores,
)

BATCH_SIZE = 256


@dataclass(frozen=True)
class Generation:
    """One response to a validation prompt.

    The score is the weighted sum of the sources as they are: without running normalization, clipping or penalties, so
    that the scores of different updates compare.
    """

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
    config: PPOConfig, setup: Setup, models: Models, prompts: Prompts, update: int
) -> tuple[Evaluation, list[Generation]]:
    """Sample a response to every validation prompt, with the same noise at every evaluation.

    Raises:
        FloatingPointError: the policy's logits are not finite.
        RewardSourceError: a reward function raised, or scores are not one finite number a response.
    """
    generations: list[Generation] = []
    for start in range(0, len(prompts.ids), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        part = Prompts(prompts.conversations[rows], prompts.ids[rows])
        generations += _generate(config, setup, models, part, start)
    return _summarize(config, generations, update), generations


def generations_path(checkpoints: Path, update: int) -> Path:
    """Where the generations of an evaluation are kept until the run is done."""
    return checkpoints / "generations" / f"update_{update:04d}.jsonl"


def write_generations(checkpoints: Path, update: int, generations: Sequence[Generation]) -> None:
    """Keep the generations as JSON Lines; a file that bears its name is whole."""
    path = generations_path(checkpoints, update)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(asdict(generation), ensure_ascii=False) + "\n" for generation in generations)
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(lines), encoding="utf-8")
    sync(temporary)
    temporary.replace(path)


def _generate(config: PPOConfig, setup: Setup, models: Models, prompts: Prompts, first: int) -> list[Generation]:
    keys: list[tuple[str | int, ...]] = [("validation", first + row) for row in range(len(prompts.ids))]
    rows = sample_responses(config, setup, models, prompts, keys, seeded(setup.seed, "validation"))
    kl = kl_k1(
        response_logprobs_of(models.policy, rows.batch, config, setup),
        response_logprobs_of(models.ref_policy, rows.batch, config, setup),
    )
    by_source = score_responses(config, setup, models, rows)
    scores = sum(source.config.weight * by_source[source.config.name] for source in models.sources)
    columns: list[Any] = [
        prompts.conversations,
        decode_responses(models.tokenizer, rows.responses),
        torch.as_tensor(scores).tolist(),
        selection_scores(config, setup, models, rows).tolist(),
        masked_sum(kl, rows.batch.response_mask).tolist(),
        [len(response) for response in rows.responses],
        has_ended(rows).tolist(),
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
