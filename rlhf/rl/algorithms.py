"""What tells the methods that learn from rollouts apart: a row for each.

They differ in what a token is worth, in how a minibatch's tokens are averaged, in where the KL goes and in whether
there is a critic (`rlhf.config.rl.ROLLOUT_METHODS`), and in nothing else: all of them take the clipped surrogate loss,
whose gradient at a ratio of 1, where every rollout begins, is that of the log-probabilities weighted by the
advantages.

Shapes: B responses of a rollout, M of a minibatch, R token columns.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from rlhf.config.rl import ROLLOUT_METHODS, RLConfig, RolloutMethod
from rlhf.rl.advantages import group_centred, group_standardized, leave_one_out

GroupEstimate = Callable[[Tensor, Tensor, int], Tensor]
"""Advantages [B, R] from a token's rewards [B, R], the mask [B, R] and the responses to each prompt."""


@dataclass(frozen=True)
class Averaging:
    """How the losses of a minibatch's tokens become one: each times its row's weight, over the divisor.

    Attributes:
        divisor: from the minibatch's mask [M, R] and the longest response there may be.
        row_weights: weights [m] of rows, from their mask [m, R]; None: 1 for each.
    """

    divisor: Callable[[Tensor, int], int]
    row_weights: Callable[[Tensor], Tensor] | None = None


TOKEN_MEAN = Averaging(lambda mask, longest: int(mask.sum()))
"""Each token counts the same."""
RESPONSE_SUM = Averaging(lambda mask, longest: len(mask))
"""A response counts by the sum of its tokens: the gradient of its log-probability."""
RESPONSE_MEAN = Averaging(lambda mask, longest: len(mask), lambda mask: 1.0 / mask.sum(1))
"""Each response counts the same, whatever its length."""
CONSTANT = Averaging(lambda mask, longest: len(mask) * longest)
"""As RESPONSE_SUM, in other units: over the longest response that there may be."""


@dataclass(frozen=True)
class Algorithm:
    """A method.

    Attributes:
        method: what its settings go by.
        averaging: of a minibatch's tokens.
        estimate: advantages within a group; None: by a critic, or, for online DPO, at every optimizer step anew.
    """

    method: RolloutMethod
    averaging: Averaging
    estimate: GroupEstimate | None

    @property
    def by_pairs(self) -> bool:
        """Whether the best and the worst of a group are compared as the policy is at every optimizer step."""
        return self.method.has_groups and self.estimate is None

    def kl_in_loss(self, config: RLConfig) -> bool:
        """Whether the KL is a term of the loss, and not of the rewards."""
        return (config.kl_in or self.method.kl_in) == "loss"

    def kl_in_reward(self, config: RLConfig) -> bool:
        """Whether the KL is taken off the rewards."""
        return (config.kl_in or self.method.kl_in) == "reward"


ALGORITHMS: Mapping[str, Algorithm] = {
    "ppo": Algorithm(ROLLOUT_METHODS["ppo"], TOKEN_MEAN, None),
    "rloo": Algorithm(ROLLOUT_METHODS["rloo"], RESPONSE_SUM, leave_one_out),
    "grpo": Algorithm(ROLLOUT_METHODS["grpo"], RESPONSE_MEAN, group_standardized),
    "dr_grpo": Algorithm(ROLLOUT_METHODS["dr_grpo"], CONSTANT, group_centred),
    "online_dpo": Algorithm(ROLLOUT_METHODS["online_dpo"], RESPONSE_SUM, None),
}
