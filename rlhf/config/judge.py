"""Settings of a model that judges, behind an OpenAI-compatible endpoint."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from rlhf.config.base import Count, Positive, Probability, Section, Seed

RoundName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]


class JudgeConfig(Section):
    """A model behind an OpenAI-compatible endpoint."""

    url: str
    """Address of the endpoint, such as http://127.0.0.1:8000/v1."""
    model: Annotated[str, Field(min_length=1, max_length=200)]
    """The model's name at the endpoint, which is also the judge's name in the data."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)] = "RLHF_JUDGE_KEY"
    """Environment variable that holds the key. The key itself stands in no settings."""
    timeout_seconds: Positive = 60.0
    """Seconds that an answer may take."""
    num_retries: Annotated[int, Field(ge=0, le=20)] = 5
    """Further tries, each after a longer wait, where the endpoint is away, busy (429) or at fault (5xx)."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests at the same time."""
    max_requests: Count | None = None
    """Requests that one command may send; answers that are known already cost none, and further tries of a request that
    failed are not counted (num_retries). Empty: as many as it takes."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        advice = "give one such as http://127.0.0.1:8000/v1"
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  # it is read here, and may be none
        except ValueError:
            raise ValueError(f"{url} is no address of an endpoint; {advice}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is no address of an endpoint; {advice}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "url holds a login, a query or a fragment, which would be recorded; put the key into key_variable"
            )
        return url.rstrip("/")


class LabelsConfig(Section):
    """Labels of comparisons by a judge, and when they are believed."""

    constitution: str
    """File of principles below the project's root: a list in JSON or YAML. One is drawn for each comparison."""
    minimum_agreement: Probability = 0.6
    """Share of the comparisons that people decided too on which the judge must agree with them: the lower bound of its
    95% interval. Below it nothing is labelled."""
    unmeasured_judge: bool = False
    """Whether to label although no person has decided any of the comparisons. The data then says so."""
    both_orders: bool = True
    """Whether each comparison is asked in both orders, so that a bias for a place makes ties and no preferences."""


class LabelConfig(LabelsConfig):
    """Labels of a round's comparisons by a judge."""

    round: RoundName
    """Name of the round."""
    seed: Seed = 0
    """Seed of the principles that are drawn."""


class EvaluationJudgeConfig(Section):
    """A model behind an endpoint that judges what policy and baseline answer, once it was measured against people."""

    endpoint: JudgeConfig
    """The model."""
    criteria: str
    """File of what makes an answer good, below the project's root: a list of texts in JSON or YAML. All of them are in
    every question."""
    num_prompts: Count = 500
    """Largest number of prompts whose answers are judged, each in both orders."""
    grades: bool = True
    """Whether each answer also gets a grade of its own, from 1 to 10, which asks twice as much."""
    labelled: str | None = None
    """File of preferences that people labelled, below the project's root, by which the judge is measured. Empty: the
    data's held-out pairs, but for those that a model has labelled."""
    num_measured: Count = 200
    """Largest number of these pairs that the judge is asked of."""
    minimum_agreement: Probability = 0.6
    """Share of the pairs on which the judge must agree with people: the lower bound of its 95% interval. Below it the
    judge gives no verdict."""
    unmeasured_judge: bool = False
    """Whether the judge gives verdicts although people have labelled no pair. The card then says so first."""

    @model_validator(mode="after")
    def _it_is_measured_where_it_can_be(self) -> Self:
        if self.labelled is not None and self.unmeasured_judge:
            raise ValueError(
                "labelled names a file, by which the judge is measured, so unmeasured_judge would be ignored; drop one"
            )
        return self


class SimulatedJudgeConfig(Section):
    """An endpoint on loopback, for as long as the run needs it, that knows the rule behind an embedded data set."""

    error_rate: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.05
    """Share of the questions in which it prefers the worse answer."""
    position_bias: Probability = 0.0
    """Share of the questions in which it prefers what stands first, whatever that is."""


class _Answering(Section):
    """A model that answers: behind an endpoint, or simulated."""

    endpoint: JudgeConfig | None = None
    """The model, behind an OpenAI-compatible endpoint."""
    simulated: SimulatedJudgeConfig | None = None
    """In place of an endpoint one that is simulated, for trials with embedded data."""

    @model_validator(mode="after")
    def _one_answers(self) -> Self:
        if (self.endpoint is None) == (self.simulated is None):
            raise ValueError("name either endpoint or simulated: one of them answers")
        return self


class StepJudgeConfig(LabelsConfig, _Answering):
    """A judge that labels what a recipe's policy answers."""

    num_measured: Annotated[int, Field(ge=0)] = 200
    """Comparisons that people, or simulated raters, answer as well, so that the judge is measured. 0: with
    unmeasured_judge."""
    learn_from: Literal["judge", "both"] = "judge"
    """Whose answers are learned from. judge: those of people only measure it."""

    @model_validator(mode="after")
    def _it_is_measured(self) -> Self:
        if not self.num_measured and not self.unmeasured_judge:
            raise ValueError(
                "num_measured is 0, so nobody would know whether the judge agrees with people; raise it, or set "
                "unmeasured_judge"
            )
        if not self.num_measured and self.learn_from == "both":
            raise ValueError("learn_from is both, but num_measured is 0, so people answer nothing; raise it")
        return self


class CriticConfig(_Answering):
    """A model that criticizes and revises."""
