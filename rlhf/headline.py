"""The figures that people compare runs by, and a run's verdict: the same words wherever a result is shown."""

from collections.abc import Mapping

ROWS = (
    ("gold reward, policy", "evaluation/policy_gold", "{:.3f}"),
    ("gold reward, SFT policy", "evaluation/baseline_gold", "{:.3f}"),
    ("gold reward, gain", "evaluation/gold_gain", "{:+.3f}"),
    ("win rate against SFT", "evaluation/win_rate", "{:.1%}"),
    ("the same, by the first reward model", "evaluation/score_win_rate", "{:.1%}"),
    ("the same, by the LLM judge", "evaluation/judge_win_rate", "{:.1%}"),
    ("LLM judge, agreement with people", "evaluation/judge_agreement", "{:.1%}"),
    ("hedged, easy questions", "evaluation/policy_hedging_easy", "{:.1%}"),
    ("hedged, hard questions", "evaluation/policy_hedging_hard", "{:.1%}"),
    ("KL to the SFT policy, nats/response", "evaluation/kl", "{:.2f}"),
    ("over-optimized from update", "evaluation/over_optimized_from", "{:.0f}"),
    ("reward model, held-out accuracy", "reward_audit/accuracy", "{:.1%}"),
)
"""Words, metric, and how it is written. Intervals are found by the suffixes _low and _high."""
FITNESS = {"unfit": 0.0, "unknown": 1.0, "weak": 2.0, "fit": 3.0}
"""The metric `reward_audit/fitness`, by the audit's verdict on the reward models."""
_BEFORE_ALL = {
    FITNESS["unfit"]: "The reward models are unfit by their audit, so what they say of the policy says little.",
    FITNESS["unknown"]: "Whether the reward models are fit is not known: the audit has too few held-out pairs to tell.",
}
KEPT_SFT = "No checkpoint was better than the SFT policy on held-out evidence, so the policy is the SFT policy."


def figure(metrics: Mapping[str, float], name: str, form: str) -> tuple[str, str]:
    """A metric's value, and its 95% interval; nothing where there is none."""
    ends = [form.format(metrics[end]) for end in (f"{name}_low", f"{name}_high") if end in metrics]
    return form.format(metrics[name]) if name in metrics else "", " to ".join(ends)


def verdict(metrics: Mapping[str, float]) -> str | None:
    """What a run came to, in a sentence or two; None where nothing was measured.

    What its audit says of the reward models stands first, where that puts the rest in doubt.

    Args:
        metrics: of a run's stages, by their names.
    """
    said = " ".join(filter(None, (_BEFORE_ALL.get(metrics.get("reward_audit/fitness", -1)), _of_policy(metrics))))
    return said or None


def _of_policy(metrics: Mapping[str, float]) -> str | None:
    # The start of a policy that went through several rounds is not the SFT policy.
    if metrics.get("policy/chosen_update") == 0 and not metrics.get("evaluation/kl"):
        return KEPT_SFT
    for name, form, even, words in (
        ("evaluation/gold_gain", "{:+.3f}", 0.0, "its gain in gold reward is"),
        ("evaluation/win_rate", "{:.1%}", 0.5, "its win rate is"),
    ):
        if not {name, f"{name}_low", f"{name}_high"} <= metrics.keys():
            continue
        value, interval = figure(metrics, name, form)
        if metrics[f"{name}_low"] > even:
            said = "is better than"
        elif metrics[f"{name}_high"] < even:
            said = "is worse than"
        else:
            said = "cannot be told from"
        return f"The policy {said} the SFT policy: {words} {value} ({interval})."
    return None
