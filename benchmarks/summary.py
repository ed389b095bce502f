"""From cycles to what is said of a case: medians, ratios of pairs and their spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from benchmarks.cases import Case
from benchmarks.records import Cycle, Result

# Lengths depend on what is sampled, which no two trainers do alike; their means over a run must agree this far.
LENGTH_TOLERANCE = 0.1


@dataclass(frozen=True)
class Summary:
    """What the pairs of a case say. `row` is what is printed.

    Attributes:
        case: what was compared.
        row: the JSON line.
        cycles: where it comes from.
    """

    case: Case
    row: dict[str, Any]
    cycles: Sequence[Cycle]


class UnequalLengthsError(Exception):
    """The two sides did not do the same work."""


def summarize(case: Case, cycles: Sequence[Cycle]) -> Summary:
    """Medians over the pairs. A ratio is the peer's seconds over ours, within a pair."""
    ours, peer = [cycle.ours[case.name] for cycle in cycles], [cycle.peer for cycle in cycles]
    ratios = [theirs["wall_s"] / mine["wall_s"] for mine, theirs in zip(ours, peer, strict=True)]
    row = {
        "case": case.name,
        "ratio": round(median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "pairs": len(ratios),
        "target": case.target,
        "memory_ratio": round(_median(ours, "peak_rss_mb") / _median(peer, "peak_rss_mb"), 3),
        "memory_target": case.memory_target,
        "ours": side(ours),
        "peer": side(peer),
        "others_cores": max(max(c.others_cores[case.name], c.others_cores["peer"]) for c in cycles),
        "quiet": all(cycle.quiet for cycle in cycles),
        "when": cycles[-1].when,
        "commit": cycles[-1].commit,
        "machine": cycles[-1].machine,
    }
    return Summary(case, row, cycles)


def side(results: Sequence[Result]) -> dict[str, Any]:
    """Medians of one side's runs, every phase on its own; lengths of the first run, rollout by rollout."""
    phases = sorted({name for result in results for name in result["seconds"]})
    return {
        "seconds": round(_median(results, "wall_s"), 2),
        "phases": {name: round(median(r["seconds"].get(name, 0.0) for r in results), 2) for name in phases},
        "episodes_per_s": round(_median(results, "episodes_per_s"), 2),
        "peak_rss_mb": round(_median(results, "peak_rss_mb")),
        "optimizer_steps": results[0]["optimizer_steps"],
        "parameters": results[0]["parameters"],
        "threads": results[0]["threads"],
        "response_tokens": results[0]["response_tokens"],
        "response_tokens_mean": round(fmean(map(mean_length, results)), 2),
    }


def mean_length(result: Result) -> float:
    """Mean response of a run, in tokens."""
    return fmean(rollout["mean"] for rollout in result["response_tokens"])


def check_lengths(case: Case, cycles: Sequence[Cycle]) -> None:
    """Refuse a comparison of different work.

    Raises:
        UnequalLengthsError: a response ended where none should, or the mean lengths differ too much.
    """
    ours, peer = [cycle.ours[case.name] for cycle in cycles], [cycle.peer for cycle in cycles]
    if not case.settings.ends:
        full = case.settings.response_tokens
        short = [r for r in (*ours, *peer) if any(rollout["mean"] != full for rollout in r["response_tokens"])]
        if short:
            raise UnequalLengthsError(
                f"{case.name}: not every response has {full} tokens: {short[0]['response_tokens']}"
            )
        return
    mine, theirs = fmean(map(mean_length, ours)), fmean(map(mean_length, peer))
    if abs(mine - theirs) > LENGTH_TOLERANCE * theirs:
        raise UnequalLengthsError(
            f"{case.name}: responses have {mine:.1f} tokens on our side and {theirs:.1f} on the peer's; "
            f"{LENGTH_TOLERANCE:.0%} is allowed"
        )


def _median(results: Sequence[Result], name: str) -> float:
    return float(median(result[name] for result in results))
