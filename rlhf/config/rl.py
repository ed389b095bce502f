"""Settings of the methods that learn from the policy's own rollouts: PPO, RLOO, GRPO and their kin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, Fraction, NonNegative, Positive, Probability
from rlhf.config.model import ComputeConfig
from rlhf.config.policy import EvaluationAlarms, PolicyConfig

LARGEST_KL_ERROR = 0.2
"""Largest relative distance from kl_target that one rollout counts for (Ziegler et al. 1909.08593)."""


@dataclass(frozen=True)
class RolloutMethod:
    """A method that learns from rollouts, as far as its settings go; `rlhf.rl.algorithms` has what it computes.

    Attributes:
        title: for people.
        source: where it is from.
        has_critic: a value model learns beside the policy.
        has_groups: responses to one prompt are compared with each other.
        kl_in: where the KL penalty goes, unless `rl.kl_in` says otherwise; None: the method's loss is made of it.
    """

    title: str
    source: str
    has_critic: bool
    has_groups: bool
    kl_in: Literal["reward", "loss"] | None


ROLLOUT_METHODS: Mapping[str, RolloutMethod] = {
    "ppo": RolloutMethod("PPO", "1707.06347", True, False, "reward"),
    "rloo": RolloutMethod("RLOO", "2402.14740", False, True, "reward"),
    "grpo": RolloutMethod("GRPO", "2402.03300", False, True, "loss"),
    "dr_grpo": RolloutMethod("Dr. GRPO", "2503.20783", False, True, "loss"),
    "online_dpo": RolloutMethod("online DPO", "2402.04792", False, True, None),
}

AlarmName = Literal[
    "negative_kl",
    "entropy_collapse",
    "eos_rate_fall",
    "length_growth",
    "overoptimization",
    "explained_variance",
    "value_clipping",
]


class AlarmsConfig(EvaluationAlarms):
    """Thresholds of the alarms. Empty: the alarm is off."""

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
    explained_variance: Annotated[float, Field(lt=1.0)] | None = 0.0
    """Smallest share of the returns' variance that the value model explains, once the policy learns."""
    value_clipping: Probability | None = 0.5
    """Largest share of clipped value losses. Beyond it the value model cannot follow its targets."""
    patience: Count = 4
    """Updates in a row in which an alarm's condition must hold. For overoptimization one held-out evaluation is
    enough."""
    fatal: tuple[AlarmName, ...] = ("negative_kl",)
    """Alarms that end the run, with the best checkpoint kept. The others are shown and logged."""


class RLConfig(PolicyConfig):
    """Learning from rollouts scored by the reward model, with a KL penalty to the SFT policy (InstructGPT, 2203.02155).

    What `method` names decides how: PPO with a critic, RLOO, GRPO and Dr. GRPO by groups of responses to one prompt,
    online DPO by the best and the worst of each.
    """

    num_updates: Count = 48
    """Rollouts collected, each followed by num_ppo_epochs passes over it."""
    rollout_size: Annotated[int, Field(ge=2)] = 256
    """Episodes (responses) per rollout, over which advantages and scores are compared."""
    kl_coef: NonNegative = 0.1
    """Weight of the KL penalty (policy against reference), in score units per nat; also of the KL in the objective that
    chooses the checkpoint. With kl_target: the start value, which is also the weight in the objective."""
    kl_in: Literal["reward", "loss"] | None = None
    """Place of the KL penalty. reward: k1 is taken off a token's reward, so that its gradient is the KL's. loss: k3 is
    added to a token's loss, as GRPO has it, which has another gradient (2506.09477). Empty: as the method's paper."""
    beta: Positive = 0.1
    """Of online DPO: factor of the log-ratios of policy to SFT policy in its loss."""
    learning_rate: Positive = 1.5e-4
    """AdamW's learning rate for the policy."""
    value_learning_rate: Positive = 3e-4
    """AdamW's learning rate for the value model."""
    num_responses_per_prompt: Count = 1
    """Responses sampled per prompt of a rollout; must divide rollout_size. Methods that compare the responses to one
    prompt need 2 or more, which minibatches do not cut."""
    num_ppo_epochs: Count = 2
    """Passes over a rollout."""
    num_minibatches: Count = 4
    """Optimizer steps per pass; must divide rollout_size."""
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
    evaluate_every: Count = 4
    """Updates between held-out evaluations. Each is a checkpoint that may be chosen."""
    checkpoint_every: Count = 8
    """Updates between checkpoints, from which a killed run goes on."""
    sharing: Literal["none", "adapters", "trunk"] = "none"
    """Sharing of weights. none: four models. adapters: policy, value and reward models are LoRA adapters over one
    frozen backbone (needs rl.lora and reward_model.lora). trunk: the value head is on the policy's backbone."""
    side_by_side: bool = False
    """Whether policy and value model work at the same time, each on half of compute.num_threads: faster on a CPU, with
    the memory of both. Needs sharing none, an even number of threads and one process."""
    ptx_coef: NonNegative = 0.0
    """Weight of the next-token loss that is added to the policy's loss (PPO-ptx, InstructGPT); see ptx_source."""
    ptx_source: Literal["demonstrations", "corpus"] = "demonstrations"
    """Text of that loss. demonstrations: their completions. corpus: the texts of corpus.jsonl, one after another, in
    blocks of model.max_length tokens."""
    ptx_batch_size: Count | None = None
    """Demonstrations or blocks per optimizer step. Empty: as many as a minibatch has episodes."""
    alarms: AlarmsConfig = AlarmsConfig()
    """Thresholds at which PPO says that something is wrong."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.ptx_batch_size is not None and not self.ptx_coef:
            raise ValueError("ptx_batch_size is set but ptx_coef is 0, so it would be ignored")
        if self.ptx_source != "demonstrations" and not self.ptx_coef:
            raise ValueError("ptx_source is set but ptx_coef is 0, so it would be ignored")
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
    def rows_per_pass(self) -> int:
        """Rows of a forward pass."""
        return self.micro_batch_size or self.minibatch_size

    @property
    def minibatch_size(self) -> int:
        """Episodes per optimizer step."""
        return self.rollout_size // self.num_minibatches


OF_A_CRITIC = (
    *("value_learning_rate", "num_critic_warmup_updates", "gamma", "gae_lambda", "value_clip_range", "value_coef"),
    "side_by_side",
)
OF_A_PENALTY = ("kl_in", "clip_range", "target_kl", "kl_target", "kl_horizon")
ALARMS_OF_A_CRITIC = ("explained_variance", "value_clipping")


def rollout_error(name: str, rl: RLConfig) -> str | None:
    """The reason why a method cannot work as configured, or would ignore a setting, with advice; else None.

    Args:
        name: of the method, one of ROLLOUT_METHODS.
        rl: its settings.
    """
    method, defaults = ROLLOUT_METHODS[name], RLConfig()
    ignored = [
        *(() if method.has_critic else OF_A_CRITIC),
        *(() if method.kl_in is None else ("beta",)),
        *(OF_A_PENALTY if method.kl_in is None else ()),
    ]
    settings = {setting: getattr(rl, setting) != getattr(defaults, setting) for setting in ignored}
    if not method.has_critic:
        settings["sharing: trunk"] = rl.sharing == "trunk"
        for alarm in ALARMS_OF_A_CRITIC:
            changed = getattr(rl.alarms, alarm) != getattr(defaults.alarms, alarm)
            settings[f"alarms.{alarm}"] = changed or alarm in rl.alarms.fatal
    for setting, is_set in settings.items():
        if is_set:
            return f"rl.{setting} is set, but {method.title} has no use for it, so it would be ignored; drop it"
    if method.has_critic and rl.num_critic_warmup_updates >= rl.num_updates:
        return (
            f"rl.num_critic_warmup_updates ({rl.num_critic_warmup_updates}) leaves the policy no update of "
            f"rl.num_updates ({rl.num_updates}); make it smaller"
        )
    size = rl.num_responses_per_prompt
    if method.has_groups and size < 2:
        return (
            f"{method.title} compares responses to one prompt, but rl.num_responses_per_prompt is {size}; set it to 2 "
            f"or more, such as 4"
        )
    if method.has_groups and rl.minibatch_size % size:
        return (
            f"a minibatch of {rl.minibatch_size} episodes (rl.rollout_size / rl.num_minibatches) would cut groups of "
            f"{size} responses (rl.num_responses_per_prompt), which {method.title} compares; change one of the three"
        )
    return None


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
