"""Where scores come from: reward models and named functions, each with an offset, a running normalization and a weight.

Shapes: B responses.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.config.policy import PolicyConfig, RewardSourceConfig
from rlhf.config.supervised import member_name
from rlhf.modeling.batches import SequenceBatch
from rlhf.modeling.context import StageContext
from rlhf.modeling.conversations import Conversation, decode_responses, encode_dialogues
from rlhf.modeling.models import freeze, load_reward_model
from rlhf.modeling.precision import in_fp32
from rlhf.modeling.tokenizer import encode_alike, load_source_tokenizer
from rlhf.rewards import functions as reward_functions
from rlhf.rewards.scoring import RewardFunction, call_function, score_batch, score_rows

COMBINED = "(combined)"
"""Name of the moments of the combined score; no source can have it."""
LEAST_DEVIATION = 1e-6
"""Scores that differ by less are all the same, and what differs from them later is not measured by that."""


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
class SampledResponses:
    """Responses in the forms that sources want them.

    Attributes:
        batch: the policy's token ids.
        prompts: conversations, a row each.
        responses: token ids of the responses, a row each.
        ended: whether each response has its EOS, [B].
    """

    batch: SequenceBatch
    prompts: Sequence[Conversation]
    responses: Sequence[Sequence[int]]
    ended: Tensor


def load_sources(context: StageContext[PolicyConfig], load_trained: Callable[[str], Any]) -> tuple[Source, ...]:
    """The sources of `config.rewards`.

    Args:
        context: with the method's settings and the policy's tokenizer.
        load_trained: gives the pipeline's own reward model of a name, where a source asks for it.

    Raises:
        ConfigError: a function is not installed, or cannot be imported.
        ModelError: a reward model cannot be loaded, or has more than one label.
    """
    return tuple(_load(context, source, load_trained) for source in context.config.rewards)


def raw_scores(context: StageContext[PolicyConfig], source: Source, rows: SampledResponses) -> Tensor:
    """Scores [B] of one source, less its offset, before normalization and weight.

    Raises:
        ModelError: a dialogue is longer than the reward model reads.
        ScoringError: the source failed, or did not give one finite number for each response.
    """
    device, name = rows.batch.input_ids.device, source.config.name
    if source.function is None and source.tokenizer is None:
        return score_batch(source.model, name, rows.batch.input_ids, rows.batch.attention_mask)
    texts = decode_responses(context.tokenizer, rows.responses)
    if source.function is not None:
        with in_fp32(device.type):  # a function's own model is not ours to round
            return torch.tensor(call_function(name, source.function, rows.prompts, texts)).to(device)
    ids = encode_dialogues(source.tokenizer, rows.prompts, texts, rows.ended.tolist())
    return torch.from_numpy(score_rows(source.model, name, context.compute, ids, len(ids))).to(device)


def combine(
    config: PolicyConfig,
    sources: Sequence[Source],
    raw: Mapping[str, Tensor],
    moments: Mapping[str, RunningMoments],
) -> tuple[Tensor, dict[str, RunningMoments]]:
    """All sources' weighted scores in one, [B], and the moments with these scores added after use.

    The first scores that are seen are normalized by their own moments: returns keep one scale from the start.

    Args:
        config: says how they are combined.
        sources: in the order of the configuration.
        raw: scores of each source, [B], by name.
        moments: of the rollouts before, by name; missing where nothing was seen.

    Source:
        Coste et al., "Reward model ensembles help mitigate overoptimization", 2310.02743, section 3 (worst, mean less
        variance); Llama 2, 2307.09288, section 3.2.3 (safety first). A score is a logit already, so that only the gate
        remains of its equation.
    """
    after = dict(moments)

    def normalized(name: str, scores: Tensor) -> Tensor:
        after[name] = moments.get(name, RunningMoments()).updated(scores)
        return moments.get(name, after[name]).normalize(scores)

    weighted: dict[str, Tensor] = {}
    for source in sources:
        name, scores = source.config.name, raw[source.config.name]
        weighted[name] = source.config.weight * (normalized(name, scores) if source.config.normalize else scores)
    start = torch.zeros_like(raw[sources[0].config.name])
    if config.rewards_combination == "sum":
        return sum(weighted.values(), start), after
    if config.rewards_combination == "safety_first":
        helpful = sum((scores for name, scores in weighted.items() if name != config.safety_source), start)
        gated = torch.where(is_unsafe(config, raw), weighted[str(config.safety_source)], helpful)
        return normalized(COMBINED, gated), after
    scores = torch.stack(list(weighted.values()))
    if config.rewards_combination == "worst":
        return scores.min(0).values, after
    return scores.mean(0) - config.variance_coef * scores.var(0, correction=0), after


def is_unsafe(config: PolicyConfig, raw: Mapping[str, Tensor]) -> Tensor:
    """Where the safety source's score is what counts, [B]."""
    return raw[str(config.safety_source)] < math.log(config.safety_threshold / (1 - config.safety_threshold))


def apply_penalties(scores: Tensor, ended: Tensor, lengths: Tensor, config: PolicyConfig) -> Tensor:
    """Scores [B], clipped, then less the penalties for missing EOS and for length.

    Args:
        scores: as combined, [B].
        ended: whether the response has its EOS, [B].
        lengths: response tokens, [B].
        config: bounds and penalties.
    """
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    too_long = (lengths - config.length_penalty_free_tokens).clamp(min=0)
    return scores - config.missing_eos_penalty * (~ended) - config.length_penalty * too_long


def _load(
    context: StageContext[PolicyConfig], config: RewardSourceConfig, load_trained: Callable[[str], Any]
) -> Source:
    if config.kind == "trained":
        return Source(config, model=load_trained(member_name(config.member)))
    if config.kind == "function":
        return Source(config, function=reward_functions.load_function(config.name))
    assert config.path is not None, "the configuration asks for it"
    model = freeze(load_reward_model(config.path, context.compute, config.revision), context.compute)
    own = load_source_tokenizer(config)
    return Source(config, model=model, tokenizer=None if encode_alike(own, context.tokenizer) else own)
