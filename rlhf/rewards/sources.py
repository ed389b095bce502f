"""Where scores come from: reward models and named functions, each with an offset, a running normalization and a weight.

Shapes: B responses.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from rlhf.config.model import Setup
from rlhf.config.rl import PPOConfig, RewardSourceConfig
from rlhf.errors import RLHFError
from rlhf.modeling.batches import SequenceBatch
from rlhf.modeling.conversations import Conversation, decode_responses, encode_dialogues
from rlhf.modeling.models import freeze, load_reward_model, score, score_rows
from rlhf.modeling.precision import in_fp32
from rlhf.modeling.tokenizer import encode_alike, load_source_tokenizer
from rlhf.rewards import functions as reward_functions

RewardFunction = Callable[[Sequence[Conversation], Sequence[str]], Iterable[float]]
"""Takes prompts and the texts of their responses, and returns a finite number for each. docs/reward-functions.md."""

LEAST_DEVIATION = 1e-6
"""Scores that differ by less are all the same, and what differs from them later is not measured by that."""


class RewardSourceError(RLHFError):
    """A source of scores failed, or gave something else than a finite number for each response."""


@dataclass(frozen=True)
class Source:
    """One source of scores.

    Attributes:
        config: name, weight, and whether scores are normalized.
        model: the reward model; None for a function.
        tokenizer: the reward model's own, where it is another than the policy's.
        function: the reward function; None for a model.
    """

    config: RewardSourceConfig
    model: Any = None
    tokenizer: Any = None
    function: RewardFunction | None = None


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and sum of squared deviations of a source's scores so far.

    Source:
        Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def deviation(self) -> float:
        """The standard deviation of what was seen."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    @property
    def is_constant(self) -> bool:
        """All scores so far were the same."""
        return self.deviation <= LEAST_DEVIATION

    def normalize(self, scores: Tensor) -> Tensor:
        """Scores less the mean, over the standard deviation.

        Where all scores so far were the same only the mean is subtracted: the first that differs is no outlier of
        millions of standard deviations.
        """
        return (scores - self.mean) / (1.0 if self.is_constant else self.deviation)

    def updated(self, scores: Tensor) -> "RunningMoments":
        """The moments with a rollout's scores [B] added."""
        new = scores.double()
        count = self.count + len(new)
        delta = float(new.mean()) - self.mean
        squares = self.squares + float((new - new.mean()).square().sum()) + delta**2 * self.count * len(new) / count
        return RunningMoments(count, self.mean + delta * len(new) / count, squares)


@dataclass(frozen=True)
class Responses:
    """Responses in the forms that sources want them.

    Attributes:
        batch: the policy's token ids.
        prompts: conversations, a row each.
        responses: token ids of the responses, a row each.
        tokenizer: the policy's.
    """

    batch: SequenceBatch
    prompts: Sequence[Conversation]
    responses: Sequence[Sequence[int]]
    tokenizer: Any


def load_sources(
    config: PPOConfig, setup: Setup, tokenizer: Any, load_trained: Callable[[], Any]
) -> tuple[Source, ...]:
    """The sources of `config.rewards`.

    Args:
        config: PPO's settings.
        setup: compute.
        tokenizer: the policy's.
        load_trained: gives the pipeline's own reward model, where a source asks for it.

    Raises:
        ConfigError: a function is not installed, or cannot be imported.
        ModelError: a reward model cannot be loaded, or has more than one label.
    """
    return tuple(_load(source, setup, tokenizer, load_trained) for source in config.rewards)


def raw_scores(source: Source, rows: Responses, setup: Setup) -> Tensor:
    """Scores [B] of one source, less its offset, before normalization and weight.

    Raises:
        RewardSourceError: the source failed, or did not give a finite number for each response.
    """
    device = rows.batch.input_ids.device
    if source.function is not None:
        with in_fp32(device.type):  # a function's own model is not ours to round
            return _call(source.config.name, source.function, rows).to(device)
    if source.tokenizer is None:
        scores = score(source.model, rows.batch.input_ids, rows.batch.attention_mask)
    else:
        ids = _encode_again(source, rows)
        scores = torch.from_numpy(score_rows(source.model, setup.compute, ids, 0, len(ids))).to(device)
    if not bool(scores.isfinite().all()):
        raise RewardSourceError(
            f"the reward model {source.config.name!r} gave a score that is not finite; its weights are broken, or the "
            f"dialogues are longer than it can read"
        )
    return scores


def combine(
    sources: Sequence[Source], raw: Mapping[str, Tensor], moments: Mapping[str, RunningMoments]
) -> tuple[Tensor, dict[str, RunningMoments]]:
    """The weighted sum of all sources' scores [B], and the moments with these scores added after use.

    The first scores that are seen are normalized by their own moments: returns keep one scale from the start.

    Args:
        sources: in the order of the configuration.
        raw: scores of each source, [B], by name.
        moments: of the rollouts before, by name; missing where nothing was seen.
    """
    total, after = torch.zeros_like(raw[sources[0].config.name]), dict(moments)
    for source in sources:
        name, scores = source.config.name, raw[source.config.name]
        if source.config.normalize:
            with_these = moments.get(name, RunningMoments()).updated(scores)
            scores, after[name] = moments.get(name, with_these).normalize(scores), with_these
        total = total + source.config.weight * scores
    return total, after


def apply_penalties(scores: Tensor, ended: Tensor, lengths: Tensor, config: PPOConfig) -> Tensor:
    """Scores [B], clipped, then less the penalties for missing EOS and for length.

    Args:
        scores: the weighted sum, [B].
        ended: whether the response has its EOS, [B].
        lengths: response tokens, [B].
        config: bounds and penalties.
    """
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    too_long = (lengths - config.length_penalty_free_tokens).clamp(min=0)
    return scores - config.missing_eos_penalty * (~ended) - config.length_penalty * too_long


def _load(config: RewardSourceConfig, setup: Setup, tokenizer: Any, load_trained: Callable[[], Any]) -> Source:
    if config.kind == "trained":
        return Source(config, model=load_trained())
    if config.kind == "function":
        return Source(config, function=reward_functions.load(config.name))
    assert config.path is not None, "the configuration asks for it"
    model = freeze(load_reward_model(config.path, setup.compute, config.revision), setup.compute)
    own = load_source_tokenizer(config)
    return Source(config, model=model, tokenizer=None if encode_alike(own, tokenizer) else own)


def _call(name: str, function: RewardFunction, rows: Responses) -> Tensor:
    """What a function says, as fp32. It gets copies of the prompts, so that it cannot change what PPO trains on."""
    texts = decode_responses(rows.tokenizer, rows.responses)
    prompts = [[dict(message) for message in prompt] for prompt in rows.prompts]
    try:
        returned = function(prompts, list(texts))
        values = list(returned) if isinstance(returned, Iterable) else None
    except Exception as error:
        raise RewardSourceError(
            f"the reward function {name!r} raised {type(error).__name__}: {error}; it was given {len(texts)} responses"
        ) from error
    if values is None:
        raise RewardSourceError(f"the reward function {name!r} returned {returned!r}; it must return a list of numbers")
    if len(values) != len(texts):
        raise RewardSourceError(
            f"the reward function {name!r} returned {len(values)} numbers for {len(texts)} responses; it must return "
            f"one for each"
        )
    for text, value in zip(texts, values, strict=True):
        if not _is_score(value):
            raise RewardSourceError(
                f"the reward function {name!r} returned {value!r} for the response {text[:80]!r}; it must return a "
                f"finite number that fp32 holds"
            )
    return torch.tensor([float(value) for value in values])


def _is_score(value: object) -> bool:
    """A real number, Python's or NumPy's, that fp32 holds; a tensor is none, and neither is a truth value."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return abs(float(value)) <= torch.finfo(torch.float32).max
    except OverflowError:
        return False


def _encode_again(source: Source, rows: Responses) -> list[list[int]]:
    """Dialogues in the reward model's own tokens."""
    texts = decode_responses(rows.tokenizer, rows.responses)
    ended = [response[-1] == rows.tokenizer.eos_token_id for response in rows.responses]
    ids = encode_dialogues(source.tokenizer, rows.prompts, texts, ended)
    longest, limit = max(map(len, ids)), getattr(source.model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise RewardSourceError(
            f"the reward model {source.config.name!r} reads {limit} tokens, and a dialogue has {longest} in its own "
            f"tokens; lower model.max_length or ppo.max_response_tokens, or take another reward model"
        )
    return ids
