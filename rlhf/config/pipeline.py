"""All settings of a recipe.

The docstring under a field is the help of its command-line flag, the text beside it in the Prefect form and its row in
the reference of settings. Only the standard library and pydantic are imported here.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Section, Seed
from rlhf.config.data import DataConfig
from rlhf.config.evaluation import EvaluationConfig, RewardAuditConfig
from rlhf.config.model import ComputeConfig, ModelConfig, Setup
from rlhf.config.policy import PolicyConfig
from rlhf.config.rl import RLConfig, rollout_error, sharing_error
from rlhf.config.supervised import RewardModelConfig, SFTConfig
from rlhf.earlier_names import given_settings

Method = Literal["ppo", "rloo", "grpo", "dr_grpo", "online_dpo"]


class PipelineConfig(Section):
    """Align a language model with human preferences: data, SFT, reward models, audit, policy, evaluation, card."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)] = "demo"
    """Name of the recipe in Prefect and MLflow."""
    seed: Seed = 0
    """Seed of initialization, shuffling and sampling. The data and its splits do not depend on it."""
    method: Method = "ppo"
    """Method that trains the policy. ppo: with a critic. rloo, grpo, dr_grpo: without one, by groups of responses to a
    prompt. online_dpo: by the best and the worst response to each prompt. Their settings are in `rl`."""
    model: ModelConfig = ModelConfig()
    """The language model that everything starts from."""
    data: DataConfig = DataConfig()
    """Place of the data, and its splits."""
    sft: SFTConfig = SFTConfig()
    """Supervised fine-tuning."""
    reward_model: RewardModelConfig = RewardModelConfig()
    """Training of the two reward models."""
    reward_audit: RewardAuditConfig = RewardAuditConfig()
    """Evaluation of the reward models."""
    rl: RLConfig = RLConfig()
    """Training of the policy from its own rollouts."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation of the policy."""
    compute: ComputeConfig = ComputeConfig()
    """Device, threads, precision."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_before_are_read(cls, values: Any) -> Any:
        return given_settings(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _response_fits(self) -> Self:
        if self.policy.max_response_tokens >= self.model.max_length:
            raise ValueError(
                f"rl.max_response_tokens ({self.policy.max_response_tokens}) leaves no room for a prompt in "
                f"model.max_length ({self.model.max_length}); raise the one or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _the_method_can_work(self) -> Self:
        if reason := rollout_error(self.method, self.rl):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _adapters_fit(self) -> Self:
        if self.rl.sharing == "adapters" and self.reward_model.lora is None:
            raise ValueError(
                "rl.sharing is adapters, which needs reward models that are adapters over the SFT policy; set "
                "reward_model.lora, or another rl.sharing"
            )
        return self

    @model_validator(mode="after")
    def _members_are_climbed(self) -> Self:
        trained = {source.member for source in self.policy.rewards if source.kind == "trained"}
        size = self.reward_model.num_members
        if trained and max(trained) > size:
            raise ValueError(
                f"rl.rewards has member {max(trained)} of the reward models, but reward_model.num_members is {size}; "
                f"raise it, or drop the source"
            )
        if size > 1 and len(trained) < size:
            raise ValueError(
                f"reward_model.num_members is {size}, but rl.rewards has {len(trained)} of them, so others would be "
                f"trained and ignored; name each: [{{kind: trained}}, {{kind: trained, name: second, member: 2}}, ...]"
            )
        return self

    @model_validator(mode="after")
    def _work_can_be_shared(self) -> Self:
        if reason := sharing_error(self.rl, self.compute):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _there_is_a_base_to_sample(self) -> Self:
        if self.data.sampled_from is not None and self.model.architecture is not None:
            raise ValueError(
                "data.sampled_from is base, but model.architecture builds a model with random weights, which writes no "
                "text; name a pretrained model.base and drop model.architecture"
            )
        return self

    @model_validator(mode="after")
    def _gold_rule_fits_the_data(self) -> Self:
        gold, embedded = self.evaluation.gold, self.data.embedded
        if gold == "calibrated_arithmetic" and embedded != "calibrated_arithmetic":
            raise ValueError(
                f"evaluation.gold is calibrated_arithmetic, which judges answers to the questions of that embedded set "
                f"alone, but data.embedded is {embedded or 'none'}; drop evaluation.gold, or set it to pleasant_words"
            )
        return self

    @property
    def policy(self) -> PolicyConfig:
        """Settings of the method that trains the policy, as far as all methods have them."""
        return self.rl

    @property
    def setup(self) -> Setup:
        """Settings that every stage with a model shares."""
        return Setup(seed=self.seed, model=self.model, compute=self.compute)
