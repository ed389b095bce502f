"""Guidelines of a round: the questions that are asked of a comparison, and what their answers mean."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from rlhf.config.base import NonNegative, Section
from rlhf.errors import ConfigError, one_line
from rlhf.files.plain_yaml import load_yaml, read_yaml_below

# MLflow's own limits of questions, options and descriptions.
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Option = Annotated[str, Field(min_length=1, max_length=64, pattern=r"\S")]
Flag = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^\n,]*\S[^\n,]*$")]
SOFT_QUESTION = "Probability that A is better"
"""Under which a judge's labels stand."""
_OWN_QUESTIONS = ("Feedback", SOFT_QUESTION)
"""MLflow's, which every experiment has, and that of judges."""


class Level(Section):
    """An answer to the question which response is better."""

    says: Option
    """Text of the answer."""
    prefers: Literal["A", "B", "tie", "none"]
    """The response that it prefers. none: it cannot be judged."""
    margin: NonNegative = 0.0
    """By how much, as the field margin of a preference has it."""

    @model_validator(mode="after")
    def _margins_are_of_preferences(self) -> Self:
        if self.margin and self.prefers in ("tie", "none"):
            raise ValueError(f"{self.says!r} prefers no response, but has a margin; drop it")
        return self


_LEVELS = (
    Level(says="A is much better", prefers="A", margin=1.0),
    Level(says="A is better", prefers="A"),
    Level(says="They are equally good", prefers="tie"),
    Level(says="B is better", prefers="B"),
    Level(says="B is much better", prefers="B", margin=1.0),
    Level(says="I cannot judge this", prefers="none"),
)


class Guidelines(Section):
    """What people are asked of a comparison."""

    question: Text = "Which response is better?"
    """The question. Answers are stored under it."""
    instruction: Annotated[str, Field(max_length=1000)] = ""
    """What people should look at. It stands beside the question."""
    details: Annotated[str, Field(max_length=15_000)] = ""
    """The guidelines at length, in Markdown: the description of the round's experiment."""
    levels: Annotated[tuple[Level, ...], Field(min_length=2, max_length=10)] = _LEVELS
    """The answers there are."""
    flags: Annotated[tuple[Flag, ...], Field(max_length=10)] = ()
    """What may be said of each response, such as harmful."""

    @model_validator(mode="after")
    def _answers_are_told_apart(self) -> Self:
        for what, values in (("levels", [level.says for level in self.levels]), ("flags", list(self.flags))):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"{what}: {twice[0]!r} stands twice; give each its own words")
        if self.question in (*_OWN_QUESTIONS, *map(self.flags_question, ("A", "B"))):
            raise ValueError(f"question: {self.question!r} is asked already; ask in other words")
        missing = {"A", "B"} - {level.prefers for level in self.levels}
        if missing:
            raise ValueError(f"levels: no answer prefers {' or '.join(sorted(missing))}; add one")
        return self

    def level_of(self, answer: object) -> Level | None:
        """The level that an answer is; None where it is none of them."""
        return next((level for level in self.levels if level.says == answer), None)

    def flags_question(self, response: str) -> str:
        """The question about the flags of a response, `A` or `B`."""
        return f"What is true of response {response}?"

    def as_yaml(self) -> str:
        """As a file that `read_guidelines` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def read_guidelines(name: str | None, root: Path) -> Guidelines:
    """The guidelines in a file, or the default where none is named.

    Args:
        name: below the root.
        root: the project's root.

    Raises:
        ConfigError: the file is not there, or holds something else.
    """
    if name is None:
        return Guidelines()
    path, text = read_yaml_below(root, name, "guidelines")
    return parse_guidelines(text, str(path))


def parse_guidelines(text: str, where: str) -> Guidelines:
    """Guidelines from YAML.

    Raises:
        ConfigError: it holds something else.
    """
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: this is not YAML as it is read here: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where}: no mapping of settings (question, instruction, details, levels, flags); write them there"
        )
    try:
        return Guidelines.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {_explained(detail)}" for detail in error.errors())) from None


def _explained(detail: object) -> str:
    assert isinstance(detail, dict)
    place = ".".join(map(str, detail["loc"]))
    known = f" (known: {', '.join(Guidelines.model_fields)})" if detail["type"] == "extra_forbidden" else ""
    return f"{place + ': ' if place else ''}{detail['msg']}{known}"
