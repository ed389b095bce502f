"""Context of training a policy, whatever the method: settings, models that sample and judge, and prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlhf.config.policy import PolicyConfig
from rlhf.modeling.context import StageContext
from rlhf.modeling.conversations import Conversation
from rlhf.rewards.sources import Source

Config = TypeVar("Config", bound=PolicyConfig, covariant=True)


@dataclass(frozen=True)
class Prompts:
    """Prompts as they are written and as token ids."""

    conversations: Sequence[Conversation]
    ids: Sequence[Sequence[int]]

    def pick(self, index: Sequence[int]) -> "Prompts":
        """The prompts that `index` names, in its order."""
        return Prompts([self.conversations[i] for i in index], [self.ids[i] for i in index])


@dataclass(frozen=True, kw_only=True)
class PolicyModels:
    """The policy, and the frozen models that it is set beside.

    Attributes:
        policy: a causal language model, or what is called like one.
        ref_policy: the SFT policy.
        sources: what scores are made of, in the order of the configuration.
        selection_reward_model: chooses checkpoints; training does not see its scores.
        export_policy: a plain copy of the policy, to be saved; of a sharded one where it is `whole`.
    """

    policy: Any
    ref_policy: Any
    sources: tuple[Source, ...]
    selection_reward_model: Any
    export_policy: Callable[[], Any]


@dataclass(frozen=True)
class PolicyContext(StageContext[Config]):
    """The stage's context with the models and the prompts.

    Attributes:
        models: the policy and those that judge it.
        prompts: every training prompt.
    """

    models: PolicyModels
    prompts: Prompts
