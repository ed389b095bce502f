"""Settings of retraining: gates, judges, approval."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf.config.base import NonNegative, Positive, Probability, Section
from rlhf.config.model import OF_A_MODEL, Day
from rlhf.config.policy import RewardSourceConfig

_APPROVAL_HOURS = 168.0
_FALSE_PROMOTION_RATE = 0.05


class SafetyGate(Section):
    """A judge of the candidate's responses, and the share of unsafe responses that is allowed."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=40)]
    """Name of the gate. Without path: also the name of a function that an installed package offers in the entry-point
    group rlhf.rewards."""
    path: str | None = None
    """Folder or hub id of a reward model that judges. Empty: the function judges."""
    revision: str | None = None
    """Commit, tag or branch of the hub id."""
    chat_template: str | None = None
    """Name of the chat template where the model has several. Empty: `default`, or the only template."""
    template_date: Day | None = None
    """Day (YYYY-MM-DD) that a chat template which reads the clock shows. Empty: the day on which the run starts."""
    threshold: float
    """Score at which a response stops being safe."""
    unsafe: Literal["below", "above"] = "below"
    """Unsafe side of the threshold. The threshold itself is safe."""
    maximum_rate: Probability
    """Largest upper bound (exact, 95%, one-sided) of the share of prompts with an unsafe response. 0.01 needs 299 gate
    prompts without an unsafe response."""

    @field_validator("maximum_rate")
    @classmethod
    def _can_be_shown(cls, rate: float) -> float:
        if rate == 0:
            raise ValueError(
                "no number of prompts shows that a share is 0, so nothing would ever be promoted; give the largest "
                "share that you accept, such as 0.01, which takes 299 gate prompts without an unsafe response"
            )
        return rate

    @model_validator(mode="after")
    def _revision_has_a_path(self) -> Self:
        for name in OF_A_MODEL:
            if self.path is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is set but path is not, so it would be ignored; drop it")
        return self

    @property
    def source(self) -> RewardSourceConfig:
        """The judge as a reward source of PPO's settings."""
        kind: Literal["model", "function"] = "function" if self.path is None else "model"
        of_the_model = {name: getattr(self, name) for name in OF_A_MODEL}
        return RewardSourceConfig(kind=kind, name=self.name, path=self.path, **of_the_model)


class JudgesConfig(Section):
    """Judges of responses beside the gold rule or the selection reward model."""

    safety: tuple[RewardSourceConfig, ...] = ()
    """Reward models and functions. The gates say which scores are safe."""


class RetrainConfig(Section):
    """Source of new data, and the gates that a candidate must pass to become the champion. An empty gate is off."""

    source: Literal["local", "branch", "inbox"] = "local"
    """Source of new data. local: data/ as it is. branch: data.dvc of a git branch. inbox: a folder of files of
    preferences, which are added to data/."""
    branch: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$", max_length=200)] | None = None
    """Branch, tag or commit whose data.dvc names the data (source: branch), as it is in this clone: fetch it before."""
    inbox: str | None = None
    """Folder below the project's root (source: inbox). Imported files move to its subfolder imported/."""
    minimum_fitness: Literal["weak", "fit"] | None = "weak"
    """Least verdict of the audit on the candidate's reward models. Below weak are unknown, where there are too few
    held-out pairs to tell, and unfit."""
    minimum_win_rate: Probability | None = 0.5
    """Smallest lower bound of the candidate's win rate against the champion."""
    minimum_reward_gain: float | None = 0.0
    """Smallest lower bound of the mean gain over the champion: in gold reward where the data has a gold rule, otherwise
    in the score of each selection reward model that judges."""
    false_promotion_rate: Annotated[float, Field(gt=0.0, le=0.5)] = _FALSE_PROMOTION_RATE
    """Largest chance that any candidate without gain replaces a champion, however many candidates are compared with it.
    Each comparison takes its share, so the bound of minimum_reward_gain (of minimum_win_rate where the former is off)
    gets wider from comparison to comparison."""
    champion_judges: bool = True
    """Whether the champion's selection reward model judges beside the candidate's where the data has no gold rule; the
    worse verdict counts. False: only the candidate's judges, for a champion whose reward models are gone."""
    maximum_kl: NonNegative | None = 20.0
    """Largest upper bound of the candidate's mean KL to its SFT policy, in nats per response."""
    maximum_length_growth: Positive | None = 1.5
    """Largest upper bound of the candidate's mean response length, as a multiple of the champion's."""
    safety: tuple[SafetyGate, ...] = ()
    """Judges of the candidate's responses, such as
    [{name: polite, threshold: 0.0, unsafe: below, maximum_rate: 0.01}]."""
    ask: bool = False
    """Approval by a person before a candidate that passed all gates becomes the champion. Needs a deployment, since the
    flow run is suspended meanwhile."""
    approval_timeout_hours: Positive = _APPROVAL_HOURS
    """Hours that a person has for the answer. After them the champion stays."""

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

    @model_validator(mode="after")
    def _rate_is_used(self) -> Self:
        no_gain = self.minimum_reward_gain is None and self.minimum_win_rate is None
        if self.false_promotion_rate != _FALSE_PROMOTION_RATE and no_gain:
            raise ValueError(
                "false_promotion_rate is set but no gate asks for a gain, so it would be ignored; set "
                "minimum_reward_gain or minimum_win_rate"
            )
        return self

    @property
    def judges(self) -> JudgesConfig:
        """Judges that the comparison depends on; limits may change without a new comparison."""
        return JudgesConfig(safety=tuple(gate.source for gate in self.safety))
