"""The tables of the model card, from what the stages wrote as JSON.

All figures stand with their 95% intervals, whose unit is the prompt.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rlhf.addresses import with_public_addresses
from rlhf.config.policy import PolicyConfig, RewardSourceConfig
from rlhf.references import GateVerdict, StageReport
from rlhf.rewards import functions as reward_functions
from rlhf.text.markdown import escape, table

PLACEHOLDER = "PATH/TO"
REWARD_MODELS = {
    "reward_model": "Reward model",
    "selection_reward_model": "Selection reward model (chooses checkpoints)",
}
JUDGES = {
    "gold": "the gold rule",
    "selection_reward_model": "the selection reward model",
    "reward_model": "the reward model that PPO climbed",
}
_KINDS = ("demonstrations", "preferences", "prompts")
_SPLITS = ("train", "selection", "validation", "test", "gate")
_PREPARATION = {
    "duplicates": "Exact duplicates, left out",
    "leaks": "Found in an evaluation split as well, left out of training",
    "cut_dialogues": "Dialogues that lost their oldest turns",
    "too_long": "Too long even so, left out",
}
# What a model's figures are called in evaluation.json, beside the judge that gives them.
_FIGURES_OF_JUDGES = {"gold": "gold", "reward_model": "score", "selection_reward_model": "selection_score"}
_NUMBERS = {
    "gold": "Gold reward",
    "selection_score": "Score by the selection reward model",
    "score": "Score by the reward model that PPO climbed",
    "response_tokens": "Response length in tokens",
}
_SHARES = {
    "hedging_easy": "Hedged answers, easy questions",
    "hedging_hard": "Hedged answers, hard questions",
    "accuracy_easy": "Right answers, easy questions",
    "accuracy_hard": "Right answers, hard questions",
    "eos_rate": "Responses that end by themselves",
    "refusal_rate": "Responses that refuse, fully or partially",
}


def results_table(evaluation: Mapping[str, Any], climbed: str | None = "PPO") -> str:
    """Figures of baseline and policy side by side, with the paired gain where there is one.

    Args:
        evaluation: `evaluation.json`.
        climbed: the method that climbed the reward model, be it among others; None where none did.
    """
    baseline, policy = evaluation["models"]["baseline"], evaluation["models"]["policy"]
    gains = {_FIGURES_OF_JUDGES[judge]: value_text(gain, "+.3f") for judge, gain in evaluation["gains"].items()}
    rows = [
        [_of_judge(label, climbed), value_text(baseline[name]), value_text(policy[name]), gains.get(name, "")]
        for name, label in _NUMBERS.items()
        if name in policy
    ]
    rows += [
        [label, share_text(baseline[name]), share_text(policy[name]), ""]
        for name, label in _SHARES.items()
        if name in policy
    ]
    rows += [[f"Distinct-{n}", *(f"{model[f'distinct_{n}']:.3f}" for model in (baseline, policy)), ""] for n in (1, 2)]
    return table(["", "SFT baseline", "Policy", "Paired gain"], rows)


def gates_table(gates: Sequence[GateVerdict]) -> str | None:
    """What each gate on the run's figures asks for, and found; None without gates."""
    rows = [
        [
            f"`{gate.gate}`",
            f"at {'least' if gate.at_least else 'most'} {gate.limit:.4g}",
            "not measured" if gate.value is None else f"{gate.value:.4g}",
            f"{gate.found:.4g}",
            "yes" if gate.held else "**no**",
        ]
        for gate in gates
    ]
    return table(["Figure", "Limit", "Value", "End of its interval", "Held"], rows, numbers=[2, 3]) if rows else None


def wins_table(evaluation: Mapping[str, Any], climbed: str | None = "PPO") -> str:
    """Wins, ties and losses of the policy against the baseline, a row per judge; arguments as of `results_table`."""
    rows = [
        [
            _of_judge(JUDGES[judge], climbed),
            *(f"{wins[name]:,}" for name in ("wins", "ties", "losses", "num_prompts")),
            share_text(wins["rate"]),
        ]
        for judge, wins in evaluation["win_rates"].items()
    ]
    return table(["Judged by", "Wins", "Ties", "Losses", "Prompts", "Win rate, ties half"], rows)


def _of_judge(label: str, climbed: str | None) -> str:
    return label.replace("PPO", climbed) if climbed else label.removesuffix(" that PPO climbed")


def curve_table(curve: Sequence[Mapping[str, Any]]) -> str:
    """The held-out evaluations of the policy on its way, the chosen one marked."""
    has_gold = curve[0]["gold"] is not None
    header = ["Update", "KL", "Score", "Selection score", *(["Gold reward"] if has_gold else []), "Distinct-2"]
    rows = [
        [
            f"**{point['update']}** (chosen)" if point["chosen"] else str(point["update"]),
            *(value_text(point[name]) for name in ("kl", "score", "selection_score", *(["gold"] if has_gold else []))),
            f"{point['distinct_2']:.3f}",
        ]
        for point in curve
    ]
    return table(header, rows)


def composition_table(report: Mapping[str, Any]) -> str:
    """Rows of every split."""
    splits = report["splits"]
    rows = [
        [kind, *(f"{splits[f'{kind}/{split}']:,}" if f"{kind}/{split}" in splits else "" for split in _SPLITS)]
        for kind in (*_KINDS, *(["labels"] if "labels/train" in splits else []))
    ]
    return table(["", *_SPLITS], rows)


def preparation_table(report: Mapping[str, Any]) -> str:
    """The rows that the data stage took out or changed, by kind of row, and its findings."""
    rows = [
        [label, escape(kind), f"{count:,}"]
        for name, label in _PREPARATION.items()
        for kind, count in report[name].items()
    ]
    rows.append(["Pairs of responses that stand in both orders", "preferences", f"{report['label_conflicts']:,}"])
    return table(["", "Where", "Rows"], rows)


def lengths_table(report: Mapping[str, Any]) -> str:
    """Lengths of the prompts in tokens."""
    columns = ("min", "median", "p95", "max")
    rows = [
        [escape(name), *(f"{lengths[column]:.0f}" for column in columns)]
        for name, lengths in report["lengths_in_tokens"].items()
    ]
    return table(["Length in tokens", *columns], rows)


def combination_text(config: PolicyConfig) -> str:
    """What the sources' scores come to together."""
    return {
        "sum": "the weighted sum of these sources",
        "worst": "the smallest weighted score of these sources",
        "mean_less_variance": f"the mean of these sources' weighted scores less {config.variance_coef:g} times their "
        f"variance",
        "safety_first": f"that of {escape(str(config.safety_source))} where it gives a probability below "
        f"{config.safety_threshold:g}, else the weighted sum of the others, normalized",
    }[config.rewards_combination]


def stages_table(stages: Sequence[StageReport]) -> str:
    """The run that trained each stage, and the time that this took."""
    rows = [
        [
            stage.name.replace("_", " "),
            f"run `{stage.run_id}`" + (", reused here" if stage.state == "cached" else ""),
            f"{stage.trained_seconds:.1f}",
        ]
        for stage in stages
    ]
    return table(["Stage", "Trained by", "Seconds"], rows)


def settings_table(section: BaseModel) -> str:
    """Every setting of a section, with the words that document it."""
    return table(["Setting", "Value", "Meaning"], _settings(section))


def _settings(section: BaseModel, prefix: str = "") -> Iterator[list[str]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            shown = "none" if value is None else escape(_written(value))
            yield [f"`{prefix}{name}`", shown, escape(field.description or "")]


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps(portable([item.model_dump() if isinstance(item, BaseModel) else item for item in value]))
    return str(portable(value))


def sources_table(sources: Sequence[RewardSourceConfig]) -> str:
    """The sources of the score, a row for each."""
    rows = [
        [escape(source.name), _kind_of_source(source), f"{source.weight:g}", "yes" if source.normalize else "no"]
        for source in sources
    ]
    return table(["Source", "What it is", "Weight", "Normalized"], rows)


def _kind_of_source(source: RewardSourceConfig) -> str:
    if source.kind == "trained":
        return "the reward model of this run"
    if source.kind == "function":
        return f"a function of {escape(reward_functions.distribution(reward_functions.find_function(source.name)))}"
    revision = f" at revision {source.revision}" if source.revision else ""
    return escape(f"the reward model {portable(source.path)}{revision}")


def portable(value: object) -> object:
    """Settings without folders of this machine: of an absolute path the last part is kept."""
    if isinstance(value, dict):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [portable(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return f"{PLACEHOLDER}/{Path(value).name}"
    return value


def portable_command(command: str) -> str:
    """A command line without folders of this machine, and with addresses as they may be shown."""
    words = [word.rpartition("=") for word in shlex.split(with_public_addresses(command))]
    return shlex.join(f"{flag}{equals}{portable(last)}" for flag, equals, last in words)


def value_text(estimate: Mapping[str, float], form: str = ".3f") -> str:
    """A figure with its interval."""
    return f"{estimate['value']:{form}} ({estimate['low']:{form}} to {estimate['high']:{form}})"


def share_text(estimate: Mapping[str, float]) -> str:
    """A share with its interval, as percentages."""
    return f"{estimate['value']:.1%} ({estimate['low']:.1%} to {estimate['high']:.1%})"


def count_text(number: int) -> str:
    """A large number in words."""
    for size, name in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"{number / size:.2f} {name}"
    return f"{number:,}"
