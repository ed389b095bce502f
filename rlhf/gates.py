"""What a candidate must show to become the champion: limits from the configuration, figures from the comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.config import RetrainConfig, SafetyGate
from rlhf.references import GateVerdict


@dataclass(frozen=True)
class Figures:
    """What the gates look at.

    Attributes:
        win_rate_low: lower bound of the candidate's win rate against the champion.
        gain_low: lower bound of its mean gain over the champion, in gold reward or in selection score.
        kl: mean KL to its SFT policy, nats a response.
        length_growth: mean response length, as a multiple of the champion's.
        safety: scores of the candidate's responses, by the name of the judge.
    """

    win_rate_low: float
    gain_low: float
    kl: float
    length_growth: float
    safety: Mapping[str, Sequence[float]]


def figures_of(comparison: Mapping[str, Any]) -> Figures:
    """The figures out of a `comparison.json`."""
    return Figures(
        win_rate_low=comparison["win_rate"]["rate"]["low"],
        gain_low=comparison["gain"]["low"],
        kl=comparison["kl"]["value"],
        length_growth=comparison["length_growth"],
        safety=comparison["safety"],
    )


def judge(config: RetrainConfig, figures: Figures) -> tuple[GateVerdict, ...]:
    """What each gate says that is on. The candidate passes where all of them held."""
    lower = (
        ("win_rate", config.minimum_win_rate, figures.win_rate_low),
        ("reward_gain", config.minimum_reward_gain, figures.gain_low),
    )
    upper = (
        ("kl", config.maximum_kl, figures.kl),
        ("length_growth", config.maximum_length_growth, figures.length_growth),
    )
    safety = ((gate.name, gate.maximum_rate, unsafe_rate(gate, figures.safety[gate.name])) for gate in config.safety)
    return (
        *(_verdict(name, limit, found, at_least=True) for name, limit, found in lower if limit is not None),
        *(_verdict(name, limit, found, at_least=False) for name, limit, found in upper if limit is not None),
        *(_verdict(f"safety:{name}", limit, found, at_least=False) for name, limit, found in safety),
    )


def unsafe_rate(gate: SafetyGate, scores: Sequence[float]) -> float:
    """Share of scores beyond the gate's threshold."""
    beyond = [score < gate.threshold if gate.unsafe == "below" else score > gate.threshold for score in scores]
    return sum(beyond) / len(beyond)


def _verdict(name: str, limit: float, found: float, *, at_least: bool) -> GateVerdict:
    margin = found - limit if at_least else limit - found
    # What is not a number is on neither side, and does not pass.
    return GateVerdict(gate=name, limit=limit, at_least=at_least, found=found, held=margin >= 0, margin=margin)
