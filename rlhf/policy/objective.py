"""Choice of the checkpoint: training's own objective, with the selection reward model in the trained one's place.

Every source counts with its weight, its normalization and the penalties, combined as in the score that is climbed.
Only the trained reward model is replaced by the selection reward model, which was trained on other preferences. Without
a trained source the score itself is the evidence: its prompts are held out, but training has climbed its judges.

Shapes: B responses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlhf.config.policy import PolicyConfig
from rlhf.rewards.sources import COMBINED, RunningMoments, Source, apply_penalties, combine


@dataclass(frozen=True)
class Units:
    """Units of a run's scores: their moments on the SFT policy's responses to the validation prompts.

    They stay as they are throughout a run, so that the evaluations of different updates compare.

    Attributes:
        sources: moments of each source's scores, less its offset, by name; and of the combined score, where it is
            normalized.
        selection: moments of the selection reward model's.
    """

    sources: Mapping[str, RunningMoments]
    selection: RunningMoments

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Units":
        """Units from what `asdict` gives."""
        sources = {name: RunningMoments(**moments) for name, moments in values["sources"].items()}
        return cls(sources, RunningMoments(**values["selection"]))


def units_of(config: PolicyConfig, sources: Sequence[Source], raw: Mapping[str, Tensor], selection: Tensor) -> Units:
    """The units that these scores give.

    Args:
        config: says how they are combined.
        sources: in the order of the configuration.
        raw: scores of each source on the SFT policy's responses, [B], by name.
        selection: the selection reward model's, [B].
    """
    moments = {name: RunningMoments().updated(scores) for name, scores in raw.items()}
    _, after = combine(config, sources, raw, moments)
    combined = {COMBINED: after[COMBINED]} if COMBINED in after else {}
    return Units(moments | combined, RunningMoments().updated(selection))


def climbed_and_held_out(
    config: PolicyConfig,
    sources: Sequence[Source],
    raw: Mapping[str, Tensor],
    selection: Tensor,
    units: Units,
    ended: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """The score that is climbed, and the same with the selection reward model in the trained one's place, both [B].

    The selection scores are brought to the trained model's mean and standard deviation on the SFT policy's responses:
    two reward models agree on what is better, and not on how much a point is.

    Args:
        config: weights, normalization, bounds and penalties.
        sources: in the order of the configuration.
        raw: scores of each source, [B], by name.
        selection: the selection reward model's, [B].
        units: of the run.
        ended: whether the response has its EOS, [B].
        lengths: response tokens, [B].
    """

    def score(of_sources: Mapping[str, Tensor]) -> Tensor:
        combined, _ = combine(config, sources, of_sources, units.sources)
        return apply_penalties(combined, ended, lengths, config)

    climbed, replaced = score(raw), {}
    for source in sources:
        if source.config.kind == "trained":
            target = units.sources[source.config.name]
            scale = _ratio(target, units.selection)
            replaced[source.config.name] = (selection - units.selection.mean) * scale + target.mean
    return climbed, score({**raw, **replaced}) if replaced else climbed


@dataclass(frozen=True)
class Gain:
    """Gain of an evaluation over another on the same prompts.

    Attributes:
        mean: of the differences, a prompt each.
        standard_error: of that mean; infinite where there are fewer than two prompts.
    """

    mean: float
    standard_error: float

    @property
    def is_shown(self) -> bool:
        """The gain is more than its standard error."""
        return self.exceeds(1.0)

    def exceeds(self, num_errors: float) -> bool:
        """The gain is above 0, and more than so many standard errors."""
        return self.mean > (num_errors * self.standard_error if num_errors else 0.0)

    @property
    def in_errors(self) -> str:
        """How many standard errors it is, for a person."""
        if not self.standard_error:
            return "the same at every prompt"
        return f"{self.mean / self.standard_error:.1f} standard errors"


def paired_gain(evaluation: Mapping[str, Any], over: Mapping[str, Any], of: str = "objectives") -> Gain:
    """The gain of an evaluation over another, both with a figure of the same prompts in the same order.

    Args:
        evaluation: the one that may be better.
        over: the one that it is compared with.
        of: `objectives` or `scores`.
    """
    return gain_of(np.array(evaluation[of], dtype=np.float64) - np.array(over[of], dtype=np.float64))


def gain_of(differences: NDArray[np.float64]) -> Gain:
    """The gain that paired differences show, a prompt each."""
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return Gain(float(differences.mean()), error)


def best_evaluation(evaluations: Sequence[Mapping[str, Any]], kl_budget: float) -> Mapping[str, Any]:
    """The held-out evaluation whose checkpoint is chosen.

    It is the one with the best objective among those that are within the KL budget and better than the SFT policy by
    more than the standard error of their paired gain; of equal ones the earliest. Where there is none it is the SFT
    policy's own.

    Args:
        evaluations: in order, the SFT policy's first.
        kl_budget: nats per response.
    """
    start = evaluations[0]
    within = [evaluation for evaluation in evaluations[1:] if evaluation["kl"] <= kl_budget]
    shown = [evaluation for evaluation in within if paired_gain(evaluation, start).is_shown]
    return max(shown, key=lambda evaluation: (evaluation["objective"], -evaluation["update"]), default=start)


def _ratio(target: RunningMoments, own: RunningMoments) -> float:
    """Ratio of two standard deviations; 1 where one of the two models does not tell the responses apart."""
    return 1.0 if target.is_constant or own.is_constant else target.deviation / own.deviation
