"""All settings of a recipe.

The docstring under a field is the help of its command-line flag, the text beside it in the Prefect form and its row in
the reference of settings. Only the standard library and pydantic are imported here.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from rlhf.config.base import Section, Seed
from rlhf.config.best_of_n import BestOfNConfig
from rlhf.config.cluster import ClusterConfig
from rlhf.config.data import RULE_BEHIND, DataConfig, GoldName
from rlhf.config.evaluation import EvaluationConfig, RewardAuditConfig
from rlhf.config.feedback import FeedbackConfig, RevisionConfig
from rlhf.config.gates import FigureGate
from rlhf.config.model import ComputeConfig, ModelConfig, Setup
from rlhf.config.policy import PolicyConfig, RewardSourceConfig
from rlhf.config.preference import PREFERENCE_METHODS, PreferenceConfig, preference_error
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig, rollout_error, sharing_error
from rlhf.config.supervised import RewardModelConfig, SFTConfig
from rlhf.earlier_names import given_settings

Method = Literal["ppo", "rloo", "grpo", "dr_grpo", "online_dpo", "dpo", "ipo", "kto", "simpo", "best_of_n"]

METHOD_SECTIONS: Mapping[str, str] = {
    **dict.fromkeys(ROLLOUT_METHODS, "rl"),
    **dict.fromkeys(PREFERENCE_METHODS, "preference"),
    "best_of_n": "best_of_n",
}
"""The section of a recipe that holds a method's settings."""
METHOD_TITLES: Mapping[str, str] = {
    **{name: method.title for name, method in ROLLOUT_METHODS.items()},
    **{name: method.title for name, method in PREFERENCE_METHODS.items()},
    "best_of_n": "best-of-n",
}
"""The methods' names for people."""
Start = Literal["sft", "previous"]
AnyChoice = TypeVar("AnyChoice", bound="MethodChoice")


class MethodChoice(Section):
    """A method with its section, as a recipe and each of its rounds have them; they declare the fields."""

    if TYPE_CHECKING:
        method: Method

    @field_validator("rl", "preference", "best_of_n", mode="before", check_fields=False)
    @classmethod
    def _only_the_section_of_the_method(cls, value: object, info: ValidationInfo) -> object:
        method = info.data.get("method")
        if method is None:  # which is told of by itself
            return value
        if METHOD_SECTIONS[method] == info.field_name:
            return {} if value is None else value
        if value is not None:
            methods = ", ".join(name for name, section in METHOD_SECTIONS.items() if section == info.field_name)
            raise ValueError(
                f"this section is for method: {methods}, and method is {method}, which has its settings in "
                f"{METHOD_SECTIONS[method]}; drop the section, or change method"
            )
        return None

    @model_validator(mode="after")
    def _the_method_ignores_nothing(self) -> Self:
        policy, reason = self.policy, None
        if isinstance(policy, RLConfig):
            reason = rollout_error(self.method, policy)
        elif isinstance(policy, PreferenceConfig):
            reason = preference_error(self.method, policy)
        if reason is not None:
            raise ValueError(reason)
        return self

    @property
    def section(self) -> str:
        """Name of the section that holds the method's settings."""
        return METHOD_SECTIONS[self.method]

    @property
    def policy(self) -> PolicyConfig:
        """Settings of the method that trains the policy, as far as all methods have them."""
        config: PolicyConfig = getattr(self, self.section)
        return config

    def with_policy(self, **settings: object) -> Self:
        """The same with other values of settings that all methods have."""
        return self.model_copy(update={self.section: self.policy.model_copy(update=settings)})


class RoundConfig(MethodChoice):
    """A policy that is trained before the recipe's own method is, by a method of its own."""

    method: Method
    """Method of the round, with its settings in the section of the method."""
    start: Start = "sft"
    """Policy that the round starts from, which is also the reference of its KL; see the recipe's start."""
    feedback: FeedbackConfig | None = None
    """Feedback with which the round begins. Empty: its reward models are those of the round before."""
    rl: Annotated[RLConfig | None, Field(validate_default=True)] = None
    """Of methods that learn from rollouts."""
    preference: Annotated[PreferenceConfig | None, Field(validate_default=True)] = None
    """Of methods that learn from given preferences."""
    best_of_n: Annotated[BestOfNConfig | None, Field(validate_default=True)] = None
    """Of best-of-n."""


class PipelineConfig(MethodChoice):
    """Align a language model with human preferences: data, SFT, reward models, audit, policy, evaluation, card."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)] = "demo"
    """Name of the recipe in Prefect and MLflow, and of the registered model whose versions its policies are."""
    registered: bool = True
    """Whether the policy of each run becomes a version of the registered model, with the alias candidate. False: for
    trials; their policies are named by the run's id."""
    seed: Seed = 0
    """Seed of initialization, shuffling and sampling. The data and its splits do not depend on it."""
    method: Method = "ppo"
    """Method that trains the policy. ppo: with a critic. rloo, grpo, dr_grpo: without one, by groups of responses to a
    prompt. online_dpo: by the best and the worst response to each. Section `rl`. dpo, ipo, simpo: from the given pairs.
    kto: from responses that are wanted or not. Section `preference`. best_of_n: from the best of several responses to
    each prompt. Section `best_of_n`."""
    rounds: tuple[RoundConfig, ...] = ()
    """Policies that are trained one after another before the recipe's own method, which is the last round: each
    with a method, its section and its start. Evaluation, card and registry have the last one's."""
    start: Start = "sft"
    """Policy that the method starts from, which is also the reference of its KL. sft. previous: the policy of the round
    before. Best-of-n samples from the policy of the round before in any case, fine-tunes its start, and learns the best
    responses of all rounds so far (Llama 2, 2307.09288)."""
    revision: RevisionConfig | None = None
    """Revised answers from which the SFT policy learns. Empty: none."""
    feedback: FeedbackConfig | None = None
    """Feedback with which the last round begins. Empty: none."""
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
    rl: Annotated[RLConfig | None, Field(validate_default=True)] = None
    """Training of the policy from its own rollouts."""
    preference: Annotated[PreferenceConfig | None, Field(validate_default=True)] = None
    """Training of the policy from given preferences."""
    best_of_n: Annotated[BestOfNConfig | None, Field(validate_default=True)] = None
    """Training of the policy on the best of its own responses."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation of the policy."""
    gates: tuple[FigureGate, ...] = ()
    """Limits of the run's own figures that a candidate must keep, such as [{figure: evaluation/kl, at_most: 5}]."""
    compute: ComputeConfig = ComputeConfig()
    """Device, threads, precision."""
    cluster: ClusterConfig = ClusterConfig()
    """Hosts that stages are sent to, and nodes that share a stage."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_before_are_read(cls, values: Any) -> Any:
        return given_settings(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _each_round_can_work(self) -> Self:
        for number, recipe in enumerate(self.per_round):
            if reason := _round_error(recipe):
                raise ValueError(self._place(number) + reason)
        return self

    @model_validator(mode="after")
    def _each_round_counts(self) -> Self:
        recipes = self.per_round
        if recipes[0].start == "previous":
            where = self._place(0)
            raise ValueError(f"{where}start is previous, but no round comes before it, so it would be ignored; drop it")
        for number, recipe in enumerate(recipes[:-1]):
            after = recipes[number + 1]
            later = {other.method for other in recipes[number + 1 :]}
            is_learned = recipe.method == "best_of_n" and "best_of_n" in later
            is_asked = after.feedback is not None
            if after.start == "sft" and after.method != "best_of_n" and not is_learned and not is_asked:
                where = self._place(number + 1) or "the recipe's own method: "
                raise ValueError(
                    f"{where}start is sft, so the policy of rounds[{number}] would be trained and ignored; set start "
                    f"to previous, or drop that round"
                )
        return self

    def _place(self, number: int) -> str:
        """Beginning of a message about a round; the recipe's own method needs none."""
        return f"rounds[{number}]: " if number < len(self.rounds) else ""

    @model_validator(mode="after")
    def _members_are_climbed(self) -> Self:
        trained = {source.member for source in self.rewards if source.kind == "trained"}
        size, rewards = self.reward_model.num_members, f"{self.section}.rewards"
        if trained and max(trained) > size:
            raise ValueError(
                f"{rewards} has member {max(trained)} of the reward models, but reward_model.num_members is {size}; "
                f"raise it, or drop the source"
            )
        if size > 1 and len(trained) < size:
            raise ValueError(
                f"reward_model.num_members is {size}, but {rewards} has {len(trained)} of them, so others would be "
                f"trained and ignored; name each: [{{kind: trained}}, {{kind: trained, name: second, member: 2}}, ...]"
            )
        return self

    @model_validator(mode="after")
    def _members_have_their_starts(self) -> Self:
        number, members = self.sft.num_policies, self.reward_model.num_members
        if self.reward_model.members_start_from == "own":
            if number != members:
                raise ValueError(
                    f"reward_model.members_start_from is own, but sft.num_policies is {number} and "
                    f"reward_model.num_members {members}; make them the same"
                )
            sharing = next((name for name, p in self.sections.items() if getattr(p, "sharing", "") == "adapters"), None)
            if sharing:
                raise ValueError(
                    f"{sharing}.sharing is adapters, where all reward models are adapters over one SFT policy, but "
                    f"reward_model.members_start_from is own; set it to one, or take another {sharing}.sharing"
                )
        elif number > 1:
            raise ValueError(
                f"sft.num_policies is {number}, but reward_model.members_start_from is one, so the others would be "
                f"trained and ignored; set it to own, or drop sft.num_policies"
            )
        return self

    @model_validator(mode="after")
    def _stages_can_be_sent_away(self) -> Self:
        pools = self.cluster.stage_pools.chosen
        asks = [name for name, choice in (("feedback", self.asks_feedback), ("revision", self.revision)) if choice]
        if pools and asks:
            raise ValueError(
                f"cluster.stage_pools sends {', '.join(pools)} to other hosts, but the recipe has a section {asks[0]}, "
                f"whose stages are made together with data in between; drop one of the two"
            )
        return self

    @model_validator(mode="after")
    def _a_group_has_work(self) -> Self:
        if self.cluster.backend == "ray" and self.compute.num_processes == 1:
            raise ValueError(
                "cluster.backend is ray, but compute.num_processes is 1, so it would be ignored; raise it, or set "
                "backend to local"
            )
        return self

    @model_validator(mode="after")
    def _best_of_n_is_of_the_start(self) -> Self:
        if self.evaluation.best_of_n and self.start == "previous":
            raise ValueError(
                "evaluation.best_of_n samples from the SFT policy, but start is previous, so the distances of the "
                "policy's checkpoints are from another one; set it to 0"
            )
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

    @model_validator(mode="after")
    def _feedback_can_be_given(self) -> Self:
        for number, choice in enumerate(self.per_round):
            if choice.feedback is not None and (reason := self._feedback_error(choice.feedback, number)):
                raise ValueError(f"{self._place(number)}{reason}")
        longest = None if self.revision is None else self.revision.max_response_tokens
        if longest is not None and longest >= self.model.max_length:
            raise ValueError(_no_room("revision", longest, self.model.max_length))
        critic = None if self.revision is None else self.revision.critic
        if critic is not None and critic.simulated is not None and self.gold != "calibrated_arithmetic":
            raise ValueError(
                "revision.critic.simulated is set, which rewrites answers to the questions of calibrated_arithmetic "
                f"alone, but data.embedded is {self.data.embedded or 'none'}; name an endpoint"
            )
        return self

    def _feedback_error(self, feedback: FeedbackConfig, number: int) -> str | None:
        """The reason why a round's feedback cannot be given, with advice; else None."""
        judge = feedback.judge
        if self.data.embedded is None and (feedback.simulated is not None or (judge is not None and judge.simulated)):
            name = "simulated" if feedback.simulated is not None else "judge.simulated"
            return _NO_RULE.format(f"feedback.{name}")
        longest = feedback.max_response_tokens
        if longest is not None and longest >= self.model.max_length:
            return _no_room("feedback", longest, self.model.max_length)
        dropped = feedback.given_preferences == "dropped"
        if number == 0 and dropped and feedback.choose != "random":
            return (
                f"feedback.choose is {feedback.choose}, which asks reward models, but feedback.given_preferences is "
                f"dropped, so none are trained before it; set choose to random, or given_preferences to used"
            )
        return None

    @property
    def asks_feedback(self) -> bool:
        """Whether a round begins with feedback."""
        return any(choice.feedback is not None for choice in self.per_round)

    @property
    def gold(self) -> GoldName | None:
        """The rule behind the labels of the embedded data, which simulated raters know; None of other data."""
        return None if self.data.embedded is None else RULE_BEHIND[self.data.embedded]

    @property
    def per_round(self) -> tuple["PipelineConfig", ...]:
        """The recipe as each round sees it, in their order: with its method alone; the last is the recipe's own."""
        names = RoundConfig.model_fields
        choices = [{name: getattr(choice, name) for name in names} for choice in (*self.rounds, self)]
        return tuple(self.model_copy(update={**choice, "rounds": ()}) for choice in choices)

    @property
    def sections(self) -> Mapping[str, PolicyConfig]:
        """The settings of every round's method, by the dotted name of their section."""
        rounds = {f"rounds.{number}.{choice.section}": choice.policy for number, choice in enumerate(self.rounds)}
        return {**rounds, self.section: self.policy}

    @property
    def rewards(self) -> tuple[RewardSourceConfig, ...]:
        """The sources of scores of all rounds, each once."""
        return tuple(dict.fromkeys(source for policy in self.sections.values() for source in policy.rewards))

    @property
    def max_response_tokens(self) -> int:
        """Tokens of the longest response that any round samples."""
        return max(policy.max_response_tokens for policy in self.sections.values())

    def with_sources(self, change: Callable[[RewardSourceConfig], RewardSourceConfig]) -> Self:
        """The recipe with every source of scores, of all rounds, changed."""

        def changed(choice: AnyChoice) -> AnyChoice:
            return choice.with_policy(rewards=tuple(map(change, choice.policy.rewards)))

        return changed(self).model_copy(update={"rounds": tuple(map(changed, self.rounds))})

    @property
    def setup(self) -> Setup:
        """Settings that every stage with a model shares."""
        return Setup(seed=self.seed, model=self.model, compute=self.compute)


_NO_RULE = (
    "{} is set, but simulated answers follow the rule behind an embedded data set, and data.embedded is none; drop it, "
    "so that people are asked, or name an endpoint"
)


def _no_room(section: str, longest: int, max_length: int) -> str:
    return (
        f"{section}.max_response_tokens ({longest}) leaves no room for a prompt in model.max_length ({max_length}); "
        f"raise the one or lower the other"
    )


def _round_error(recipe: PipelineConfig) -> str | None:
    """The reason why a round's method cannot work with the rest of the recipe, with advice; else None."""
    if recipe.policy.max_response_tokens >= recipe.model.max_length:
        return _no_room(recipe.section, recipe.policy.max_response_tokens, recipe.model.max_length)
    if recipe.rl is None:
        return _not_one_process(recipe.method, recipe.compute)
    if recipe.rl.sharing == "adapters" and recipe.reward_model.lora is None:
        return (
            "rl.sharing is adapters, which needs reward models that are adapters over the SFT policy; set "
            "reward_model.lora, or another rl.sharing"
        )
    if recipe.rl.sharing == "adapters" and recipe.start == "previous":
        return (
            "rl.sharing is adapters, where the reward models are adapters over the SFT policy, but start is previous, "
            "which is another policy; set start to sft, or another rl.sharing"
        )
    return sharing_error(recipe.rl, recipe.compute)


def _not_one_process(method: str, compute: ComputeConfig) -> str | None:
    if compute.num_processes == 1:
        return None
    return (
        f"compute.num_processes is {compute.num_processes}, but {METHOD_TITLES[method]} trains in one process; set it "
        f"to 1, or take a method of the section rl"
    )
