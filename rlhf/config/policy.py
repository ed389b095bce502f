"""Settings that all methods of training the policy share: what scores its responses, and what chooses a checkpoint."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, NonNegative, Positive, Section
from rlhf.config.model import OF_A_MODEL, Day, LoraConfig


class RewardSourceConfig(Section):
    """A source of scores. With its weight it is part of the score that PPO climbs."""

    kind: Literal["trained", "model", "function"] = "trained"
    """Kind of the source. trained: the reward model of this pipeline. model: another reward model, such as a safety
    model. function: a Python function that an installed package offers in the entry-point group rlhf.rewards."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=40)] = "reward_model"
    """Name of the source's curves. Of a function: the name of its entry point."""
    path: str | None = None
    """Folder or hub id of the reward model (kind: model). Its tokenizer may differ from the policy's."""
    revision: str | None = None
    """Commit, tag or branch of the hub id."""
    chat_template: str | None = None
    """Name of the chat template where the model has several. Empty: `default`, or the only template."""
    template_date: Day | None = None
    """Day (YYYY-MM-DD) that a chat template which reads the clock shows. Empty: the day on which the run starts."""
    weight: float = 1.0
    """Factor of the source's score. Negative: a penalty."""
    normalize: bool = False
    """Whether the score is normalized by mean and standard deviation of this source's scores in all earlier rollouts;
    in the first rollout by its own."""
    member: Count = 1
    """Number of the reward model (kind: trained) where reward_model.num_members is more than 1."""

    @model_validator(mode="after")
    def _fields_belong_to_the_kind(self) -> Self:
        if (self.path is not None) != (self.kind == "model"):
            raise ValueError("path is for the kind model, and for it only; give it there and drop it elsewhere")
        for name in OF_A_MODEL:
            if self.path is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is set but path is not, so it would be ignored; drop it")
        if self.member != 1 and self.kind != "trained":
            raise ValueError("member is for the kind trained, and for it only; drop it elsewhere")
        if self.weight == 0.0:
            raise ValueError("a source of weight 0 would be computed and ignored; drop it")
        return self


class EvaluationAlarms(Section):
    """Thresholds of the alarms that look at held-out evaluations. Empty: the alarm is off."""

    overoptimization: NonNegative | None = 3.0
    """Standard errors of the paired difference by which a held-out evaluation may have a higher score than the best
    checkpoint and at the same time a lower objective (held-out score less kl_coef times KL)."""
    fatal: tuple[str, ...] = ()
    """Alarms that end the run, with the best checkpoint kept. The others are shown and logged."""

    @model_validator(mode="after")
    def _fatal_alarms_are_on(self) -> Self:
        off = [name for name in self.fatal if getattr(self, name, None) is None]
        if off:
            raise ValueError(
                f"fatal names {', '.join(off)}, but that alarm is off; give it a threshold or drop it there"
            )
        return self


class PolicyConfig(Section):
    """What every method that trains the policy has: sampling, scores, held-out evaluations and the choice by them."""

    kl_coef: NonNegative = 0.1
    """Weight of the KL to the SFT policy in the objective that chooses the checkpoint, in score units per nat."""
    max_response_tokens: Count = 16
    """Tokens of the longest response, with its EOS."""
    temperature: Positive = 1.0
    """Temperature of sampling, and of every log-probability."""
    rewards: tuple[RewardSourceConfig, ...] = (RewardSourceConfig(),)
    """Sources of the score, such as [{kind: trained}, {kind: function, name: polite, weight: 0.2}]. They are weighted
    and combined; then come clipping and penalties. docs/reward-functions.md says how to write a function."""
    rewards_combination: Literal["sum", "worst", "mean_less_variance", "safety_first"] = "sum"
    """Combination of the weighted scores. sum. worst: the smallest. mean_less_variance: mean less variance_coef times
    the variance over the sources, for ensembles (2310.02743). safety_first: the safety source's score where it is low,
    else the sum of the others, normalized (Llama 2, 2307.09288)."""
    variance_coef: NonNegative = 1.0
    """Of mean_less_variance: weight of the variance; 0: the mean."""
    safety_source: str | None = None
    """Of safety_first: name of the source that says whether a response is safe."""
    safety_threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Of safety_first: probability (sigmoid of the safety source's score) below which that score counts."""
    micro_batch_size: Count | None = None
    """Rows per forward pass; changes memory, not the loss. Empty: a whole minibatch."""
    max_grad_norm: Positive = 1.0
    """Norm to which gradients are clipped."""
    missing_eos_penalty: NonNegative = 1.0
    """Penalty that is subtracted from the score of a response without EOS."""
    score_clip: Positive | None = None
    """Distance from zero to which scores are clipped before penalties. Empty: not clipped."""
    length_penalty: NonNegative = 0.0
    """Penalty for every response token beyond length_penalty_free_tokens, subtracted from the score."""
    length_penalty_free_tokens: Annotated[int, Field(ge=0)] = 0
    """Response tokens that length_penalty does not count."""
    kl_budget: Positive = 20.0
    """Largest mean KL to the SFT policy on validation prompts, in nats per response, of a checkpoint that may be
    chosen."""
    num_validation_prompts: Count = 512
    """Validation prompts per held-out evaluation."""
    stop_after_turn: Count | None = None
    """Held-out evaluations in a row that must show that the score goes on rising while the held-out score has fallen,
    surely, for training to stop. Empty: it goes on."""
    lora: LoraConfig | None = None
    """Adapters of the policy, trained in place of all weights. Empty: all weights are trained."""

    @property
    def rows_per_pass(self) -> int:
        """Rows of a forward pass that samples or scores."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _rewards_are_told_apart(self) -> Self:
        names = [source.name for source in self.rewards]
        if not names:
            raise ValueError("rewards is empty; name a source, such as {kind: trained}")
        if len(set(names)) < len(names):
            raise ValueError(f"rewards: two sources have one name ({', '.join(names)}); give each its own")
        members = [source.member for source in self.rewards if source.kind == "trained"]
        if len(set(members)) < len(members):
            raise ValueError(
                "rewards: two sources are of kind trained and of one member, which is one reward model; give each its "
                "own member, and reward_model.num_members as many"
            )
        return self

    @model_validator(mode="after")
    def _scores_are_combined(self) -> Self:
        combination, defaults = self.rewards_combination, type(self).model_fields
        if combination != "sum" and len(self.rewards) < 2:
            raise ValueError(
                f"rewards_combination is {combination}, which compares several sources, but rewards has one; give more"
            )
        models = [(source.path, source.revision) for source in self.rewards if source.kind == "model"]
        if combination in ("worst", "mean_less_variance") and len(set(models)) < len(models):
            raise ValueError(
                "rewards: two sources of the ensemble are the same model, which share everything; drop one"
            )
        used_by = {"variance_coef": "mean_less_variance"}
        used_by |= dict.fromkeys(("safety_source", "safety_threshold"), "safety_first")
        for name, user in used_by.items():
            if combination != user and getattr(self, name) != defaults[name].default:
                raise ValueError(f"{name} is set but rewards_combination is {combination}, so it would be ignored")
        if combination == "safety_first":
            safety = next((source for source in self.rewards if source.name == self.safety_source), None)
            if safety is None:
                names = ", ".join(source.name for source in self.rewards)
                raise ValueError(
                    f"rewards_combination is safety_first, but safety_source ({self.safety_source or 'empty'}) names "
                    f"no source; name one of {names}"
                )
            if safety.weight != 1.0 or safety.normalize:
                raise ValueError(
                    f"safety_threshold is a probability that the source {safety.name} gives as it is; drop its weight "
                    f"and its normalize"
                )
        return self

    @model_validator(mode="after")
    def _length_is_penalized(self) -> Self:
        if self.length_penalty_free_tokens and not self.length_penalty:
            raise ValueError("length_penalty_free_tokens is set but length_penalty is 0, so it would be ignored")
        if self.length_penalty and self.length_penalty_free_tokens >= self.max_response_tokens:
            raise ValueError(
                f"length_penalty_free_tokens ({self.length_penalty_free_tokens}) leaves no token of "
                f"max_response_tokens ({self.max_response_tokens}) to penalize, so length_penalty would be ignored; "
                f"make it smaller"
            )
        return self

    @model_validator(mode="after")
    def _a_turn_can_be_seen(self) -> Self:
        if self.stop_after_turn is not None and not any(source.kind == "trained" for source in self.rewards):
            raise ValueError(
                "stop_after_turn is set, but rewards has no source of kind trained, which the selection reward model "
                "could stand for, so it would be ignored; drop it"
            )
        return self

    @model_validator(mode="after")
    def _the_start_is_the_sft_policy(self) -> Self:
        if self.lora is not None and self.lora.dropout:
            raise ValueError("lora.dropout must be 0: with dropout the policy does not start as the SFT policy")
        return self
