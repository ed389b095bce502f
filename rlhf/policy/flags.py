"""Remarks on a finished run, for the readers of its card."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.config.policy import PolicyConfig
from rlhf.policy.objective import best_evaluation, paired_gain
from rlhf.policy.turn import describe_turn, turn_of


def run_flags(
    config: PolicyConfig,
    evaluations: Sequence[Mapping[str, Any]],
    stopped_because: str,
    alarms: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Sentences about a run that a reader of its card should see; none where all went well.

    Args:
        config: the method's settings.
        evaluations: the held-out ones, in order.
        stopped_because: why the run ended.
        alarms: those that went off, in order.
    """
    best = best_evaluation(evaluations, config.kl_budget)
    flags = []
    if stopped_because == "kl_budget":
        flags.append(
            f"Training was stopped because the KL to the SFT policy passed {config.kl_budget:g} nats per response."
        )
    if stopped_because == "turn":
        flags.append(f"Training was stopped early. {describe_turn(turn_of(evaluations), best['update'])}")
    if best["update"] == 0:
        flags.append(_why_none_was_chosen(config, evaluations))
    if not any(source.kind == "trained" for source in config.rewards):
        flags.append(
            "The checkpoint was chosen by the score that training climbs, on prompts that it did not train on: "
            "no source is the trained reward model, which the selection reward model could stand for. Whether the "
            "score is what is wanted, this cannot show."
        )
    for alarm in alarms:
        ended = " It ended the run." if alarm["name"] == stopped_because else ""
        recovered = ""
        if alarm["name"] == "overoptimization" and best["update"] > alarm["update"]:
            recovered = (
                f" The run recovered: held-out evidence was best after update {best['update']}, which was chosen."
            )
        flags.append(f"Alarm `{alarm['name']}` after update {alarm['update']}: {alarm['message']}.{ended}{recovered}")
    return flags


def _why_none_was_chosen(config: PolicyConfig, evaluations: Sequence[Mapping[str, Any]]) -> str:
    """No checkpoint was chosen, and how near the best came."""
    kept = "so the SFT policy was kept."
    within = [evaluation for evaluation in evaluations[1:] if evaluation["kl"] <= config.kl_budget]
    if not within:
        beyond = f"Every checkpoint was beyond the KL budget of {config.kl_budget:g} nats per response on held-out"
        return f"{beyond} prompts, {kept} Raise kl_coef, lower the learning rate, or evaluate more often."
    best = max(within, key=lambda evaluation: evaluation["objective"])
    if len(best["objectives"]) < 2:
        return (
            f"With one validation prompt no checkpoint can be shown to be better than the SFT policy, {kept} Raise "
            f"num_validation_prompts."
        )
    gain = paired_gain(best, evaluations[0])
    if gain.mean > 0:
        return (
            f"No checkpoint was better than the SFT policy on held-out evidence by more than the standard error "
            f"(update {best['update']}: {gain.mean:+.3f}, standard error {gain.standard_error:.3f}), {kept}"
        )
    return f"No checkpoint was better than the SFT policy on held-out evidence, {kept}"
