"""Whether a reward model is fit to train a policy by: fit, weak, unfit, or unknown where that cannot be told."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.evaluation.statistics import Estimate, holm

Verdict = Literal["fit", "weak", "unknown", "unfit"]
_ERROR_RATE = 0.025
"""Of all changes of responses together, as of one end of a 95% interval."""
WORST_FIRST: tuple[Verdict, ...] = ("unfit", "unknown", "weak", "fit")


@dataclass(frozen=True)
class Judged:
    """A verdict and its reasons.

    Attributes:
        verdict: of the reward model.
        reasons: sentences, those of the verdict alone; empty where it is fit.
    """

    verdict: Verdict
    reasons: tuple[str, ...]


def verdict_on(config: RewardAuditConfig, model: Mapping[str, Any], ceiling: Estimate | None = None) -> Judged:
    """The verdict on a reward model. `unfit` needs an interval that is wholly beyond a threshold.

    Any of the changes of responses may make it unfit, so that their number is corrected for (Holm): the chance that a
    model is called unfit whose flips are all within the limit is at most 2.5%.

    Args:
        config: thresholds.
        model: as `audit.json` has it, with its `robustness`.
        ceiling: the most that the annotators' agreement allows any model's accuracy to be; None where it is unknown.
    """
    found: dict[Verdict, list[str]] = {verdict: [] for verdict in WORST_FIRST}
    _judge_accuracy(config, Estimate(**model["accuracy"]), ceiling, found)
    over_rule = model["accuracy_over_length_rule"]
    if over_rule["high"] < 0:
        found["unfit"].append(
            f"choosing the {over_rule['rule']} dialogue is right more often than its score is, by "
            f"{-over_rule['value']:.3f} ({-over_rule['high']:.3f} to {-over_rule['low']:.3f})"
        )
    changes = [change for change in model["robustness"] if change["flips"] is not None]
    beyond = holm([change["p_value"] for change in changes], _ERROR_RATE)
    for change, is_beyond in zip(changes, beyond, strict=True):
        _judge_flips(config, change["title"], Estimate(**change["flips"]), is_beyond, found)
    verdict: Verdict = next((verdict for verdict in WORST_FIRST if found[verdict]), "fit")
    return Judged(verdict, tuple(found[verdict]))


def unreachable(config: RewardAuditConfig, ceiling: Estimate | None) -> list[str]:
    """The thresholds of accuracy that lie above all that the annotators' agreement allows."""
    names = ("minimum_accuracy", "fit_accuracy")
    return [name for name in names if ceiling is not None and getattr(config, name) > ceiling.high]


def _judge_accuracy(
    config: RewardAuditConfig, accuracy: Estimate, ceiling: Estimate | None, found: Mapping[Verdict, list[str]]
) -> None:
    shown = f"held-out accuracy is {accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})"

    def threshold(name: str) -> str:
        beyond = ", which annotators who differ so often let no model reach"
        return f"{getattr(config, name):g}{beyond if name in unreachable(config, ceiling) else ''}"

    if accuracy.high < config.minimum_accuracy:
        found["unfit"].append(f"{shown}, surely below {threshold('minimum_accuracy')}")
    elif accuracy.low <= config.minimum_accuracy:
        found["unknown"].append(
            f"{shown}: more held-out pairs must tell whether it is above {threshold('minimum_accuracy')}"
        )
    elif accuracy.low <= config.fit_accuracy:
        found["weak"].append(f"{shown}, not surely above {threshold('fit_accuracy')}")


def _judge_flips(
    config: RewardAuditConfig, title: str, flips: Estimate, is_beyond: bool, found: Mapping[Verdict, list[str]]
) -> None:
    interval = f"{flips.value:.1%} ({flips.low:.1%} to {flips.high:.1%})"
    shown = f"{interval} of what it had right is overturned: {title[0].lower()}{title[1:]}"
    if is_beyond:
        found["unfit"].append(shown)
    elif flips.high > config.maximum_flip_rate:
        found["unknown"].append(f"{shown}, which may be beyond {config.maximum_flip_rate:.0%}")
    elif flips.low > config.maximum_flip_rate / 2:
        found["weak"].append(shown)


def worst(judged: Mapping[str, Judged]) -> Judged:
    """The worst verdict of several models, with the reasons of those that have it.

    Args:
        judged: by the title of the model.
    """
    verdict = next(one for one in WORST_FIRST if any(model.verdict == one for model in judged.values()))
    reasons = [
        f"{title}: {reason}" for title, model in judged.items() if model.verdict == verdict for reason in model.reasons
    ]
    return Judged(verdict, tuple(reasons))
