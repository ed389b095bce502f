"""Settings of retraining: gates, judges, approval."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf.config.base import NonNegative, Positive, Probability, Section
from rlhf.config.model import OF_A_MODEL, Day
from rlhf.config.rl import RewardSourceConfig

_APPROVAL_HOURS = 168.0
_FALSE_PROMOTION_RATE = 0.05


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
    """The exact upper bound (95%, one-sided) of the share of prompts with a response beyond the threshold is at most
    this. 0.01 takes 299 gate prompts without one."""

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
        """The judge, as PPO's settings name one."""
        kind: Literal["model", "function"] = "function" if self.path is None else "model"
        of_the_model = {name: getattr(self, name) for name in OF_A_MODEL}
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
    rule, otherwise in the score of each judging selection reward model."""
    false_promotion_rate: Annotated[float, Field(gt=0.0, le=0.5)] = _FALSE_PROMOTION_RATE
    """The chance that any candidate without gain becomes champion while one champion reigns, at most, however many are
    compared with it. Each comparison takes its share, by which the bound of minimum_reward_gain (where that is off, of
    minimum_win_rate) lies further out from comparison to comparison."""
    champion_judges: bool = True
    """Where the data has no gold rule, the champion's selection reward model judges as well as the candidate's, and the
    worse verdict counts. False: the candidate's alone, for a champion whose reward models are gone."""
    maximum_kl: NonNegative | None = 20.0
    """The upper bound of the candidate's mean KL to its SFT policy is at most this, in nats per response."""
    maximum_length_growth: Positive | None = 1.5
    """The upper bound of the candidate's mean response length is at most this multiple of the champion's."""
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
        """What the comparison depends on; limits may change without judging again."""
        return JudgesConfig(safety=tuple(gate.source for gate in self.safety))
