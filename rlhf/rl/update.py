"""One update from beginning to end: a rollout, what is learned from it, and its metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.modeling.cpu.memory import trim_heap
from rlhf.policy.kl import kl_k3, response_kl
from rlhf.rewards.sources import RunningMoments, is_unsafe
from rlhf.rl.advantages import constant_groups
from rlhf.rl.checks import check_kl_starts_at_zero, check_ratio_starts_at_one, check_sampling_is_scored
from rlhf.rl.context import RLContext
from rlhf.rl.loss import explained_variance
from rlhf.rl.optimization import MinibatchStatistics, optimize, set_learning_rates
from rlhf.rl.rollout import Rollout, collect_rollout, sampling_error


@dataclass(frozen=True)
class Update:
    """Rollout and metrics of an update.

    Attributes:
        rollout: what it learned from.
        metrics: by the names of `rlhf.metrics`.
    """

    rollout: Rollout
    metrics: dict[str, float]


def run_update(
    context: RLContext, update: int, kl_coef: float, moments: Mapping[str, RunningMoments] | None = None
) -> Update:
    """Collect a rollout and learn from it.

    Args:
        context: of the run.
        update: number of the update, from 0; with the seed it decides prompts, noise and minibatches.
        kl_coef: weight of the KL penalty.
        moments: of the sources' scores in the rollouts before.

    Raises:
        StartError: before the first update tokens are sampled from another distribution than they are scored by or
            the KL is not 0, or the ratio is not 1 on the first minibatch.
        FloatingPointError: the policy's logits are not finite.
        ScoringError: a source failed, or its scores are not one finite number for each response.
    """
    config, dtype = context.config, context.compute.dtype
    share = set_learning_rates(context.optimizers, config, update)
    rollout = collect_rollout(context, update, kl_coef, moments or {})
    if update == 0:
        check_sampling_is_scored(sampling_error(context, rollout, update), config.alarms, dtype)
        check_kl_starts_at_zero(rollout, config.alarms, dtype)
    if config.sharing == "adapters":  # wants little memory; training does not fit into the holes of sampling
        trim_heap()
    statistics = optimize(context, rollout, update)
    if not config.side_by_side:  # which gives memory for time
        trim_heap()
    if update == (config.num_critic_warmup_updates if context.algorithm.method.has_critic else 0):
        check_ratio_starts_at_one(statistics[0], config.alarms, dtype)
    of_steps = {"policy/kl_coef": kl_coef, "policy/learning_rate": config.learning_rate * share}
    if context.algorithm.method.has_groups:
        of_steps["policy/constant_groups"] = constant_groups(rollout.scores, config.num_responses_per_prompt)
    if config.rewards_combination == "safety_first":
        of_steps["policy/unsafe_share"] = float(is_unsafe(config, rollout.source_scores).float().mean())
    return Update(rollout, _metrics(rollout, statistics) | of_steps)


def _metrics(rollout: Rollout, statistics: Sequence[MinibatchStatistics]) -> dict[str, float]:
    mask = rollout.batch.response_mask
    kl = response_kl(rollout.kl, mask)
    means = {
        f"policy/{name}": sum(s[name] for s in statistics) / len(statistics)
        for name in statistics[0]
        if name != "ratio_error"
    }
    if "ratio_error" in statistics[0]:
        means["policy/ratio_error"] = statistics[0]["ratio_error"]
    critic = {}
    if rollout.values is not None and rollout.returns is not None:
        critic = {"policy/explained_variance": explained_variance(rollout.values, rollout.returns, mask)}
    sources = {f"policy/source_score_mean/{name}": float(s.mean()) for name, s in rollout.source_scores.items()}
    return (
        means
        | (sources if len(sources) > 1 else {})
        | {
            "policy/score_mean": float(rollout.scores.mean()),
            "policy/score_std": float(rollout.scores.std()),
            "policy/kl_mean": float(kl.mean()),
            "policy/kl_k3_mean": float(response_kl(kl_k3(rollout.old_logprobs, rollout.ref_logprobs), mask).mean()),
            "policy/entropy": float(rollout.entropy.sum() / mask.sum()),
            "policy/reward_mean": float(rollout.rewards.sum(1).mean()),
            "policy/response_tokens_mean": float(mask.sum(1).float().mean()),
            "policy/eos_rate": float(rollout.ended.float().mean()),
        }
        | critic
    )
