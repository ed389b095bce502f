"""Settings of rounds of feedback: what people are asked, and what is taken of their answers."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, Fraction, Positive, Probability, Section, Seed

RoundName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
Annotator = Annotated[str, Field(pattern=r"^[^\s,]+$", max_length=100)]


class AskConfig(Section):
    """A round of comparisons that people are asked for in MLflow's review page."""

    round: RoundName
    """Name of the round."""
    policies: Annotated[tuple[str, ...], Field(max_length=20)] = ()
    """Policies that answer: runs, versions of registered models, aliases, folders. Of several each answers as many
    prompts. Empty: the recipe's champion, or its newest finished run where it has none."""
    prompts: str | None = None
    """File of prompts, as in data/prompts.jsonl, below the project's root. Empty: the prompts of the recipe's data."""
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
    gold_questions: str | None = None
    """File of preferences whose answers are known, below the project's root; everybody is asked all of them."""
    guidelines: str | None = None
    """YAML file of the questions and their instruction, below the project's root. Empty: which answer is better, in
    five levels, with tie and cannot judge."""
    seed: Seed = 0
    """Seed of prompts, answers, pairs and order."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if self.round.lower() == "default":
            raise ValueError("round: default is the name of a queue of MLflow's own; take another")
        if len({name.casefold() for name in self.annotators}) < len(self.annotators):  # MLflow knows no upper case
            raise ValueError(f"annotators: a name stands twice ({', '.join(self.annotators)}); give each once")
        if self.overlap and len(self.annotators) < self.annotators_per_overlap:
            raise ValueError(
                f"overlap is {self.overlap:g}, which asks {self.annotators_per_overlap} people the same, but there are "
                f"{len(self.annotators)} annotators; name them, or set overlap to 0"
            )
        for name, default, needs in (
            ("annotators_per_overlap", 2, bool(self.overlap)),
            ("pool", 4, self.choose != "random"),
        ):
            if getattr(self, name) != default and not needs:
                needed = "overlap is 0" if name == "annotators_per_overlap" else "choose is random"
                raise ValueError(f"{name} is set but {needed}, so it would be ignored; drop it")
        return self


class ReviseConfig(Section):
    """Answers that are criticized by principles and written anew, as demonstrations (Constitutional AI, 2212.08073)."""

    round: RoundName
    """Name of the revisions in the data."""
    prompts: str
    """File of prompts, as in data/prompts.jsonl, below the project's root, such as those of red teaming."""
    constitution: str
    """File of principles below the project's root, each with a request for a critique and one for a revision, in JSON
    or YAML."""
    policy: str | None = None
    """Policy that answers: a run, version, alias or folder. Empty: the recipe's champion, or its newest finished
    run."""
    num_prompts: Count | None = None
    """Prompts, from the first on. Empty: all."""
    num_revisions: Annotated[int, Field(ge=1, le=20)] = 1
    """Critiques and revisions of each answer, one after the other."""
    temperature: Positive = 1.0
    """Temperature of the policy's sampling; an endpoint is asked at 0."""
    max_response_tokens: Count | None = None
    """Longest answer of the policy. Empty: that of the recipe."""
    seed: Seed = 0
    """Seed of answers and principles."""


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
