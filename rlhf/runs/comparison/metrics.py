"""The results of two runs, and whether the difference is more than noise.

The noise that is meant is that of which test prompts were drawn and what was sampled for them. What another seed would
have trained is not in it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlhf.data.preparation.splits import prompt_key
from rlhf.metrics import COST_UNITS, METRICS
from rlhf.runs.comparison.run_view import RunView
from rlhf.runs.listing import MetricValue, metric_value

Noise = Literal["more than noise", "within noise", "no interval", "equal", "other judge"]
"""equal: to the last bit. other judge: each is scored by its own reward model, so that there is nothing to compare."""
Method = Literal["pairs", "intervals"]
_NUM_RESAMPLES = 2000
_SEED = 0
_SCORED = ("evaluation/score_win_rate", "evaluation/selection_score_win_rate")


@dataclass(frozen=True)
class Difference:
    """The second run's value less the first one's.

    Attributes:
        value: the difference.
        low: of its 95% interval.
        high: of the same.
        noise: what is to be thought of it.
        method: pairs: the same prompts, one by one, with a bootstrap. intervals: from those of the two values.
        better: the second run is the better one; None where there is nothing to tell, or neither way is better.
    """

    value: float
    low: float | None
    high: float | None
    noise: Noise
    method: Method | None
    better: bool | None


@dataclass(frozen=True)
class Result:
    """A metric of two runs.

    Attributes:
        metric: its name.
        unit: its unit.
        first: None where the first run has none.
        second: the same of the second.
        difference: None where one has none.
    """

    metric: str
    unit: str
    first: MetricValue | None
    second: MetricValue | None
    difference: Difference | None


@dataclass(frozen=True)
class _Paired:
    """The second run's value less the first one's, row by row, [N].

    Attributes:
        prompts: the key of each row's prompt, [N].
        differences: of the values, [N].
    """

    prompts: Sequence[str]
    differences: Sequence[float]


def compare_results(first: RunView, second: RunView) -> list[Result]:
    """The metrics by which people compare pipelines, of two runs."""
    pairs = _pairs(first, second)
    results = []
    for name, metric in METRICS.items():
        if not metric.summary or metric.unit in COST_UNITS or name.endswith(("_low", "_high")):
            continue
        a, b = _figure(name, first), _figure(name, second)
        if a is not None or b is not None:
            difference = _difference(name, a, b, pairs, _same_judge(name, first, second)) if a and b else None
            results.append(Result(name, metric.unit, a, b, difference))
    return results


def _figure(name: str, side: RunView) -> MetricValue | None:
    """A metric with its interval; that of a model's own figures stands in the evaluation's report only."""
    own = metric_value(side.metrics, name)
    model, _, what = name.removeprefix("evaluation/").partition("_")
    report = side.evaluation.get("models", {}).get(model, {}).get(what)
    if own is None or own.low is not None or not isinstance(report, dict):
        return own
    return MetricValue(own.value, report["low"], report["high"])


def seed_note(sides: Sequence[RunView]) -> str:
    """A sentence on what the intervals do not cover."""
    seeds = {side.settings.get("seed", "?") for side in sides}
    if len(seeds) == 1:
        return (
            f"All runs have the seed {seeds.pop()}, and each was trained once: the intervals cover which test prompts "
            "were drawn and what was sampled for them, not what another seed would have trained."
        )
    return (
        f"The seeds differ ({', '.join(sorted(seeds))}), and each run was trained once: a difference that is more than "
        "noise of prompts and sampling may still be the seed's."
    )


def of_two_intervals(first: MetricValue, second: MetricValue) -> tuple[float, float] | None:
    """The 95% interval of a difference, from those of two values that do not depend on each other.

    On the same prompts the two rather go together, and then it is wider than it need be.

    Source:
        Zou and Donner, "Construction of confidence limits about effect measures: a general approach", Statistics in
        Medicine 27 (2008), equation 3.
    """
    if None in (first.low, first.high, second.low, second.high):
        return None
    a_low, a_high, b_low, b_high = map(float, (first.low, first.high, second.low, second.high))  # type: ignore[arg-type]
    value = second.value - first.value
    below = ((second.value - b_low) ** 2 + (a_high - first.value) ** 2) ** 0.5
    above = ((b_high - second.value) ** 2 + (first.value - a_low) ** 2) ** 0.5
    return value - below, value + above


def _difference(
    name: str, first: MetricValue, second: MetricValue, pairs: Mapping[str, _Paired], same_judge: bool
) -> Difference:
    value = second.value - first.value
    interval, method = None, None
    if not same_judge:
        return Difference(value, None, None, "other judge", None, None)
    if name in pairs:
        interval, method = _by_pairs(pairs[name]), "pairs"
    elif (ends := of_two_intervals(first, second)) is not None:
        interval, method = ends, "intervals"
    noise: Noise = "no interval"
    if value == 0 and (interval is None or interval[0] <= 0 <= interval[1]):
        noise = "equal"
    elif interval is not None:
        noise = "within noise" if interval[0] <= 0 <= interval[1] else "more than noise"
    better = None
    if METRICS[name].better != "neither" and noise == "more than noise":
        better = (value > 0) == (METRICS[name].better == "higher")
    low, high = interval or (None, None)
    return Difference(value, low, high, noise, method, better)  # type: ignore[arg-type]


def _by_pairs(paired: _Paired) -> tuple[float, float]:
    from rlhf.evaluation.statistics import paired_bootstrap

    estimate = paired_bootstrap(paired.differences, _NUM_RESAMPLES, _SEED, paired.prompts)
    return estimate.low, estimate.high


def _same_judge(name: str, first: RunView, second: RunView) -> bool:
    """Scores of two reward models are on two scales, and what one prefers the other may not."""
    by_score = METRICS[name].unit == "score" or name in _SCORED
    if name.startswith("evaluation/judge_"):
        return _llm_judge(first) == _llm_judge(second)
    if name == "evaluation/win_rate":
        judges = [_judge(side) for side in (first, second)]
        if judges[0] != judges[1]:
            return False
        by_score = judges[0] != "gold"
    return not by_score or first.made("reward_model") == second.made("reward_model")


def _llm_judge(side: RunView) -> tuple[Any, Any]:
    """The model and the criteria of a run's LLM judge."""
    judged = side.evaluation.get("llm_judge") or {}
    return judged.get("model"), judged.get("criteria")


def _judge(side: RunView) -> str:
    """Who gave a run's headline win rate; runs of long ago took the reward model that PPO climbed for it."""
    default = "gold" if "evaluation/policy_gold" in side.metrics else "selection_reward_model"
    return str(side.evaluation.get("judge", default))


def _pairs(first: RunView, second: RunView) -> dict[str, _Paired]:
    """Differences prompt by prompt, by metric; none unless both runs kept all prompts, and they are the same ones."""
    rows = [_kept_rows(side) for side in (first, second)]
    if not rows[0] or not rows[1] or rows[0].keys() != rows[1].keys():
        return {}
    judges = next(iter(rows[0].values()))["policy"].keys() & next(iter(rows[1].values()))["policy"].keys()
    values = _VALUES | {"evaluation/win_rate": _wins(_judge(first))}
    prompts = [prompt_key(row["prompt"]) for row in rows[0].values()]
    return {
        name: _Paired(prompts, [value(rows[1][prompt]) - value(rows[0][prompt]) for prompt in rows[0]])
        for name, (judge, value) in values.items()
        if judge in judges and len(rows[0]) > 1
    }


def _kept_rows(side: RunView) -> dict[str, Any]:
    """The rows that evaluation kept, by prompt; none where that is not all of them, as of an older run."""
    rows = side.read_rows("evaluation", "judgements.jsonl")
    # Older runs have counted their responses as prompts.
    prompts = side.metrics.get("evaluation/num_prompts")
    if len(rows) != side.metrics.get("evaluation/num_responses", prompts):
        return {}
    return {json.dumps(row["prompt"], sort_keys=True): row for row in rows}


def _of(model: str, judge: str) -> tuple[str, Callable[[Any], float]]:
    return judge, lambda row: float(row[model][judge])


def _gain(judge: str) -> tuple[str, Callable[[Any], float]]:
    return judge, lambda row: float(row["policy"][judge] - row["baseline"][judge])


def _wins(judge: str) -> tuple[str, Callable[[Any], float]]:
    """1 where the policy wins, 0 where it loses, one half for a tie."""

    def value(row: Any) -> float:
        ours, theirs = row["policy"][judge], row["baseline"][judge]
        return 0.5 if ours == theirs else float(ours > theirs)

    return judge, value


_VALUES: dict[str, tuple[str, Callable[[Any], float]]] = {
    "evaluation/policy_gold": _of("policy", "gold"),
    "evaluation/baseline_gold": _of("baseline", "gold"),
    "evaluation/gold_gain": _gain("gold"),
    "evaluation/policy_score": _of("policy", "reward_model"),
    "evaluation/selection_score_win_rate": _wins("selection_reward_model"),
    "evaluation/score_win_rate": _wins("reward_model"),
}
"""The value that a prompt contributes to a metric, and its judge."""
