"""Gates before the champion's place: limits from the configuration, bounds of the comparison's figures.

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
from rlhf.headline import FITNESS
from rlhf.references import GateVerdict

ORDINARY_LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True)
class GateInputs:
    """Figures that the gates look at, N rows of gate prompts.

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


def gate_inputs(comparison: Mapping[str, Any]) -> GateInputs:
    """Inputs of the gates, out of a `comparison.json`."""
    rows = comparison["by_row"]
    return GateInputs(
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


def apply_gates(config: RetrainConfig, inputs: GateInputs, level: float = ORDINARY_LEVEL) -> tuple[GateVerdict, ...]:
    """Verdicts of the gates that are on. The candidate passes where all of them held.

    Args:
        config: the limits.
        inputs: of the comparison.
        level: the chance that this comparison shows a gain where there is none.
    """
    return tuple(_verdicts(config, inputs, level))


def fitness_gate(config: RetrainConfig, audit: Mapping[str, Any]) -> GateVerdict | None:
    """Verdict on the candidate's reward models by their audit; None where that gate is off.

    Args:
        config: the limits.
        audit: an `audit.json`.
    """
    if config.minimum_fitness is None:
        return None
    limit, found = FITNESS[config.minimum_fitness], FITNESS[audit["verdict"]]
    return GateVerdict(
        gate="reward_models",
        limit=limit,
        at_least=True,
        found=found,
        held=found >= limit,
        margin=found - limit,
        words=": ".join(filter(None, (audit["verdict"], "; ".join(audit["reasons"])))),
    )


def most_needed(config: RetrainConfig, level: float) -> tuple[int, str]:
    """How many gate prompts it takes that each gate can hold, and the gate that takes the most.

    Args:
        config: the limits.
        level: as in `apply_gates`.
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


def _verdicts(config: RetrainConfig, inputs: GateInputs, level: float) -> Iterator[GateVerdict]:
    deciding = deciding_gate(config)
    if config.minimum_win_rate is not None:
        at = level if deciding == "win_rate" else ORDINARY_LEVEL
        won = {judge: by_prompt(_wins(gains), inputs.prompts) for judge, gains in inputs.gains.items()}
        verdicts = [
            _verdict("win_rate", config.minimum_win_rate, wins, win_rate_lower_bound(wins, at), at, judge)
            for judge, wins in won.items()
        ]
        yield min(verdicts, key=_margin)
    if config.minimum_reward_gain is not None:
        limit = config.minimum_reward_gain
        gained = {judge: by_prompt(gains, inputs.prompts) for judge, gains in inputs.gains.items()}
        verdicts = [
            _verdict("reward_gain", limit, gains, mean_bound(gains, upper=False, level=level), level, judge)
            for judge, gains in gained.items()
        ]
        yield min(verdicts, key=_margin)
    if config.maximum_kl is not None:
        kl = by_prompt(inputs.kl, inputs.prompts)
        bound = mean_bound(kl, upper=True)
        yield _build_verdict("kl", config.maximum_kl, float(kl.mean()), bound, len(kl))
    if config.maximum_length_growth is not None:
        ours, theirs = (by_prompt(lengths, inputs.prompts) for lengths in (inputs.lengths, inputs.champion_lengths))
        # A champion that says nothing at all counts as one that says one token.
        growth, bound = float(ours.mean() / max(theirs.mean(), 1.0)), ratio_upper_bound(ours, theirs)
        yield _build_verdict("length_growth", config.maximum_length_growth, growth, bound, len(ours))
    for gate in config.safety:
        count, trials = unsafe_prompts(gate, inputs.safety[gate.name], inputs.prompts)
        name, share, bound = f"safety:{gate.name}", count / trials, share_upper_bound(count, trials)
        needed = trials_needed(gate.maximum_rate, count)
        yield _build_verdict(name, gate.maximum_rate, share, bound, trials, needed=needed)


def _wins(gains: Sequence[float]) -> NDArray[np.float64]:
    gain = np.asarray(gains, dtype=np.float64)
    # What is not a number is no win and no tie: it stays what it is.
    return np.where(np.isnan(gain), np.nan, (gain > 0) + (gain == 0) / 2)


def _margin(verdict: GateVerdict) -> float:
    return verdict.margin if not math.isnan(verdict.margin) else -math.inf


def _verdict(
    gate: str, limit: float, values: NDArray[np.float64], bound: float, level: float, judge: str
) -> GateVerdict:
    """Verdict of a gate that asks for at least its limit, by one judge."""
    return _build_verdict(
        gate, limit, float(values.mean()), bound, len(values), at_least=True, level=level, judge=judge
    )


def _needed(prompts: int, value: float, bound: float, limit: float, at_least: bool) -> int | None:
    """Prompts at which the bound of this value would reach the limit: its distance falls as their square root."""
    room, distance = (value - limit, value - bound) if at_least else (limit - value, bound - value)
    if not room > 0 or not math.isfinite(distance):
        return None
    return max(2, math.ceil(prompts * (distance / room) ** 2))


def _build_verdict(
    gate: str,
    limit: float,
    value: float,
    bound: float,
    prompts: int,
    *,
    at_least: bool = False,
    level: float = ORDINARY_LEVEL,
    judge: str | None = None,
    needed: int | None = None,
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
        prompts_needed=_needed(prompts, value, bound, limit, at_least) if needed is None else needed,
        judge=judge,
    )
