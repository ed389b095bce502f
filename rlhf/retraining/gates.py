"""What a candidate must show to become the champion: limits from the configuration, bounds of what was compared.

Every gate looks at the one-sided 95% bound that hurts: from above for safety, KL and length, from below for win rate
and gain. Of these two, the one that decides whether there is a gain is bounded at the level that the comparison may
take of the risk of a false promotion (`rlhf.evaluation.bounds.level_of`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.retrain import RetrainConfig, SafetyGate
from rlhf.evaluation.bounds import (
    CONFIDENCE,
    any_by_prompt,
    by_prompt,
    mean_bound,
    prompts_needed,
    ratio_upper_bound,
    share_upper_bound,
    trials_needed,
    win_rate_lower_bound,
)
from rlhf.references import GateVerdict

ORDINARY_LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True)
class Figures:
    """What the gates look at, N rows of gate prompts.

    Attributes:
        prompts: which prompt each row answers, [N]. Rows of one prompt are no independent witnesses.
        gains: the candidate's value less the champion's, by each judge that decides, [N].
        kl: k1 of the candidate's response to its SFT policy, nats, [N].
        lengths: tokens of the candidate's responses, [N].
        champion_lengths: tokens of the champion's, [N].
        safety: scores of the candidate's responses, by the name of the judge, each [N].
    """

    prompts: Sequence[str]
    gains: Mapping[str, Sequence[float]]
    kl: Sequence[float]
    lengths: Sequence[float]
    champion_lengths: Sequence[float]
    safety: Mapping[str, Sequence[float]]


def figures_of(comparison: Mapping[str, Any]) -> Figures:
    """The figures out of a `comparison.json`."""
    rows = comparison["by_row"]
    return Figures(
        prompts=rows["prompts"],
        gains={judge: rows["gains"][judge] for judge in comparison["deciding"]},
        kl=rows["kl"],
        lengths=rows["lengths"],
        champion_lengths=rows["champion_lengths"],
        safety=rows["safety"],
    )


def deciding_gate(config: RetrainConfig) -> str | None:
    """The gate by which a gain is shown, whose bound keeps the rate of false promotions; None where both are off."""
    if config.minimum_reward_gain is not None:
        return "reward_gain"
    return "win_rate" if config.minimum_win_rate is not None else None


def judge(config: RetrainConfig, figures: Figures, level: float = ORDINARY_LEVEL) -> tuple[GateVerdict, ...]:
    """What each gate says that is on. The candidate passes where all of them held.

    Args:
        config: the limits.
        figures: of the comparison.
        level: the chance that this comparison shows a gain where there is none.
    """
    return tuple(_verdicts(config, figures, level))


def most_needed(config: RetrainConfig, level: float) -> tuple[int, str]:
    """How many gate prompts it takes that each gate can hold, and the gate that takes the most.

    Args:
        config: the limits.
        level: as in `judge`.
    """
    needs = {f"safety:{gate.name}": trials_needed(gate.maximum_rate) for gate in config.safety}
    deciding = deciding_gate(config)
    needs |= {name: prompts_needed(level) for name in (deciding,) if name}
    return max(((number, name) for name, number in needs.items()), default=(1, "length_growth"))


def unsafe_prompts(gate: SafetyGate, scores: Sequence[float], prompts: Sequence[str]) -> tuple[int, int]:
    """Prompts of which any response is beyond the gate's threshold, and all prompts."""
    beyond = [score < gate.threshold if gate.unsafe == "below" else score > gate.threshold for score in scores]
    by_prompt_ = any_by_prompt(beyond, prompts)
    return int(by_prompt_.sum()), len(by_prompt_)


def _verdicts(config: RetrainConfig, figures: Figures, level: float) -> Iterator[GateVerdict]:
    deciding = deciding_gate(config)
    if config.minimum_win_rate is not None:
        at = level if deciding == "win_rate" else ORDINARY_LEVEL
        wins = {name: by_prompt(_wins(values), figures.prompts) for name, values in figures.gains.items()}
        found = [
            _verdict("win_rate", config.minimum_win_rate, won, win_rate_lower_bound(won, at), at, name, at_least=True)
            for name, won in wins.items()
        ]
        yield min(found, key=_margin)
    if config.minimum_reward_gain is not None:
        limit = config.minimum_reward_gain
        gains = {name: by_prompt(values, figures.prompts) for name, values in figures.gains.items()}
        found = [
            _verdict("reward_gain", limit, gain, mean_bound(gain, upper=False, level=level), level, name, at_least=True)
            for name, gain in gains.items()
        ]
        yield min(found, key=_margin)
    if config.maximum_kl is not None:
        kl = by_prompt(figures.kl, figures.prompts)
        yield _verdict("kl", config.maximum_kl, kl, mean_bound(kl, upper=True), ORDINARY_LEVEL, at_least=False)
    if config.maximum_length_growth is not None:
        yield _growth(config.maximum_length_growth, figures)
    for gate in config.safety:
        yield _safety(gate, figures)


def _wins(gains: Sequence[float]) -> NDArray[np.float64]:
    gain = np.asarray(gains, dtype=np.float64)
    # What is not a number is no win and no tie: it stays what it is.
    return np.where(np.isnan(gain), np.nan, (gain > 0) + (gain == 0) / 2)


def _margin(verdict: GateVerdict) -> float:
    return verdict.margin if not math.isnan(verdict.margin) else -math.inf


def _verdict(
    gate: str,
    limit: float,
    values: NDArray[np.float64],
    bound: float,
    level: float,
    judge: str | None = None,
    *,
    at_least: bool,
) -> GateVerdict:
    value, n = float(values.mean()), len(values)
    return _said(gate, limit, value, bound, n, _needed(n, value, bound, limit, at_least), level, judge, at_least)


def _growth(limit: float, figures: Figures) -> GateVerdict:
    ours, theirs = (by_prompt(values, figures.prompts) for values in (figures.lengths, figures.champion_lengths))
    # A champion that says nothing at all counts as one that says one token.
    value, bound = float(ours.mean() / max(theirs.mean(), 1.0)), ratio_upper_bound(ours, theirs)
    needed = _needed(len(ours), value, bound, limit, at_least=False)
    return _said("length_growth", limit, value, bound, len(ours), needed, ORDINARY_LEVEL, None, at_least=False)


def _safety(gate: SafetyGate, figures: Figures) -> GateVerdict:
    count, trials = unsafe_prompts(gate, figures.safety[gate.name], figures.prompts)
    return _said(
        f"safety:{gate.name}",
        gate.maximum_rate,
        count / trials,
        share_upper_bound(count, trials),
        trials,
        trials_needed(gate.maximum_rate, count),
        ORDINARY_LEVEL,
        None,
        at_least=False,
    )


def _needed(prompts: int, value: float, bound: float, limit: float, at_least: bool) -> int | None:
    """Prompts at which the bound of this value would reach the limit: its distance falls as their square root."""
    room, distance = (value - limit, value - bound) if at_least else (limit - value, bound - value)
    if not room > 0 or not math.isfinite(distance):
        return None
    return max(2, math.ceil(prompts * (distance / room) ** 2))


def _said(
    gate: str,
    limit: float,
    value: float,
    bound: float,
    prompts: int,
    needed: int | None,
    level: float,
    judge: str | None,
    at_least: bool,
) -> GateVerdict:
    margin = bound - limit if at_least else limit - bound
    # What is not a number is on neither side, and does not pass.
    return GateVerdict(
        gate=gate,
        limit=limit,
        at_least=at_least,
        found=bound,
        held=margin >= 0,
        margin=margin,
        value=value,
        confidence=1 - level,
        prompts=prompts,
        prompts_needed=needed,
        judge=judge,
    )
