"""Held-out evaluation while a policy is trained: the evidence by which a checkpoint is chosen.

The score that training climbs goes up whatever happens. What counts is the same score with the selection reward model
in the place of the trained one, on validation prompts, less kl_coef times the KL (`rlhf.policy.objective`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.config.policy import PolicyConfig
from rlhf.data.schema import json_lines
from rlhf.files.atomic import write_file
from rlhf.modeling.conversations import Conversation, decode_responses
from rlhf.policy.context import PolicyContext, Prompts
from rlhf.policy.masking import masked_sum
from rlhf.policy.objective import Units, climbed_and_held_out, units_of
from rlhf.policy.sampling import kl_of_responses, sample_responses, score_responses, selection_scores

BATCH_SIZE = 256
_MEANS = ("score", "held_out_score", "selection_score", "kl", "objective")
_MEANS_BY_OTHER_NAMES = {"response_tokens": "num_tokens", "eos_rate": "ended"}


@dataclass(frozen=True)
class Generation:
    """One response to a validation prompt.

    Attributes:
        prompt: what was answered.
        response: its text.
        score: what training climbs: weights, normalization, bounds and penalties, in the run's units.
        held_out_score: the same with the selection reward model in the trained one's place.
        selection_score: what the selection reward model says, as it is.
        kl: exact KL to the SFT policy at each token, summed over the response, nats.
        objective: `held_out_score` less kl_coef times `kl`.
        num_tokens: of the response.
        ended: it has its EOS.
    """

    prompt: Conversation
    response: str
    score: float
    held_out_score: float
    selection_score: float
    kl: float
    objective: float
    num_tokens: int
    ended: bool


@dataclass(frozen=True)
class Evaluation:
    """Means over the validation prompts after `update` updates, by the names of `Generation`.

    Attributes:
        update: updates taken before.
        episodes: responses that these have learned from.
        score: mean score.
        held_out_score: mean held-out score.
        selection_score: mean selection score.
        kl: mean KL, nats per response.
        response_tokens: mean length.
        eos_rate: share of responses with EOS.
        objective: mean objective.
        objectives: of each prompt, in the order of the prompts: by them evaluations are compared in pairs.
        scores: the same of the scores.
        held_out_scores: the same of the held-out scores.
    """

    update: int
    episodes: int
    score: float
    held_out_score: float
    selection_score: float
    kl: float
    response_tokens: float
    eos_rate: float
    objective: float
    objectives: list[float]
    scores: list[float]
    held_out_scores: list[float]

    def metrics(self) -> dict[str, float]:
        """Under the names of `rlhf.metrics`."""
        return {f"policy/validation_{name}": getattr(self, name) for name in (*_MEANS, *_MEANS_BY_OTHER_NAMES)}


def validate(
    context: PolicyContext[PolicyConfig], prompts: Prompts, update: int, episodes: int, units: Units | None
) -> tuple[Evaluation, list[Generation], Units]:
    """Sample a response to every validation prompt, with the same noise at every evaluation.

    Args:
        context: of the run.
        prompts: of validation.
        update: updates taken before.
        episodes: responses that these have learned from.
        units: of the run; None at the first evaluation, of the SFT policy, which gives them.

    Returns:
        The means, what they are of, and the run's units.

    Raises:
        FloatingPointError: the policy's logits are not finite.
        ScoringError: a source failed, or its scores are not one finite number for each response.
    """
    config, parts = context.config, []
    for start in range(0, len(prompts.ids), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        part = Prompts(prompts.conversations[rows], prompts.ids[rows])
        parts.append(_sample(context, part, start))
    raw = {name: torch.cat([part.raw[name] for part in parts]) for name in parts[0].raw}
    selection, kl, lengths, ended = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("selection", "kl", "lengths", "ended")
    )
    units = units or units_of(config, context.models.sources, raw, selection)
    score, held_out = climbed_and_held_out(config, context.models.sources, raw, selection, units, ended, lengths)
    columns: list[Any] = [
        prompts.conversations,
        [text for part in parts for text in part.texts],
        *(values.tolist() for values in (score, held_out, selection, kl, held_out.double() - config.kl_coef * kl)),
        lengths.tolist(),
        ended.tolist(),
    ]
    generations = [Generation(*row) for row in zip(*columns, strict=True)]
    return _summarize(generations, update, episodes), generations, units


def generations_path(checkpoints: Path, update: int) -> Path:
    """Where the generations of an evaluation are kept until the run is done."""
    return checkpoints / "generations" / f"update_{update:04d}.jsonl"


def write_generations(checkpoints: Path, update: int, generations: Sequence[Generation]) -> None:
    """Keep the generations as JSON Lines; a file that bears its name is whole."""
    lines = json_lines(asdict(generation) for generation in generations)
    write_file(generations_path(checkpoints, update), "".join(lines))


@dataclass(frozen=True)
class _Sampled:
    """Responses to some of the prompts, B of them: texts, scores [B] by source and of selection, KL, length, end."""

    texts: list[str]
    raw: dict[str, Tensor]
    selection: Tensor
    kl: Tensor
    lengths: Tensor
    ended: Tensor


def _sample(context: PolicyContext[PolicyConfig], prompts: Prompts, first: int) -> _Sampled:
    keys: list[tuple[str | int, ...]] = [("validation", first + row) for row in range(len(prompts.ids))]
    rows = sample_responses(context, prompts, keys, context.seed("validation"))
    kl = kl_of_responses(context, rows.batch)
    return _Sampled(
        decode_responses(context.tokenizer, rows.responses),
        score_responses(context, rows),
        selection_scores(context, rows),
        masked_sum(kl, rows.batch.response_mask),
        rows.batch.response_mask.sum(1),
        rows.ended,
    )


def _summarize(generations: Sequence[Generation], update: int, episodes: int) -> Evaluation:
    def mean(name: str) -> float:
        return float(torch.tensor([float(getattr(g, name)) for g in generations], dtype=torch.float64).mean())

    return Evaluation(
        update=update,
        episodes=episodes,
        objectives=[generation.objective for generation in generations],
        scores=[generation.score for generation in generations],
        held_out_scores=[generation.held_out_score for generation in generations],
        **{name: mean(name) for name in _MEANS},
        **{name: mean(of) for name, of in _MEANS_BY_OTHER_NAMES.items()},
    )
