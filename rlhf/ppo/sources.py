"""Where scores come from: reward models and named functions, each with an offset, a running normalization and a weight.

Shapes: B responses.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor

from rlhf.config import PPOConfig, RewardSourceConfig, Setup
from rlhf.conversations import Conversation, decode_responses, encode_pairs
from rlhf.errors import ConfigError, ModelError, RLHFError
from rlhf.models import freeze, load_reward_model, load_tokenizer, score, score_rows
from rlhf.sequences import SequenceBatch

ENTRY_POINTS = "rlhf.rewards"
"""The entry-point group in which installed packages offer reward functions."""

RewardFunction = Callable[[Sequence[Conversation], Sequence[str]], Sequence[float]]
"""Takes prompts and the texts of their responses, and returns a finite number for each."""

NORMALIZATION_EPS = 1e-6


class RewardFunctionError(RLHFError):
    """A reward function raised, or returned something else than a finite number for each response."""


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
class Moments:
    """Count, mean and sum of squared deviations of a source's scores so far.

    Source:
        Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def normalize(self, scores: Tensor) -> Tensor:
        """Scores less the mean, over the standard deviation; as they are before anything was seen."""
        if self.count == 0:
            return scores
        return (scores - self.mean) / (math.sqrt(self.squares / self.count) + NORMALIZATION_EPS)

    def updated(self, scores: Tensor) -> "Moments":
        """The moments with a rollout's scores [B] added."""
        new = scores.double()
        count = self.count + len(new)
        delta = float(new.mean()) - self.mean
        squares = self.squares + float((new - new.mean()).square().sum()) + delta**2 * self.count * len(new) / count
        return Moments(count, self.mean + delta * len(new) / count, squares)


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


def load_sources(config: PPOConfig, setup: Setup, tokenizer: Any, trained: Any) -> tuple[Source, ...]:
    """The sources of `config.rewards`.

    Args:
        config: PPO's settings.
        setup: compute.
        tokenizer: the policy's.
        trained: the pipeline's own reward model.

    Raises:
        ConfigError: no installed package offers a function of that name.
        ModelError: a reward model cannot be loaded, or has more than one label.
    """
    return tuple(_load(source, setup, tokenizer, trained) for source in config.rewards)


def function_names() -> list[str]:
    """Names of the reward functions that installed packages offer."""
    return sorted({point.name for point in entry_points(group=ENTRY_POINTS)})


def raw_scores(source: Source, rows: Responses, setup: Setup) -> Tensor:
    """Scores [B] of one source, less its offset, before normalization and weight.

    Raises:
        RewardFunctionError: the function raised, or did not return a finite number for each response.
    """
    if source.function is not None:
        return _call(source.config.name, source.function, rows).to(rows.batch.input_ids.device)
    if source.tokenizer is None:
        return score(source.model, rows.batch.input_ids, rows.batch.attention_mask)
    ids = _encode_again(source.tokenizer, rows)
    return torch.from_numpy(score_rows(source.model, setup.compute, ids, 0, len(ids))).to(rows.batch.input_ids.device)


def combine(
    sources: Sequence[Source], raw: Mapping[str, Tensor], moments: Mapping[str, Moments]
) -> tuple[Tensor, dict[str, Moments]]:
    """The weighted sum of all sources' scores [B], and the moments with these scores added after use.

    Args:
        sources: in the order of the configuration.
        raw: scores of each source, [B], by name.
        moments: of the rollouts before, by name; missing where nothing was seen.
    """
    total, after = torch.zeros_like(raw[sources[0].config.name]), dict(moments)
    for source in sources:
        name, scores = source.config.name, raw[source.config.name]
        if source.config.normalize:
            seen = moments.get(name, Moments())
            scores, after[name] = seen.normalize(scores), seen.updated(scores)
        total = total + source.config.weight * scores
    return total, after


def penalized(scores: Tensor, ended: Tensor, lengths: Tensor, config: PPOConfig) -> Tensor:
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


def _load(config: RewardSourceConfig, setup: Setup, tokenizer: Any, trained: Any) -> Source:
    if config.kind == "trained":
        return Source(config, model=trained)
    if config.kind == "function":
        return Source(config, function=_find_function(config.name))
    assert config.path is not None, "the configuration asks for it"
    model = freeze(load_reward_model(config.path, setup.compute, config.revision), setup.compute)
    own = load_tokenizer(config.path, config.revision)
    if own.get_vocab() == tokenizer.get_vocab() and own.chat_template == tokenizer.chat_template:
        return Source(config, model=model)
    if own.chat_template is None:
        raise ModelError(
            f"{config.path}: the reward model's tokenizer has no chat template, so it cannot read dialogues"
        )
    return Source(config, model=model, tokenizer=own)


def _find_function(name: str) -> RewardFunction:
    found = [point for point in entry_points(group=ENTRY_POINTS) if point.name == name]
    if not found:
        there = ", ".join(function_names()) or "none at all"
        raise ConfigError(
            f"ppo.rewards: no installed package offers a reward function {name!r} in the entry-point group "
            f"{ENTRY_POINTS}; there are: {there}"
        )
    function: RewardFunction = found[0].load()
    return function


def _call(name: str, function: RewardFunction, rows: Responses) -> Tensor:
    texts = decode_responses(rows.tokenizer, rows.responses)
    try:
        values = list(function(rows.prompts, texts))
    except Exception as error:
        raise RewardFunctionError(
            f"the reward function {name!r} raised {type(error).__name__}: {error}; it was given {len(texts)} responses"
        ) from error
    if len(values) != len(texts):
        raise RewardFunctionError(
            f"the reward function {name!r} returned {len(values)} numbers for {len(texts)} responses; it must return "
            f"one for each"
        )
    for text, value in zip(texts, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RewardFunctionError(
                f"the reward function {name!r} returned {value!r} for the response {text[:80]!r}; it must return a "
                f"finite number"
            )
    return torch.tensor([float(value) for value in values])


def _encode_again(tokenizer: Any, rows: Responses) -> list[list[int]]:
    """Dialogues in the reward model's own tokens; a response without EOS has none here either."""
    texts = decode_responses(rows.tokenizer, rows.responses)
    pairs = encode_pairs(tokenizer, rows.prompts, [[{"role": "assistant", "content": text}] for text in texts])
    ended = [response[-1] == rows.tokenizer.eos_token_id for response in rows.responses]
    return [prompt + (ids if end else ids[:-1]) for (prompt, ids), end in zip(pairs, ended, strict=True)]
