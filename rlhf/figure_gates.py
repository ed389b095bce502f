"""Gates on a run's own figures: any that has an interval may decide whether the policy is offered as a candidate.

A gate looks at the end of the printed 95% interval that hurts, so it holds at 97.5%, one-sided. All gates must hold, so
a policy that is beyond a limit passes with the chance of that one gate at most, and nothing is corrected for the number
of gates.
"""

import math
from collections.abc import Mapping, Sequence

from rlhf.config.gates import FigureGate
from rlhf.errors import ConfigError, nearest
from rlhf.metrics import FAMILIES, METRICS
from rlhf.references import GateVerdict

_CONFIDENCE = 0.975
_MEASURED_BY = ("reward_audit/", "evaluation/")
_ENDS = ("_low", "_high")


def check_figures(gates: Sequence[FigureGate]) -> None:
    """Refuse gates on figures that no run has, or that have no interval.

    Raises:
        ConfigError: with the nearest figure that there is.
    """
    known = [name for name, metric in METRICS.items() if metric.interval and name.startswith(_MEASURED_BY)]
    known = [name for name in known if not name.endswith(_ENDS)]
    families = tuple(name for name, metric in FAMILIES.items() if metric.interval)
    for gate in gates:
        if gate.figure in known or (gate.figure.startswith(families) and not gate.figure.endswith(_ENDS)):
            continue
        has_none = f"{gate.figure} has no interval" if gate.figure in METRICS else f"there is no figure {gate.figure}"
        raise ConfigError(
            f"gates: {has_none}; the nearest one that a gate can look at is {nearest(gate.figure, known)}"
        )


def figure_verdicts(gates: Sequence[FigureGate], metrics: Mapping[str, float]) -> tuple[GateVerdict, ...]:
    """Verdicts of the gates, in their order. A figure that was not measured, or is no number, does not pass.

    Args:
        gates: of the recipe.
        metrics: of all stages of the run, by name.
    """
    return tuple(_verdict(gate, metrics) for gate in gates)


def explain_gate(gate: GateVerdict) -> str:
    """The reason why a gate did not hold, for a person."""
    if gate.words is not None:
        return f"{gate.gate}: the audit calls them {gate.words}"
    if math.isnan(gate.found):
        return f"{gate.gate} was not measured"
    least, side = ("least", "a lower") if gate.at_least else ("most", "an upper")
    of = "" if gate.value is None else f" of {gate.value:.4g}"
    by = f" by {gate.judge.replace('_', ' ')}" if gate.judge else ""
    text = (
        f"{gate.gate}{of}{by} has {side} bound of {gate.found:.4g} and must be at {least} {gate.limit:.4g} (off by "
        f"{abs(gate.margin):.4g})"
    )
    if gate.prompts is None:
        return text
    if gate.prompts_needed is None:
        return f"{text} on {gate.prompts:,} prompts, and more would not help"
    return f"{text} on {gate.prompts:,} prompts, where such a figure needs {gate.prompts_needed:,}"


def refusal(verdicts: Sequence[GateVerdict]) -> str | None:
    """A sentence for a policy that gates refuse; None where all held."""
    failed = "; ".join(explain_gate(verdict) for verdict in verdicts if not verdict.held)
    return f"The policy is refused by the recipe's gates: {failed}." if failed else None


def _verdict(gate: FigureGate, metrics: Mapping[str, float]) -> GateVerdict:
    at_least = gate.at_least is not None
    limit = gate.at_least if gate.at_least is not None else gate.at_most
    assert limit is not None, "a gate has one limit"
    found = metrics.get(f"{gate.figure}{'_low' if at_least else '_high'}", math.nan)
    margin = found - limit if at_least else limit - found
    return GateVerdict(
        gate=gate.figure,
        limit=limit,
        at_least=at_least,
        found=found,
        held=margin >= 0,
        margin=margin,
        value=metrics.get(gate.figure),
        confidence=_CONFIDENCE,
    )
