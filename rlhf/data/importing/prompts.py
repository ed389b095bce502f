"""The prompt of a row, and how prompt and answers fit together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.importing.columns import Survey
from rlhf.data.importing.dialogues import (
    NOT_MESSAGES,
    Messages,
    RowDroppedError,
    are_texts,
    common_prompt,
    message,
    prompt_of,
    text,
    turns,
    value_in,
)
from rlhf.data.schema import Row
from rlhf.errors import DataError

_PLAIN = ("prompt", "question", "query", "user_prompt", "history", "post", "context", "input")
_SYSTEMS = ("system", "system_prompt")
# Formats in which a text is never a whole dialogue.
_PLAIN_FORMATS = ("trl", "alpaca", "sharegpt", "openai", "qa", "self_instruct")
_DIALOGUES = ("conversations", "conversation")
# A column holds dialogues where at least this share of its texts starts with a turn marker. Where at most 1 minus this
# share does, such a text only quotes a dialogue.
_DIALOGUE_SHARE = 0.95


@dataclass(frozen=True)
class PromptReader:
    """Reads the prompt of a row.

    Attributes:
        format: the convention, as forms are named.
        column: the main one.
        system: the column of a system message in front of it; this and the next two may be empty.
        extra: the column of what follows an instruction after an empty line.
        history: the column of the turns before.
    """

    format: str
    column: str
    system: str = ""
    extra: str = ""
    history: str = ""

    @property
    def read(self) -> set[str]:
        """All columns that it reads."""
        return {self.column, self.system, self.extra, self.history} - {""}

    def of(self, row: Row) -> Messages:
        """The prompt of a row.

        Raises:
            RowDroppedError: there is none.
        """
        if self.format == "alpaca":
            asked = instruction(text(row, self.column), text(row, self.extra) if self.extra in row else "")
            prompt = [*(_history(row[self.history]) if self.history in row else []), *asked]
        elif self.format == "sharegpt":
            prompt = turns(value_in(row, self.column), self.column)
        else:
            prompt = prompt_of(value_in(row, self.column), self.column, is_dialogue=self.format == "hh")
        system = text(row, self.system) if self.system in row else ""
        return [message("system", system), *prompt] if system.strip() else prompt


def find_prompt(
    survey: Survey, source: str, format_name: str = "auto", taken: Sequence[str] = ()
) -> PromptReader | None:
    """The columns that hold the prompt; None where there are none.

    Args:
        survey: what the columns hold.
        source: name of the file, for messages.
        format_name: the format that a person gave; `hh` says that texts are dialogues, some others that they are not.
        taken: columns that are read as something else.
    """
    types = {name: column.types for name, column in survey.items() if name not in taken}
    system = next((name for name in _SYSTEMS if str in types.get(name, ())), "")
    for name in _DIALOGUES:
        if list in types.get(name, ()):
            return PromptReader("sharegpt", name, system)
    if "instruction" in types:
        history = "history" if list in types.get("history", ()) else ""
        return PromptReader("alpaca", "instruction", system, "input" if "input" in types else "", history)
    for name in _PLAIN:
        if types.get(name, set()) & {str, list, dict}:
            marked = holds_dialogues(survey, name, source, format_name)
            return PromptReader("hh" if marked else "trl", name, system)
    return None


def instruction(asked: str, given_input: str) -> Messages:
    """The user's turn that an instruction and its input make."""
    return [message("user", "\n\n".join(part for part in (asked, given_input) if part.strip()))]


def holds_dialogues(
    survey: Survey, name: str, source: str, format_name: str = "auto", *, else_unread: bool = False
) -> bool:
    """Whether the texts of a column are dialogues with turn markers. The form is the file's, not a row's.

    Args:
        survey: what the columns hold.
        name: the column.
        source: name of the file.
        format_name: what a person says that the format is.
        else_unread: as plain texts they could not be read, so that the greater part decides.

    Raises:
        DataError: some are and some are not, and only their owner knows which is meant.
    """
    column = survey[name]
    if str not in column.types or format_name in _PLAIN_FORMATS:
        return False
    share = column.num_dialogues / column.num_rows
    if format_name == "hh" or share >= (0.5 if else_unread else _DIALOGUE_SHARE):
        return True
    if share <= 1 - _DIALOGUE_SHARE or else_unread or format_name != "auto":
        return False
    raise DataError(
        f'{source}: {share:.0%} of the texts in "{name}" start with a turn such as "Human:" and the others do not, so '
        "it is not clear whether the texts are dialogues or quote a dialogue; give --format hh or --format trl"
    )


def join(prompt: Messages | None, first: Messages, second: Messages) -> tuple[Messages, Messages, Messages]:
    """Prompt and two answers, where the answers may be whole dialogues that repeat the prompt or go on from it.

    Raises:
        RowDroppedError: they do not fit together.
    """
    if prompt is None:
        return common_prompt(first, second)
    if len(first) < 2 and len(second) < 2:
        return prompt, first, second
    context, better, worse = common_prompt(first, second)
    if context and context[0]["role"] == "assistant":
        return [*prompt, *context], better, worse
    asked, before = ([(m["role"], m["content"].strip()) for m in messages] for messages in (prompt, context))
    if before and asked[-len(before) :] == before:
        return [*prompt[: -len(before)], *context], better, worse
    # A prompt of one turn may be any turn of the dialogue.
    if asked and (before[-len(asked) :] == asked or (len(asked) == 1 and asked[0] in before)):
        return context, better, worse
    raise RowDroppedError("the prompt is not the one that chosen and rejected answer")


def _history(turns_before: object) -> Messages:
    """Alpaca's turns before: a list of question and answer."""
    pairs: list[Any] = turns_before if isinstance(turns_before, list) else [None]
    if not all(are_texts(pair) and len(pair) == 2 for pair in pairs):
        raise RowDroppedError(NOT_MESSAGES, '"history" is not a list of questions and answers')
    return [message(role, said) for pair in pairs for role, said in zip(("user", "assistant"), pair, strict=True)]
