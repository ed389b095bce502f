"""Every setting there is.

The docstring under a field is the help of its command-line flag, the text beside it in the Prefect form and the
documentation of the YAML key. Only the standard library and pydantic are imported here.
"""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
_APPROVAL_HOURS = 168.0
LARGEST_KL_ERROR = 0.2
"""The relative distance from kl_target that one rollout counts for at most (Ziegler et al. 1909.08593)."""


def _check_day(value: object) -> object:
    """A day in text, which YAML gives as a date where it is not in quotes."""
    day = value if isinstance(value, date) else date.fromisoformat(str(value))
    return day.isoformat()


Day = Annotated[str, BeforeValidator(_check_day)]
_OF_A_MODEL = ("revision", "chat_template", "template_date")


class Section(BaseModel):
    """Frozen, and refuses a setting that it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, protected_namespaces=()
    )


class ComputeConfig(Section):
    """What of the machine is used, and in which precision. All of it changes the bits of a result."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run."""
    num_threads: Count = 2
    """Threads of one process on the CPU. Pinned, because another number gives other bits."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of matrix products. Weights, optimizer state, log-probabilities and losses are fp32 either way."""
    num_processes: Count = 1
    """Processes that share the rows of each PPO step, each with num_threads threads on the CPU or a CUDA device of its
    own. Other stages run in one. Must divide the episodes of a minibatch."""


class ArchitectureConfig(Section):
    """Shape of the Llama that is built in place of a base model."""

    hidden_size: Count = 128
    """Width of the residual stream."""
    num_layers: Count = 4
    """Transformer blocks."""
    num_heads: Count = 4
    """Attention heads; must divide hidden_size."""
    feed_forward_size: Count = 384
    """Inner width of the feed-forward layers."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) is not a multiple of num_heads ({self.num_heads}); change one of "
                f"the two"
            )
        return self


class ModelConfig(Section):
    """The language model that everything starts from."""

    base: str | None = None
    """Folder or hub id of a causal language model (safetensors). A run needs this, or the architecture of a model to
    build."""
    revision: str | None = None
    """Commit, tag or branch of the hub id. A run notes the commit that it stands for, and means that."""
    chat_template: str | None = None
    """Name of the chat template, where the model has several. Empty: `default`, or the only one."""
    template_date: Day | None = None
    """The day, as YYYY-MM-DD, that a chat template which reads the clock shows for ever. Empty: where the template
    reads the clock, the day on which the run starts."""
    architecture: ArchitectureConfig | None = None
    """Shape of a small Llama with random weights that is built in place of a base, with a word-level tokenizer made
    from the training data."""
    max_length: Annotated[int, Field(ge=8)] = 64
    """Tokens of prompt and response together, at most. Longer dialogues lose their oldest turns."""

    @model_validator(mode="after")
    def _base_or_architecture(self) -> Self:
        for name in _OF_A_MODEL:
            if self.base is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is set but base is not, so it would be ignored; name a base or drop {name}")
        if self.base is not None and self.architecture is not None:
            raise ValueError(
                "base and architecture are both set, and architecture would be ignored; drop one of the two"
            )
        return self


class DataConfig(Section):
    """Where the data is, and how it is split."""

    path: str = "data"
    """Folder with demonstrations.jsonl, preferences.jsonl, prompts.jsonl and datasheet.md, or one file of
    preferences. `data` is the folder that DVC tracks."""
    embedded: Literal["calibrated_arithmetic"] | None = None
    """Generator of the embedded data set that path must hold; it is generated where path is `data` and that is
    missing. Empty: path holds data of your own."""
    allow_dirty_data: bool = False
    """Run although data/ differs from data.dvc. The run is then marked as not reproducible."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of prompts (by hash) that reported figures use, and nothing else."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of prompts (by hash) that choose checkpoints and watch training."""
    selection_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the training prompts (by hash) whose preferences train the selection reward model, and only it."""
    max_rows: Count | None = None
    """Only the first rows of each file are used, this many. For trials. Empty: all rows."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with a row whose last turn alone does not fit model.max_length: stop with an error that names
    it, or drop and count it."""

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.test_fraction + self.validation_fraction >= 1.0:
            raise ValueError(
                f"test_fraction ({self.test_fraction}) and validation_fraction ({self.validation_fraction}) leave "
                f"nothing to train on; make them smaller"
            )
        return self


class LoraConfig(Section):
    """Train low-rank adapters in place of all weights. They are merged when the stage ends."""

    rank: Count = 16
    """Rank of the adapters."""
    alpha: Positive = 32.0
    """Scale of the adapters: their product is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on the adapters' input. PPO wants 0."""


class TrainingSection(Section):
    """Settings that the supervised stages share."""

    num_epochs: Positive = 1.0
    """Passes over the training rows."""
    batch_size: Count = 64
    """Rows (pairs, for a reward model) an optimizer step."""
    micro_batch_size: Count | None = None
    """Rows a forward pass; gradients are accumulated up to batch_size. Empty: batch_size."""
    learning_rate: Positive = 1e-3
    """Peak learning rate of AdamW; linear decay to zero."""
    warmup_fraction: Fraction = 0.03
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of AdamW."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    checkpoint_every_seconds: Positive = 300.0
    """A killed stage goes on from its last checkpoint; this is how much it may lose."""
    lora: LoraConfig | None = None
    """Train adapters in place of all weights. Empty: all weights."""

    @model_validator(mode="after")
    def _micro_batches_divide(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) is not a multiple of micro_batch_size ({self.micro_batch_size}); "
                f"change one of the two"
            )
        return self


class SFTConfig(TrainingSection):
    """Supervised fine-tuning on the demonstrations' completions."""

    num_samples: Annotated[int, Field(ge=0, le=1000)] = 16
    """Generations on validation prompts that are kept as a table."""


class RewardModelConfig(TrainingSection):
    """Training of the two reward models from the SFT weights (Bradley-Terry loss, margins where the data has them)."""

    num_centring_rows: Count = 512
    """Training demonstrations whose mean score becomes the score_offset, so that demonstrations score 0 on average."""


class RewardAuditConfig(Section):
    """What is measured of the reward models on held-out pairs."""

    num_bins: Annotated[int, Field(ge=2, le=100)] = 10
    """Bins of the reliability diagram and of the expected calibration error."""
    batch_size: Count = 64
    """Dialogues a forward pass."""
    minimum_accuracy: Probability = 0.5
    """The model card warns where the lower bound of the held-out accuracy is not above this."""


class RewardSourceConfig(Section):
    """One source of scores. With its weight it is part of the score that PPO climbs."""

    kind: Literal["trained", "model", "function"] = "trained"
    """trained: the reward model of this pipeline. model: another reward model, such as one for safety. function: a
    Python function that an installed package offers in the entry-point group rlhf.rewards."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=40)] = "reward_model"
    """Name of the source's curves. Of a function: the name of its entry point."""
    path: str | None = None
    """Folder or hub id of the reward model (kind: model). Its tokenizer may be another than the policy's."""
    revision: str | None = None
    """Commit, tag or branch of the hub id."""
    chat_template: str | None = None
    """Name of the chat template, where the model has several. Empty: `default`, or the only one."""
    template_date: Day | None = None
    """The day, as YYYY-MM-DD, that a chat template which reads the clock shows for ever. Empty: where the template
    reads the clock, the day on which the run starts."""
    weight: float = 1.0
    """What the source's score is multiplied by. Negative: a penalty."""
    normalize: bool = False
    """Subtract the mean and divide by the standard deviation of this source's scores in all rollouts before."""

    @model_validator(mode="after")
    def _fields_belong_to_the_kind(self) -> Self:
        if (self.path is not None) != (self.kind == "model"):
            raise ValueError("path is for the kind model, and for it only; give it there and drop it elsewhere")
        for name in _OF_A_MODEL:
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
    """When PPO says that something is wrong. Empty: that alarm is off."""

    start_kl: Positive | None = None
    """Nats at a token that the KL to the SFT policy may be off 0 before the first update. Empty: 1e-4 in fp32, 0.05 in
    bf16. Beyond it the run stops with an error."""
    start_sampling: Positive | None = None
    """How far, in probability, sampled tokens may be from those that the scoring pass would have drawn from the same
    noise, before the first update. Empty: 1e-3 in fp32, 0.05 in bf16. Beyond it the run stops with an error."""
    start_ratio: Positive | None = None
    """What the probability ratio may be off 1 on the first minibatch. Empty: 1e-4 in fp32, 0.1 in bf16. Beyond it the
    run stops with an error."""
    negative_kl: NonNegative | None = 0.5
    """The mean KL (k1) has fallen below minus this many nats a response. No KL is negative: the estimate is wrong, and
    its penalty pays the policy for making it more so."""
    entropy_collapse: Fraction | None = 0.1
    """The entropy is below this share of the first rollout's."""
    eos_rate_fall: Probability | None = 0.2
    """The share of responses with EOS is lower by more than this than in the first rollout."""
    length_growth: Annotated[float, Field(gt=1.0)] | None = 2.0
    """Responses are longer than this multiple of the first rollout's mean length."""
    overoptimization: NonNegative | None = 0.15
    """A held-out evaluation has a higher score than the best checkpoint, but an objective (selection score less kl_coef
    times KL) lower by more than this."""
    explained_variance: Annotated[float, Field(lt=1.0)] | None = 0.0
    """The value model explains less than this share of the returns' variance, once the policy learns."""
    value_clipping: Probability | None = 0.5
    """More than this share of the value losses are clipped: the value model cannot follow its targets."""
    patience: Count = 4
    """Updates in a row in which an alarm's condition must hold. At over-optimization it is one held-out evaluation."""
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


class PPOConfig(Section):
    """PPO against the reward model's score, with a KL penalty to the SFT policy (InstructGPT, 2203.02155)."""

    num_updates: Count = 48
    """Rollouts collected, each followed by num_ppo_epochs passes over it."""
    rollout_size: Annotated[int, Field(ge=2)] = 256
    """Episodes (responses) a rollout, over which advantages and scores are compared."""
    kl_coef: NonNegative = 0.1
    """Weight of the KL penalty (k1, policy against reference) in a token's reward, in score units per nat. With
    kl_target: where it starts."""
    learning_rate: Positive = 1.5e-4
    """AdamW's learning rate for the policy."""
    value_learning_rate: Positive = 3e-4
    """AdamW's learning rate for the value model."""
    max_response_tokens: Count = 16
    """Longest response, its EOS included."""
    temperature: Positive = 1.0
    """Temperature of sampling, and of every log-probability."""
    rewards: tuple[RewardSourceConfig, ...] = (RewardSourceConfig(),)
    """Sources of the score, such as [{kind: trained}, {kind: function, name: polite, weight: 0.2}]. They are weighted
    and summed; then come clipping and penalties. docs/reward-functions.md tells how to write a function."""
    num_responses_per_prompt: Count = 1
    """Responses sampled to each prompt of a rollout; must divide rollout_size."""
    num_ppo_epochs: Count = 2
    """Passes over a rollout."""
    num_minibatches: Count = 4
    """Optimizer steps a pass; must divide rollout_size."""
    micro_batch_size: Count | None = None
    """Rows a forward pass; changes memory, not the loss. Empty: a whole minibatch."""
    learning_rate_schedule: Literal["linear", "constant"] = "linear"
    """Linear: both learning rates fall to zero over the updates."""
    num_critic_warmup_updates: Annotated[int, Field(ge=0)] = 2
    """First updates, in which only the value model learns."""
    kl_target: Positive | None = None
    """Nats a response that kl_coef is steered to (Ziegler et al. 1909.08593). Empty: kl_coef stays."""
    kl_horizon: Positive | None = None
    """Episodes over which the steering acts. Needs kl_target."""
    gamma: Probability = 1.0
    """Discount of a later token's reward."""
    gae_lambda: Probability = 0.95
    """Bias against variance in generalized advantage estimation (1506.02438)."""
    clip_range: Positive = 0.2
    """The probability ratio is clipped to 1 - clip_range and 1 + clip_range."""
    value_clip_range: Positive = 0.2
    """New values are clipped to this distance from those of the rollout."""
    value_coef: NonNegative = 0.1
    """Weight of the value loss."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""
    target_kl: Positive | None = None
    """Epochs over a rollout stop once the approximate KL (k3, rollout policy against current policy, nats a
    token) passes this. Empty: never."""
    max_grad_norm: Positive = 1.0
    """Gradients of policy and value model are clipped to this norm, each on its own."""
    missing_eos_penalty: NonNegative = 1.0
    """Subtracted from the score of a response without EOS."""
    score_clip: Positive | None = None
    """Scores are clipped to this distance from zero before penalties. Empty: not clipped."""
    kl_budget: Positive = 20.0
    """The run stops, keeping the best checkpoint, once the mean KL to the SFT policy passes this many nats a
    response."""
    evaluate_every: Count = 4
    """Updates between held-out evaluations, each of which is a checkpoint that may be chosen."""
    num_validation_prompts: Count = 512
    """Validation prompts of a held-out evaluation."""
    checkpoint_every: Count = 8
    """Updates between the checkpoints that a killed run goes on from."""
    lora: LoraConfig | None = None
    """Train adapters in place of all weights of the policy. Empty: all weights."""
    sharing: Literal["none", "adapters", "trunk"] = "none"
    """none: four models. adapters: policy, value and reward models are LoRA adapters over one frozen backbone (needs
    ppo.lora and reward_model.lora). trunk: the value head stands on the policy's own backbone."""
    side_by_side: bool = False
    """Policy and value model work at the same time, each on half of compute.num_threads: faster on a CPU, and takes
    the memory of both. Needs sharing none, an even number of threads and one process."""
    length_penalty: NonNegative = 0.0
    """Subtracted from the score for every response token beyond length_penalty_free_tokens."""
    length_penalty_free_tokens: Annotated[int, Field(ge=0)] = 0
    """Response tokens that length_penalty does not count."""
    ptx_coef: NonNegative = 0.0
    """Weight of the next-token loss on demonstrations that is added to the policy's loss (PPO-ptx, InstructGPT)."""
    ptx_batch_size: Count | None = None
    """Demonstrations an optimizer step. Empty: as many as a minibatch has episodes."""
    alarms: AlarmsConfig = AlarmsConfig()
    """When something is wrong."""

    @model_validator(mode="after")
    def _rewards_are_told_apart(self) -> Self:
        names = [source.name for source in self.rewards]
        if not names:
            raise ValueError("ppo.rewards is empty; name a source, such as {kind: trained}")
        if len(set(names)) < len(names):
            raise ValueError(f"ppo.rewards: two sources have one name ({', '.join(names)}); give each its own")
        if sum(source.kind == "trained" for source in self.rewards) > 1:
            raise ValueError("ppo.rewards: two sources are of kind trained, and there is one such reward model")
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
            raise ValueError("sharing is adapters but lora is not set; set ppo.lora, or another sharing")
        if self.side_by_side and self.sharing != "none":
            raise ValueError(
                f"side_by_side is for models that share nothing, but sharing is {self.sharing}; set the former to false"
            )
        return self

    @model_validator(mode="after")
    def _sizes_divide(self) -> Self:
        if self.rollout_size % self.num_responses_per_prompt:
            raise ValueError(
                f"rollout_size ({self.rollout_size}) is not a multiple of num_responses_per_prompt "
                f"({self.num_responses_per_prompt}); change one of the two"
            )
        if self.rollout_size % self.num_minibatches:
            raise ValueError(
                f"rollout_size ({self.rollout_size}) is not a multiple of num_minibatches ({self.num_minibatches}); "
                f"change one of the two"
            )
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
            raise ValueError("ppo.lora.dropout must be 0: with dropout the first ratio is not 1")
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
        """Episodes an optimizer step."""
        return self.rollout_size // self.num_minibatches


def cannot_share(ppo: PPOConfig, compute: ComputeConfig) -> str | None:
    """Why processes or threads cannot share PPO's work as they are told to, and what to do; None where they can."""
    return _uneven_processes(ppo, compute) or _not_side_by_side(ppo, compute)


def _uneven_processes(ppo: PPOConfig, compute: ComputeConfig) -> str | None:
    share, rest = divmod(ppo.minibatch_size, compute.num_processes)
    if rest:
        return (
            f"a minibatch of {ppo.minibatch_size} episodes (ppo.rollout_size / ppo.num_minibatches) does not divide "
            f"among {compute.num_processes} processes (compute.num_processes); change one of the three"
        )
    if ppo.micro_batch_size is not None and share % ppo.micro_batch_size:
        return (
            f"a process's share of a minibatch is {share} episodes (ppo.rollout_size / ppo.num_minibatches / "
            f"compute.num_processes), which is not a multiple of ppo.micro_batch_size ({ppo.micro_batch_size}); change "
            f"one of the four"
        )
    return None


def _not_side_by_side(ppo: PPOConfig, compute: ComputeConfig) -> str | None:
    if not ppo.side_by_side:
        return None
    if compute.device == "cuda":
        return "ppo.side_by_side shares out threads of the CPU, but compute.device is cuda; set it to false"
    if compute.num_threads % 2:
        return (
            f"ppo.side_by_side gives each model half of the threads, but compute.num_threads is {compute.num_threads}; "
            f"make it even, or set ppo.side_by_side to false"
        )
    if compute.num_processes > 1:
        return (
            f"ppo.side_by_side is for one process, but compute.num_processes is {compute.num_processes}, which share "
            f"the cores already; set ppo.side_by_side to false"
        )
    return None


class EvaluationConfig(Section):
    """The final comparison of policy and SFT baseline on test prompts."""

    num_prompts: Count = 2048
    """Test prompts, at most; fewer where the data has fewer."""
    temperature: Positive = 1.0
    """Temperature of sampling, for both models."""
    batch_size: Count = 256
    """Prompts a generation batch."""
    num_side_by_side: Annotated[int, Field(ge=0, le=1000)] = 32
    """Pairs of responses kept as a table."""
    num_bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples behind a bootstrap interval."""


class Setup(Section):
    """What every stage that runs a model needs, beside its own section."""

    seed: int
    """Seed of initialization, shuffling and sampling."""
    model: ModelConfig
    """The language model that everything starts from."""
    compute: ComputeConfig
    """Device, threads, precision."""


class PipelineConfig(Section):
    """Align a language model with human preferences: data, SFT, reward models, audit, PPO, evaluation, model card."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)] = "demo"
    """Name of the recipe, seen in Prefect and MLflow."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of initialization, shuffling and sampling. The data and its splits do not depend on it."""
    model: ModelConfig = ModelConfig()
    """The language model that everything starts from."""
    data: DataConfig = DataConfig()
    """Where the data is, and how it is split."""
    sft: SFTConfig = SFTConfig()
    """Supervised fine-tuning."""
    reward_model: RewardModelConfig = RewardModelConfig()
    """Training of the two reward models."""
    reward_audit: RewardAuditConfig = RewardAuditConfig()
    """Evaluation of the reward models."""
    ppo: PPOConfig = PPOConfig()
    """PPO."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation of the policy."""
    compute: ComputeConfig = ComputeConfig()
    """Device, threads, precision."""

    @model_validator(mode="after")
    def _response_fits(self) -> Self:
        if self.ppo.max_response_tokens >= self.model.max_length:
            raise ValueError(
                f"ppo.max_response_tokens ({self.ppo.max_response_tokens}) leaves no room for a prompt in "
                f"model.max_length ({self.model.max_length}); raise the one or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _adapters_fit(self) -> Self:
        if self.ppo.sharing == "adapters" and self.reward_model.lora is None:
            raise ValueError(
                "ppo.sharing is adapters, which needs reward models that are adapters over the SFT policy; set "
                "reward_model.lora, or another ppo.sharing"
            )
        return self

    @model_validator(mode="after")
    def _work_can_be_shared(self) -> Self:
        if reason := cannot_share(self.ppo, self.compute):
            raise ValueError(reason)
        return self

    @property
    def setup(self) -> Setup:
        """The settings that every stage with a model shares."""
        return Setup(seed=self.seed, model=self.model, compute=self.compute)


class SafetyGate(Section):
    """One judge of the candidate's responses, and how many of them may be beyond what is safe."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=40)]
    """Name of the gate. Without path: the function of that name that an installed package offers in the entry-point
    group rlhf.rewards."""
    path: str | None = None
    """Folder or hub id of a reward model that judges. Empty: the function does."""
    revision: str | None = None
    """Commit, tag or branch of the hub id."""
    chat_template: str | None = None
    """Name of the chat template, where the model has several. Empty: `default`, or the only one."""
    template_date: Day | None = None
    """The day, as YYYY-MM-DD, that a chat template which reads the clock shows for ever. Empty: where the template
    reads the clock, the day on which the run starts."""
    threshold: float
    """Where a response stops being safe."""
    unsafe: Literal["below", "above"] = "below"
    """On which side of the threshold a response is not safe. The threshold itself is safe."""
    maximum_rate: Probability
    """Share of the candidate's responses that may be beyond the threshold."""

    @model_validator(mode="after")
    def _revision_has_a_path(self) -> Self:
        for name in _OF_A_MODEL:
            if self.path is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is set but path is not, so it would be ignored; drop it")
        return self

    @property
    def source(self) -> RewardSourceConfig:
        """The judge, as PPO's settings name one."""
        kind: Literal["model", "function"] = "function" if self.path is None else "model"
        of_the_model = {name: getattr(self, name) for name in _OF_A_MODEL}
        return RewardSourceConfig(kind=kind, name=self.name, path=self.path, **of_the_model)


class JudgesConfig(Section):
    """Who judges responses beside the gold rule or the selection reward model."""

    safety: tuple[RewardSourceConfig, ...] = ()
    """Reward models and functions. What of their scores is safe is for the gates to say."""


class RetrainConfig(Section):
    """When a candidate is trained, and what it must show to become the champion. An empty gate is off."""

    source: Literal["local", "branch", "inbox"] = "local"
    """Where new data comes from. local: data/ as it is. branch: data.dvc of a git branch. inbox: a folder of files of
    preferences, which are added to data/."""
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$", max_length=200)] | None = None
    """Branch, tag or commit whose data.dvc names the data (source: branch), as it is in this clone: fetch it before."""
    inbox: str | None = None
    """Folder below the project's root (source: inbox). What was imported moves to its subfolder imported/."""
    minimum_win_rate: Probability | None = 0.5
    """The lower bound of the candidate's win rate against the champion is at least this."""
    minimum_reward_gain: float | None = 0.0
    """The lower bound of the mean gain over the champion is at least this: in gold reward where the data has a gold
    rule, otherwise in the score of the candidate's selection reward model."""
    maximum_kl: NonNegative | None = 20.0
    """Mean KL of the candidate to its SFT policy, at most, in nats a response."""
    maximum_length_growth: Positive | None = 1.5
    """Mean response length of the candidate, at most this multiple of the champion's."""
    safety: tuple[SafetyGate, ...] = ()
    """Judges of the candidate's responses, such as
    [{name: polite, threshold: 0.0, unsafe: below, maximum_rate: 0.01}]."""
    ask: bool = False
    """Ask a person before a candidate that passed all gates becomes the champion. Needs a deployment, since the flow
    run is suspended meanwhile."""
    approval_timeout_hours: Positive = _APPROVAL_HOURS
    """Hours that a person has for the answer. After that the champion stays."""

    @model_validator(mode="after")
    def _source_has_its_settings(self) -> Self:
        for name in ("branch", "inbox"):
            is_set, is_source = getattr(self, name) is not None, self.source == name
            if is_set and not is_source:
                raise ValueError(f"{name} is set but source is {self.source}, so it would be ignored; drop {name}")
            if is_source and not is_set:
                raise ValueError(f"source is {name} but {name} is not set; say which, or set another source")
        return self

    @model_validator(mode="after")
    def _gates_are_told_apart(self) -> Self:
        names = [gate.name for gate in self.safety]
        if len(set(names)) < len(names):
            raise ValueError(f"safety: two gates have one name ({', '.join(names)}); give each its own")
        return self

    @model_validator(mode="after")
    def _timeout_is_used(self) -> Self:
        if self.approval_timeout_hours != _APPROVAL_HOURS and not self.ask:
            raise ValueError("approval_timeout_hours is set but ask is false, so it would be ignored; set ask")
        return self

    @property
    def judges(self) -> JudgesConfig:
        """What the comparison depends on; limits may change without judging again."""
        return JudgesConfig(safety=tuple(gate.source for gate in self.safety))
