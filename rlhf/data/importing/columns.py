"""The columns of a file and their meaning: from first rows, names, and what a person says (`--columns`)."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from rlhf.data.importing.cells import parsed
from rlhf.data.importing.dialogues import are_messages, as_number, starts_with_turn
from rlhf.data.importing.verdicts import Outcome, word_set, words_of
from rlhf.data.schema import Row
from rlhf.errors import DataError

ROLES = {
    "prompt": "text or messages that are answered",
    "system": "a system message in front of the prompt",
    "input": "text that follows the prompt after an empty line",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "first": "the first of two answers, with a verdict",
    "second": "the second of them",
    "verdict": "which of the two is better; say what its values mean: verdict=label:0=first,1=second,2=tie",
    "completion": "the answer of a demonstration",
    "messages": "a whole dialogue that ends with the answer",
    "label": "whether the answer is wanted: label=thumb:up=wanted,down=unwanted",
    "responses": "a list of answers",
    "ranks": "their ranks, 1 the best, ties allowed",
    "margin": "how much better the chosen answer is",
    "probability": "the probability that the chosen answer is preferred, from 0.5 to 1",
    "annotator": "who judged",
    "criteria": "what was judged",
    "source": "where the row is from",
    "category": "what the row is about; a column subset is one as well",
    "ignored": "a column that looks like a verdict and is not to be read; may be given again",
}
_OUTCOMES = {"verdict": get_args(Outcome), "label": ("wanted", "unwanted")}

# Rows that are read before the form of a file is decided. Columns that appear later are checked when they appear.
SURVEYED_ROWS = 1000
_MAX_VALUES = 20

_VERDICT_WORDS = word_set(
    """
    accept acceptable accepted agree agreed agrees annotation annotations approved bad best better choice chosen
    correct correctness decision deleted desirable disapproved dislike disliked downvote downvotes evaluation
    feedback flag flagged flags flip flipped good grade grades harmful harmless helpful helpfulness incorrect
    invalid judgement judgements judgment judgments kto label labels like liked likes loser outcome prefer
    preference preferences preferred prefers quality rank ranking rankings ranks rate rating ratings reject rejected
    rejection reversed reward rewards safe safer safety score scores selected selection spam star stars swap swapped
    tag tags thumb thumbs tie toxic toxicity undesirable unsafe unwanted upvote upvotes valid verdict verdicts vote
    votes wanted win winner winners wins worse worst
    """
)
# Words that describe a verdict and are no verdict: chosen_model, label_time, preference_statement.
_ABOUT = word_set(
    """
    at by comment comments count date elaboration email explanation lang language model models name num number
    policy rationale reason reasons reasoning source statement time timestamp url user version
    """
)
_WHO = word_set("annotator coder evaluator judge labeler labeller rater reviewer user worker")
# Names of numbers and short codes that say nothing about an answer.
_COUNTED = word_set(
    """
    chars code count country day epoch id ids idx index lang language len length level locale month n num number
    page position round seed size step tokens turn turns version words year
    """
)
_VERDICT_VALUES = word_set(
    """
    a b tie first second left right model_a model_b modela modelb response_a response_b response_1 response_2 good
    bad yes no true false win lose loss won lost chosen rejected accepted accept reject preferred dispreferred up
    down thumbs_up thumbs_down thumbsup thumbsdown + - better worse positive negative like dislike safe unsafe
    correct incorrect reversed ok okay nok both neither same 1,2 2,1 a,b b,a ab ba wanted unwanted desirable
    undesirable y n approved disapproved pass passed fail failed
    """
)
# Verdicts that are not also the code of a language, a worker or a country.
_JUDGING_VALUES = _VERDICT_VALUES - word_set("a b no n y first second left right up down + -")
_COUNTS = word_set("num number n count total")
# Fields that say whether a message is trained on: a value other than 1 or true has a reason. A tool call is no text.
_OF_TRAINING = frozenset({"weight", "train", "loss", "mask", "tool_calls", "function_call"})
_OF_A_MESSAGE = frozenset({"role", "from", "speaker", "content", "value", "text", "name", "type", "messages"})


@dataclass
class Column:
    """The content of one column in the surveyed rows.

    Attributes:
        types: of its values, nulls left out.
        values: the different scalars, up to a number; one more means that there are many.
        num_rows: rows that have a value.
        num_dialogues: texts that start with a turn marker.
        num_messages: values that are messages or lists of them.
        num_objects: values that are lists of objects.
        num_spelled_lists: texts that spell a list.
        num_numbers: values that are numbers, or texts that spell one.
        fields: what the fields of its objects hold that are no role and no text of a message.
    """

    types: set[type] = field(default_factory=set)
    values: set[Any] = field(default_factory=set)
    num_rows: int = 0
    num_dialogues: int = 0
    num_messages: int = 0
    num_objects: int = 0
    num_spelled_lists: int = 0
    num_numbers: int = 0
    fields: "dict[str, Column]" = field(default_factory=dict)

    def add(self, value: object) -> None:
        """Look at one more value."""
        self.num_rows += 1
        self.types.add(type(value))
        if isinstance(value, str):
            self.num_dialogues += starts_with_turn(value)
            self.num_spelled_lists += value[:1] == "[" and isinstance(parsed(value), list)
        self.num_numbers += as_number(value) is not None
        items = value if isinstance(value, list) and value else [value]
        self.num_messages += are_messages(value)
        for item in items:
            for name, held in item.items() if isinstance(item, dict) else ():
                if name not in _OF_A_MESSAGE and held is not None and not (held == "" or held == []):
                    self.fields.setdefault(str(name), Column()).add(held)
        self.num_objects += isinstance(value, list) and all(isinstance(item, dict) for item in items)
        if len(self.values) <= _MAX_VALUES and isinstance(value, str | int | float):
            self.values.add((type(value) is bool, value.strip() if isinstance(value, str) else value))

    @property
    def scalars(self) -> set[Any]:
        """The different values, where there are not many."""
        return {value for _, value in self.values} if len(self.values) <= _MAX_VALUES else set()


Survey = Mapping[str, Column]


def survey(rows: Iterable[Row]) -> dict[str, Column]:
    """The content of each column, in the order in which the columns appear. Empty cells and nulls do not count."""
    columns: dict[str, Column] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None and value != "":
                columns.setdefault(name, Column()).add(value)
    return columns


def doubtful_fields(name: str, column: Column) -> list[str]:
    """The fields of a column's messages or objects that may change what a row means, as `column.field`."""
    return [
        f"{name}.{inner}"
        for inner, held in column.fields.items()
        if (held.scalars != {1} if inner in _OF_TRAINING else looks_like_verdict(inner, held))
    ]


def looks_like_verdict(name: str, column: Column | None = None) -> bool:
    """Whether a column may change what a row means: by its name, or by values such as "A" and "B", 0 and 1, true.

    Args:
        name: of the column.
        column: what the surveyed rows have in it; None: the name alone is known.
    """
    words = words_of(name) or [""]
    if words == ["annotation", "id"]:  # a labelling tool's number
        return False
    if (set(words) - _WHO) & _VERDICT_WORDS and words[-1] not in _ABOUT and words[0] not in _COUNTS:
        return True
    return column is not None and _has_verdict_values(column, is_number=bool(set(words) & (_WHO | _COUNTED)))


def _has_verdict_values(column: Column, is_number: bool) -> bool:
    """Whether the values may be verdicts.

    Args:
        column: what the surveyed rows have in it.
        is_number: its name says that it holds a number or a short code; words that judge are none of these.
    """
    values = column.scalars
    if not values or column.types - {bool, int, float, str}:
        return False
    if column.types == {bool}:
        return True
    texts = {str(value).removesuffix(".0").casefold() for value in values}
    if texts <= {"-1", "0", "1", "2"}:
        return len(texts) > 1 and not is_number
    if column.types != {str}:
        return False
    if is_number:
        return texts == {"y", "n"} or (len(texts) > 1 and texts <= _VERDICT_VALUES and bool(texts & _JUDGING_VALUES))
    return texts <= _VERDICT_VALUES


@dataclass(frozen=True)
class GivenColumns:
    """The meaning of a file's columns, as a person gives it.

    Attributes:
        columns: name of the column by role.
        values: what the values of a verdict or a label mean, by role.
        ignored: columns that are not to be read.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def role_of(self, name: str) -> str:
        """The name that a column is read under."""
        role = next((role for role, column in self.columns.items() if column == name), name)
        # A column may bear the name of a role for which the person gave another column.
        return f"{name} of the file" if role == name and self.columns.get(name, name) != name else role

    def check(self, names: Iterable[str], source: str) -> None:
        """Refuse columns that the file does not have.

        Raises:
            DataError: it lacks one, or has a verdict besides under a role's name.
        """
        names = list(names)
        for role, column in self.columns.items():
            if role in names and role not in (*self.columns.values(), *self.ignored) and looks_like_verdict(role):
                raise DataError(
                    f'{source}: --columns names "{column}" as the {role}, and the file also has a column "{role}", '
                    f"which may say something else; leave it out with --columns ignored={role}"
                )
        for name in (*self.columns.values(), *self.ignored):
            if name not in names:
                raise DataError(
                    f'{source}: --columns names "{name}", and the file has no such column{nearest(name, names)}'
                )

    def renamed(self, row: Row) -> Row:
        """A row with its columns under the names of their roles."""
        if not self.columns and not self.ignored:
            return row
        roles = {column: role for role, column in self.columns.items()}
        # A column with the name of a role for which another column was given is not read (see `role_of`).
        unread = {*roles, *self.columns, *self.ignored}
        renamed = {name: value for name, value in row.items() if name not in unread}
        return renamed | {roles[name]: value for name, value in row.items() if name in roles}


def parse_columns(text: str | None, option: str = "--columns") -> GivenColumns:
    """Read what a person wrote: `chosen=better,verdict=label:0=first,1=second`.

    Args:
        text: roles with their columns, separated by commas; the values of a verdict or label after a colon.
        option: how messages name it.

    Raises:
        DataError: it cannot be read, or a role is given twice.
    """
    columns: dict[str, str] = {}
    values: dict[str, dict[str, str]] = {}
    ignored: list[str] = []
    last = ""
    for part in text.split(",") if text else ():
        role, _, name = part.strip().partition("=")
        if role not in ROLES and name in _OUTCOMES.get(last, ()):
            values.setdefault(last, {})[role] = name
        elif not name or role not in ROLES:
            raise DataError(
                f'{option}: "{part}" cannot be read{"" if role in ROLES else nearest(role, ROLES)}; '
                f"write ROLE=COLUMN with one of {', '.join(ROLES)}, or VALUE=OUTCOME after a verdict or a label with "
                f"one of {', '.join(outcome for outcomes in _OUTCOMES.values() for outcome in outcomes)}"
            )
        elif role == "ignored":
            ignored.append(name)
        elif role in columns:
            raise DataError(f'{option}: "{role}" is given twice; give one column for it')
        else:
            last = role
            # `label:0=first` is the column and what a value of it means.
            columns[role], colon, meaning = name.partition(":") if role in _OUTCOMES else (name, "", "")
            value, _, outcome = meaning.partition("=")
            if colon and outcome not in _OUTCOMES[role]:
                raise DataError(
                    f'{option}: "{meaning}" does not say what a value means; write VALUE={"|".join(_OUTCOMES[role])}'
                )
            if colon:
                values[role] = {value: outcome}
    return GivenColumns(columns, values, tuple(ignored))


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that names the nearest of what is known, or nothing."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.85)
    return f' (did you mean "{near[0]}"?)' if near else ""


def quoted(names: Sequence[str]) -> str:
    """Names as a message lists them, the first thirty."""
    shown = [f'"{re.sub(r"[^ -~]", "?", name)[:60]}"' for name in names[:30]]
    return ", ".join(shown) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
