"""Settings of PPO: rewards, alarms, and the training itself."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, Fraction, NonNegative, Positive, Probability, Section
from rlhf.config.model import OF_A_MODEL, ComputeConfig, Day, LoraConfig

LARGEST_KL_ERROR = 0.2
"""Largest relative distance from kl_target that one rollout counts for (Ziegler et al. 1909.08593)."""


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

    @model_validator(mode="after")
    def _fields_belong_to_the_kind(self) -> Self:
        if (self.path is not None) != (self.kind == "model"):
            raise ValueError("path is for the kind model, and for it only; give it there and drop it elsewhere")
        for name in OF_A_MODEL:
            if self.path is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is set but path is not, so it would be ignored; drop it")
        if self.weight == 0.0:
            raise ValueError("a source of weight 0 would be computed and ignored; drop it")
        return self


AlarmName = Literal[
    "negative_kl",
    "entropy_collapse",
    "eos_rate_fall",
    "length_growth",
    "overoptimization",
    "explained_variance",
    "value_clipping",
]


class AlarmsConfig(Section):
    """Thresholds of PPO's alarms. Empty: the alarm is off."""

    start_kl: Positive | None = None
    """Largest KL to the SFT policy before the first update, where it must be 0, in nats per token. Empty: 1e-4 in fp32,
    0.05 in bf16. Beyond it the run stops with an error."""
    start_sampling: Positive | None = None
    """Largest distance, in probability, of sampled tokens from the tokens that the scoring pass would have drawn from
    the same noise, before the first update. Empty: 1e-3 in fp32, 0.05 in bf16. Beyond it the run stops with an
    error."""
    start_ratio: Positive | None = None
    """Largest distance of the probability ratio from 1 on the first minibatch. Empty: 1e-4 in fp32, 0.1 in bf16. Beyond
    it the run stops with an error."""
    negative_kl: NonNegative | None = 0.5
    """Nats per response below zero that the mean KL (k1) may fall. No KL is negative: the estimate is wrong, and its
    penalty pays the policy to make the error larger."""
    entropy_collapse: Fraction | None = 0.1
    """Smallest entropy, as a share of the first rollout's."""
    eos_rate_fall: Probability | None = 0.2
    """Largest fall of the share of responses with EOS since the first rollout."""
    length_growth: Annotated[float, Field(gt=1.0)] | None = 2.0
    """Largest mean length of responses, as a multiple of the first rollout's."""
    overoptimization: NonNegative | None = 3.0
    """Standard errors of the paired difference by which a held-out evaluation may have a higher score than the best
    checkpoint and at the same time a lower objective (held-out score less kl_coef times KL)."""
    explained_variance: Annotated[float, Field(lt=1.0)] | None = 0.0
    """Smallest share of the returns' variance that the value model explains, once the policy learns."""
    value_clipping: Probability | None = 0.5
    """Largest share of clipped value losses. Beyond it the value model cannot follow its targets."""
    patience: Count = 4
    """Updates in a row in which an alarm's condition must hold. For overoptimization one held-out evaluation is
    enough."""
    fatal: tuple[AlarmName, ...] = ("negative_kl",)
    """Alarms that end the run, with the best checkpoint kept. The others are shown and logged."""

    @model_validator(mode="after")
    def _fatal_alarms_are_on(self) -> Self:
        off = [name for name in self.fatal if getattr(self, name) is None]
        if off:
            raise ValueError(
                f"fatal names {', '.join(off)}, but that alarm is off; give it a threshold or drop it there"
            )
        return self


class RLConfig(Section):
    """PPO against the reward model's score, with a KL penalty to the SFT policy (InstructGPT, 2203.02155)."""

    num_updates: Count = 48
    """Rollouts collected, each followed by num_ppo_epochs passes over it."""
    rollout_size: Annotated[int, Field(ge=2)] = 256
    """Episodes (responses) per rollout, over which advantages and scores are compared."""
    kl_coef: NonNegative = 0.1
    """Weight of the KL penalty (k1, policy against reference) in a token's reward, in score units per nat; also of the
    KL in the objective that chooses the checkpoint. With kl_target: the start value, which is also the weight in the
    objective."""
    learning_rate: Positive = 1.5e-4
    """AdamW's learning rate for the policy."""
    value_learning_rate: Positive = 3e-4
    """AdamW's learning rate for the value model."""
    max_response_tokens: Count = 16
    """Tokens of the longest response, with its EOS."""
    temperature: Positive = 1.0
    """Temperature of sampling, and of every log-probability."""
    rewards: tuple[RewardSourceConfig, ...] = (RewardSourceConfig(),)
    """Sources of the score, such as [{kind: trained}, {kind: function, name: polite, weight: 0.2}]. They are weighted
    and summed; then come clipping and penalties. docs/reward-functions.md says how to write a function."""
    num_responses_per_prompt: Count = 1
    """Responses sampled per prompt of a rollout; must divide rollout_size."""
    num_ppo_epochs: Count = 2
    """Passes over a rollout."""
    num_minibatches: Count = 4
    """Optimizer steps per pass; must divide rollout_size."""
    micro_batch_size: Count | None = None
    """Rows per forward pass; changes memory, not the loss. Empty: a whole minibatch."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """Course of both learning rates. linear: they fall to zero over the updates."""
    num_critic_warmup_updates: Annotated[int, Field(ge=0)] = 2
    """Number of first updates in which only the value model learns."""
    kl_target: Positive | None = None
    """Nats per response that kl_coef is steered to (Ziegler et al. 1909.08593). Empty: kl_coef stays."""
    kl_horizon: Positive | None = None
    """Episodes over which the steering acts. Needs kl_target."""
    gamma: Probability = 1.0
    """Discount of the reward of later tokens."""
    gae_lambda: Probability = 0.95
    """Trade of bias against variance in generalized advantage estimation (1506.02438)."""
    clip_range: Positive = 0.2
    """Range of the probability ratio: it is clipped to 1 - clip_range and 1 + clip_range."""
    value_clip_range: Positive = 0.2
    """Largest distance of new values from the rollout's values; beyond it they are clipped."""
    value_coef: NonNegative = 0.1
    """Weight of the value loss."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""
    target_kl: Positive | None = None
    """Approximate KL (k3, rollout policy against current policy, nats per token) beyond which epochs over a rollout
    stop. Empty: never."""
    max_grad_norm: Positive = 1.0
    """Norm to which the gradients of policy and value model are clipped, each by itself."""
    missing_eos_penalty: NonNegative = 1.0
    """Penalty that is subtracted from the score of a response without EOS."""
    score_clip: Positive | None = None
    """Distance from zero to which scores are clipped before penalties. Empty: not clipped."""
    kl_budget: Positive = 20.0
    """Mean KL to the SFT policy, in nats per response, beyond which the run stops. No checkpoint is chosen whose KL on
    validation prompts is beyond it."""
    evaluate_every: Count = 4
    """Updates between held-out evaluations. Each is a checkpoint that may be chosen."""
    num_validation_prompts: Count = 512
    """Validation prompts per held-out evaluation."""
    checkpoint_every: Count = 8
    """Updates between checkpoints, from which a killed run goes on."""
    lora: LoraConfig | None = None
    """Adapters of the policy, trained in place of all weights. Empty: all weights are trained."""
    sharing: Literal["none", "adapters", "trunk"] = "none"
    """Sharing of weights. none: four models. adapters: policy, value and reward models are LoRA adapters over one
    frozen backbone (needs rl.lora and reward_model.lora). trunk: the value head is on the policy's backbone."""
    side_by_side: bool = False
    """Whether policy and value model work at the same time, each on half of compute.num_threads: faster on a CPU, with
    the memory of both. Needs sharing none, an even number of threads and one process."""
    length_penalty: NonNegative = 0.0
    """Penalty for every response token beyond length_penalty_free_tokens, subtracted from the score."""
    length_penalty_free_tokens: Annotated[int, Field(ge=0)] = 0
    """Response tokens that length_penalty does not count."""
    ptx_coef: NonNegative = 0.0
    """Weight of the next-token loss on demonstrations that is added to the policy's loss (PPO-ptx, InstructGPT)."""
    ptx_batch_size: Count | None = None
    """Demonstrations per optimizer step. Empty: as many as a minibatch has episodes."""
    alarms: AlarmsConfig = AlarmsConfig()
    """Thresholds at which PPO says that something is wrong."""

    @model_validator(mode="after")
    def _rewards_are_told_apart(self) -> Self:
        names = [source.name for source in self.rewards]
        if not names:
            raise ValueError("rl.rewards is empty; name a source, such as {kind: trained}")
        if len(set(names)) < len(names):
            raise ValueError(f"rl.rewards: two sources have one name ({', '.join(names)}); give each its own")
        if sum(source.kind == "trained" for source in self.rewards) > 1:
            raise ValueError("rl.rewards: two sources are of kind trained, and there is one such reward model")
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.length_penalty_free_tokens and not self.length_penalty:
            raise ValueError("length_penalty_free_tokens is set but length_penalty is 0, so it would be ignored")
        if self.length_penalty and self.length_penalty_free_tokens >= self.max_response_tokens:
            raise ValueError(
                f"length_penalty_free_tokens ({self.length_penalty_free_tokens}) leaves no token of "
                f"max_response_tokens ({self.max_response_tokens}) to penalize, so length_penalty would be ignored; "
                f"make it smaller"
            )
        if self.ptx_batch_size is not None and not self.ptx_coef:
            raise ValueError("ptx_batch_size is set but ptx_coef is 0, so it would be ignored")
        if self.target_kl is not None and self.num_ppo_epochs == 1:
            raise ValueError(
                "target_kl is set but num_ppo_epochs is 1, and it is looked at between epochs, so it would be ignored; "
                "leave one of the two out"
            )
        if self.sharing == "adapters" and self.lora is None:
            raise ValueError("sharing is adapters but lora is not set; set rl.lora, or another sharing")
        if self.side_by_side and self.sharing != "none":
            raise ValueError(
                f"side_by_side is for models that share nothing, but sharing is {self.sharing}; set the former to false"
            )
        return self

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        self._check_multiple("rollout_size", "num_responses_per_prompt")
        self._check_multiple("rollout_size", "num_minibatches")
        if self.micro_batch_size is not None and self.minibatch_size % self.micro_batch_size:
            raise ValueError(
                f"a minibatch of {self.minibatch_size} rows is not a multiple of micro_batch_size "
                f"({self.micro_batch_size}); change one of the two"
            )
        if self.num_critic_warmup_updates >= self.num_updates:
            raise ValueError(
                f"num_critic_warmup_updates ({self.num_critic_warmup_updates}) leaves the policy no update of "
                f"num_updates ({self.num_updates}); make it smaller"
            )
        if self.lora is not None and self.lora.dropout:
            raise ValueError("rl.lora.dropout must be 0: with dropout the first ratio is not 1")
        return self

    @model_validator(mode="after")
    def _the_kl_can_be_steered(self) -> Self:
        if (self.kl_target is None) != (self.kl_horizon is None):
            raise ValueError("kl_target and kl_horizon work together; set both or neither")
        if self.kl_target is not None and not self.kl_coef:
            raise ValueError(
                "kl_target is set but kl_coef, which it multiplies, is 0, so it would be ignored; give kl_coef a start"
            )
        shortest = LARGEST_KL_ERROR * self.rollout_size
        if self.kl_horizon is not None and self.kl_horizon <= shortest:
            raise ValueError(
                f"kl_horizon ({self.kl_horizon:g}) is at most {LARGEST_KL_ERROR:g} x rollout_size ({shortest:g}), so "
                f"one rollout could take kl_coef to 0 or below; make it longer, such as {100 * self.rollout_size}"
            )
        return self

    @property
    def minibatch_size(self) -> int:
        """Episodes per optimizer step."""
        return self.rollout_size // self.num_minibatches


def sharing_error(rl: RLConfig, compute: ComputeConfig) -> str | None:
    """The reason why processes or threads cannot share PPO's work as configured, with advice; None where they can."""
    return _uneven_processes(rl, compute) or _not_side_by_side(rl, compute)


def _uneven_processes(rl: RLConfig, compute: ComputeConfig) -> str | None:
    share, rest = divmod(rl.minibatch_size, compute.num_processes)
    if rest:
        return (
            f"a minibatch of {rl.minibatch_size} episodes (rl.rollout_size / rl.num_minibatches) does not divide "
            f"among {compute.num_processes} processes (compute.num_processes); change one of the three"
        )
    if rl.micro_batch_size is not None and share % rl.micro_batch_size:
        return (
            f"a process's share of a minibatch is {share} episodes (rl.rollout_size / rl.num_minibatches / "
            f"compute.num_processes), which is not a multiple of rl.micro_batch_size ({rl.micro_batch_size}); change "
            f"one of the four"
        )
    return None


def _not_side_by_side(rl: RLConfig, compute: ComputeConfig) -> str | None:
    if not rl.side_by_side:
        return None
    if compute.device == "cuda":
        return "rl.side_by_side shares out threads of the CPU, but compute.device is cuda; set it to false"
    if compute.num_threads % 2:
        return (
            f"rl.side_by_side gives each model half of the threads, but compute.num_threads is {compute.num_threads}; "
            f"make it even, or set rl.side_by_side to false"
        )
    if compute.num_processes > 1:
        return (
            f"rl.side_by_side is for one process, but compute.num_processes is {compute.num_processes}, which share "
            f"the cores already; set rl.side_by_side to false"
        )
    return None
