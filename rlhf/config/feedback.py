"""Settings of rounds of feedback: what people are asked, and what is taken of their answers."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, Fraction, Positive, Probability, Section, Seed
from rlhf.config.judge import CriticConfig, RoundName, StepJudgeConfig

Annotator = Annotated[str, Field(pattern=r"^[^\s,]+$", max_length=100)]


class ComparisonsConfig(Section):
    """Comparisons of a policy's answers: how many, which, and what is asked of them."""

    num_pairs: Count = 200
    """Comparisons, each of two answers to a prompt."""
    num_responses: Annotated[int, Field(ge=2, le=64)] = 2
    """Answers sampled for each prompt, of which two are shown."""
    temperature: Positive = 1.0
    """Temperature of sampling."""
    max_response_tokens: Count | None = None
    """Longest answer. Empty: that of the recipe."""
    choose: Literal["random", "disagreement", "close"] = "random"
    """Choice of prompts and pairs. random. disagreement: the pairs on which the policy's two reward models differ most.
    close: those whose scores differ least. The latter two look at several times num_pairs prompts (pool)."""
    pool: Annotated[int, Field(ge=2, le=100)] = 4
    """Prompts answered for each pair that is shown, where pairs are not chosen at random."""
    annotators: Annotated[tuple[Annotator, ...], Field(max_length=200)] = ()
    """Logins of the people who are asked, each of whom gets a queue. Empty: one queue that is open to all."""
    overlap: Probability = 0.0
    """Share of the comparisons that is asked of several people."""
    annotators_per_overlap: Annotated[int, Field(ge=2, le=20)] = 2
    """How many people are asked of each of these."""
    guidelines: str | None = None
    """YAML file of the questions and their instruction, below the project's root. Empty: which answer is better, in
    five levels, with tie and cannot judge."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if len({name.casefold() for name in self.annotators}) < len(self.annotators):  # MLflow knows no upper case
            raise ValueError(f"annotators: a name stands twice ({', '.join(self.annotators)}); give each once")
        people = self._num_people()
        if self.overlap and people < self.annotators_per_overlap:
            raise ValueError(
                f"overlap is {self.overlap:g}, which asks {self.annotators_per_overlap} people the same, but there are "
                f"{people} annotators; name them, or set overlap to 0"
            )
        for name, default, needs in (
            ("annotators_per_overlap", 2, bool(self.overlap)),
            ("pool", 4, self.choose != "random"),
        ):
            if getattr(self, name) != default and not needs:
                needed = "overlap is 0" if name == "annotators_per_overlap" else "choose is random"
                raise ValueError(f"{name} is set but {needed}, so it would be ignored; drop it")
        return self

    def _num_people(self) -> int:
        return len(self.annotators)


class AskConfig(ComparisonsConfig):
    """A round of comparisons that people are asked for in MLflow's review page."""

    round: RoundName
    """Name of the round."""
    policies: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    """Policies that answer: runs, versions of registered models, aliases, folders. Of several each answers as many
    prompts. Empty: the recipe's champion, or its newest finished run where it has none."""
    prompts: str | None = None
    """File of prompts, as in data/prompts.jsonl, below the project's root. Empty: the prompts of the recipe's data."""
    gold_questions: str | None = None
    """File of preferences whose answers are known, below the project's root; everybody is asked all of them."""
    seed: Seed = 0
    """Seed of prompts, answers, pairs and order."""

    @model_validator(mode="after")
    def _name_is_free(self) -> Self:
        if self.round.lower() == "default":
            raise ValueError("round: default is the name of a queue of MLflow's own; take another")
        return self


class SimulatedRatersConfig(Section):
    """Raters that are no people: they know the rule behind an embedded data set, and err."""

    num_raters: Annotated[int, Field(ge=1, le=20)] = 2
    """Raters, named simulated-1 and so on."""
    error_rate: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.05
    """Share of the comparisons in which a rater prefers the worse answer; of two equal ones, one of them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The raters' names, as the data has them."""
        return tuple(f"simulated-{number}" for number in range(1, self.num_raters + 1))


class FeedbackConfig(ComparisonsConfig):
    """Feedback on answers of the newest policy: that of the round before, or the SFT policy.

    People, simulated raters or a judge compare them, and new reward models are trained on that before the round's
    policy is.
    """

    simulated: SimulatedRatersConfig | None = None
    """Raters that are simulated, for trials with embedded data. Empty: people, who are asked in MLflow's review page;
    the run ends there with their queues' addresses, and the same run again goes on once they have answered."""
    minimum_answered: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of what people are asked that must be answered before the run goes on."""
    judge: StepJudgeConfig | None = None
    """A model that labels the comparisons. Empty: people and simulated raters alone answer."""
    given_preferences: Literal["used", "dropped"] = "used"
    """Whether the preferences of the data are learned from beside those that are collected. dropped: those of this
    round and the rounds before it alone are there, to learn from and to measure on."""

    @model_validator(mode="after")
    def _somebody_answers(self) -> Self:
        if self.simulated is not None and self.annotators:
            raise ValueError("annotators are named, but simulated raters answer; drop one of the two")
        if self.simulated is not None and self.minimum_answered != 1.0:
            raise ValueError("minimum_answered is set, but simulated raters answer everything; drop it")
        if self.judge is not None:
            measured = self.judge.num_measured
            if measured > self.num_pairs:
                raise ValueError(f"judge.num_measured is {measured}, but num_pairs is {self.num_pairs}; lower it")
            if not measured and (self.simulated is not None or self.annotators or self.guidelines):
                raise ValueError(
                    "judge.num_measured is 0, so nobody but the judge is asked and simulated, annotators and "
                    "guidelines would be ignored; drop them, or raise it"
                )
        return self

    def _num_people(self) -> int:
        return len(self.annotators) if self.simulated is None else self.simulated.num_raters


class RevisionsConfig(Section):
    """Answers that are criticized by principles and written anew (Constitutional AI, 2212.08073)."""

    prompts: str
    """File of prompts, as in data/prompts.jsonl, below the project's root, such as those of red teaming."""
    constitution: str
    """File of principles below the project's root, each with a request for a critique and one for a revision, in JSON
    or YAML."""
    num_prompts: Count | None = None
    """Prompts, from the first on. Empty: all."""
    num_revisions: Annotated[int, Field(ge=1, le=20)] = 1
    """Critiques and revisions of each answer, one after the other."""
    temperature: Positive = 1.0
    """Temperature of the policy's sampling; an endpoint is asked at 0."""
    max_response_tokens: Count | None = None
    """Longest answer of the policy. Empty: that of the recipe."""


class ReviseConfig(RevisionsConfig):
    """Answers that are criticized by principles and written anew, as demonstrations in data/."""

    round: RoundName
    """Name of the revisions in the data."""
    policy: str | None = None
    """Policy that answers: a run, version, alias or folder. Empty: the recipe's champion, or its newest finished
    run."""
    seed: Seed = 0
    """Seed of answers and principles."""


class RevisionConfig(RevisionsConfig):
    """Revised answers of the SFT policy, from which it is trained anew beside the demonstrations, before all else."""

    critic: CriticConfig | None = None
    """A model that criticizes and revises. Empty: the SFT policy itself."""


class CollectConfig(Section):
    """The answers of a round, as a new version of the data."""

    round: RoundName
    """Name of the round."""
    minimum_gold_accuracy: Fraction | None = None
    """Share of the gold questions that an annotator must have answered as known. Who is surely below it (upper bound,
    95%) is named. Empty: nobody is."""
    leave_out: bool = False
    """Whether the answers of those who are below minimum_gold_accuracy are left out."""
    answered: bool = False
    """Whether an answer counts though its item is not marked as complete, or its queue was deleted."""

    @model_validator(mode="after")
    def _somebody_may_be_left_out(self) -> Self:
        if self.leave_out and self.minimum_gold_accuracy is None:
            raise ValueError(
                "leave_out is set but minimum_gold_accuracy is not, so nobody would be left out; set a share, such as "
                "0.7"
            )
        return self
