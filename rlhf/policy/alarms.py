"""Alarms: what goes wrong while a policy is trained, each with the name of its likely cause.

An alarm goes off once its condition has held for some updates in a row. It is told once, and again after it had ended.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rlhf.config.policy import EvaluationAlarms
from rlhf.config.rl import AlarmsConfig
from rlhf.policy.objective import best_evaluation, paired_gain

_COMPARED_WITH_THE_FIRST = ("policy/entropy", "policy/eos_rate", "policy/response_tokens_mean")


@dataclass(frozen=True)
class Alarm:
    """An alarm that went off.

    Attributes:
        name: of the threshold in the configuration.
        update: after which it went off.
        message: what was seen, and the likely cause.
        fatal: it ends the run.
    """

    name: str
    update: int
    message: str
    fatal: bool


@dataclass(frozen=True)
class AlarmState:
    """The alarms' memory of a run.

    Attributes:
        first: metrics of the first rollout.
        streaks: for how many updates in a row each condition has held.
        raised: alarms that went off, as dictionaries, in order.
    """

    first: dict[str, float] = field(default_factory=dict)
    streaks: dict[str, int] = field(default_factory=dict)
    raised: list[dict[str, Any]] = field(default_factory=list)


def watch_update(
    config: AlarmsConfig, memory: AlarmState, metrics: Mapping[str, float], update: int
) -> tuple[AlarmState, list[Alarm]]:
    """Look at one update's metrics.

    Args:
        config: thresholds.
        memory: of the updates before.
        metrics: of this update, by the names of `rlhf.metrics`.
        update: its number, from 1.

    Returns:
        The memory with this update in it, and the alarms that went off now.
    """
    first = memory.first or {name: metrics[name] for name in _COMPARED_WITH_THE_FIRST}
    conditions = dict(_conditions(config, first, metrics))
    streaks = {name: memory.streaks.get(name, 0) + 1 for name in conditions}
    alarms = [
        Alarm(name, update, conditions[name], name in config.fatal)
        for name, streak in streaks.items()
        if streak == config.patience
    ]
    kept = {"overoptimization": memory.streaks.get("overoptimization", 0)}
    return AlarmState(first, kept | streaks, [*memory.raised, *map(asdict, alarms)]), alarms


def watch_evaluations(
    config: EvaluationAlarms, memory: AlarmState, evaluations: Sequence[Mapping[str, Any]], kl_budget: float
) -> tuple[AlarmState, list[Alarm]]:
    """Look at the newest held-out evaluation, beside the best one.

    Args:
        config: thresholds.
        memory: of the run so far.
        evaluations: all of them, in order.
        kl_budget: that bounds what may be the best, nats per response.
    """
    last, best = evaluations[-1], best_evaluation(evaluations, kl_budget)
    rise, loss = paired_gain(last, best, "scores"), paired_gain(best, last)
    threshold = config.overoptimization
    holds = threshold is not None and rise.exceeds(threshold) and loss.exceeds(threshold)
    streak = memory.streaks.get("overoptimization", 0) + 1 if holds else 0
    memory = replace(memory, streaks=memory.streaks | {"overoptimization": streak})
    if streak != 1:
        return memory, []
    message = (
        f"the score rose from {best['score']:.2f} (update {best['update']}) to {last['score']:.2f}, by "
        f"{rise.in_errors}, while held-out evidence fell from {best['objective']:.2f} to {last['objective']:.2f}, by "
        f"{loss.in_errors}: the policy exploits what the reward model does not know; raise kl_coef, or train the "
        f"reward model on more pairs"
    )
    alarm = Alarm("overoptimization", last["update"], message, "overoptimization" in config.fatal)
    return replace(memory, raised=[*memory.raised, asdict(alarm)]), [alarm]


def _conditions(
    config: AlarmsConfig, first: Mapping[str, float], metrics: Mapping[str, float]
) -> Iterator[tuple[str, str]]:
    """Names and messages of the conditions that hold."""
    kl = metrics["policy/kl_mean"]
    if config.negative_kl is not None and kl < -config.negative_kl:
        yield (
            "negative_kl",
            f"the mean KL fell from 0 to {kl:.2f} nats per response, which no distribution has: tokens are scored by "
            f"another one than they were sampled from, and the penalty pays the policy for it; look at temperature, "
            f"masks and EOS",
        )
    entropy, start = metrics["policy/entropy"], first["policy/entropy"]
    if config.entropy_collapse is not None and entropy < config.entropy_collapse * start:
        yield (
            "entropy_collapse",
            f"the entropy fell from {start:.3f} to {entropy:.4f} nats per token: the policy says one thing only; lower "
            f"the learning rate, or raise kl_coef or entropy_coef",
        )
    eos_rate, start = metrics["policy/eos_rate"], first["policy/eos_rate"]
    if config.eos_rate_fall is not None and eos_rate < start - config.eos_rate_fall:
        yield (
            "eos_rate_fall",
            f"responses that end fell from {start:.0%} to {eos_rate:.0%}: the score likes them unfinished, or longer; "
            f"raise missing_eos_penalty or max_response_tokens",
        )
    length, start = metrics["policy/response_tokens_mean"], first["policy/response_tokens_mean"]
    if config.length_growth is not None and length > config.length_growth * start:
        yield (
            "length_growth",
            f"responses grew from {start:.1f} to {length:.1f} tokens: the reward model likes length; see its audit, or "
            f"set length_penalty",
        )
    if "policy/explained_variance" not in metrics:
        return  # what follows is of a critic
    explained = metrics["policy/explained_variance"]
    if (
        config.explained_variance is not None
        and "policy/policy_loss" in metrics
        and explained < config.explained_variance
    ):
        yield (
            "explained_variance",
            f"the value model explains {explained:.2f} of the returns' variance, which is worse than their mean does: "
            f"advantages are noise; raise num_critic_warmup_updates or value_learning_rate",
        )
    clipped = metrics["policy/value_clip_fraction"]
    if config.value_clipping is not None and clipped > config.value_clipping:
        yield (
            "value_clipping",
            f"{clipped:.0%} of the value losses are clipped: scores are large beside value_clip_range; raise it, or "
            f"normalize the score",
        )
