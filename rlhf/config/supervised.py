"""Settings of supervised fine-tuning and of the reward models."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, Fraction, NonNegative, Positive, Section
from rlhf.config.model import LoraConfig


def policy_name(number: int) -> str:
    """The folder of an SFT policy, from 1 on, of which the first is the one that is aligned."""
    return "policy" if number == 1 else f"policy_{number}"


def member_name(member: int) -> str:
    """The folder of a member of the ensemble, from 1 on, and the name that its metrics start with."""
    return "reward_model" if member == 1 else f"reward_model_{member}"


class TrainingSection(Section):
    """Settings that the supervised stages share."""

    num_epochs: Positive = 1.0
    """Passes over the training rows."""
    batch_size: Count = 64
    """Rows (of a reward model: pairs, or prompts where rankings is groups) per optimizer step."""
    micro_batch_size: Count | None = None
    """Rows per forward pass; gradients are accumulated up to batch_size. Empty: batch_size."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW; linear decay to zero."""
    warmup_fraction: Fraction = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    checkpoint_every_seconds: Positive = 300.0
    """Seconds between checkpoints, from which a killed stage goes on."""
    lora: LoraConfig | None = None
    """Adapters, trained in place of all weights. Empty: all weights are trained."""

    @model_validator(mode="after")
    def _micro_batches_divide(self) -> Self:
        self._check_multiple("batch_size", "micro_batch_size")
        return self


class SFTConfig(TrainingSection):
    """Supervised fine-tuning on the demonstrations' completions."""

    num_policies: Annotated[int, Field(ge=1, le=16)] = 1
    """SFT policies, each of a seed of its own. The first is the one that is aligned; members of an ensemble of reward
    models start from the others (reward_model.members_start_from)."""
    num_samples: Annotated[int, Field(ge=0, le=1000)] = 16
    """Responses to validation prompts that are kept as a table."""


class RewardModelConfig(TrainingSection):
    """Training of the two reward models from the SFT weights (Bradley-Terry loss; margins, soft labels of the data)."""

    rankings: Literal["pairs", "groups"] = "pairs"
    """Unit of a batch. pairs: a comparison of two responses. groups: a prompt with all its comparisons, and the mean
    over them counts; a response of several pairs is read once per step (InstructGPT, 2203.02155)."""
    num_members: Annotated[int, Field(ge=1, le=16)] = 1
    """Reward models of the ensemble that the policy climbs. Each is a source of rl.rewards, such as {kind: trained,
    member: 2}; rl.rewards_combination says what they come to together. The selection reward model is none of them."""
    members_learn_from: Literal["parts", "all"] = "parts"
    """Pairs of each member. parts: those of prompts of its own, a num_members-th of all. all: all of them; members then
    differ in head and order alone, and share more of their errors."""
    members_start_from: Literal["one", "own"] = "one"
    """SFT policy that each member starts from. one: the same for all. own: one of its own seed, of which
    sft.num_policies has as many; such members share fewer of their errors (2312.09244)."""
    margin_by_rating: tuple[NonNegative, ...] = ()
    """Margin of each rating, where the field margin of a row is a rating 0, 1, 2 and so on; Llama 2 (2307.09288) has
    [0, 0.333, 0.667, 1] and [0, 1, 2, 3]. Empty: the field is the margin itself."""
    judge_weight: Positive = 1.0
    """Weight in the loss of a pair that a judge has labelled; that of all others is 1."""
    num_centring_rows: Count = 512
    """Demonstrations whose mean score becomes the score_offset, so that demonstrations score 0 on average."""
    centring_split: Literal["train", "validation"] = "train"
    """Split of these demonstrations. SFT has learned those of train by heart."""

    @model_validator(mode="after")
    def _members_are_several(self) -> Self:
        for name, default in (("members_learn_from", "parts"), ("members_start_from", "one")):
            if self.num_members == 1 and getattr(self, name) != default:
                raise ValueError(f"{name} is set but num_members is 1, so it would be ignored")
        return self
