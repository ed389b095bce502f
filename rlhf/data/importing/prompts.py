"""Where the prompt stands in a row, and how prompt and answers fit together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rlhf.data.importing import dialogues
from rlhf.data.importing.columns import Survey
from rlhf.data.importing.dialogues import (
    Messages,
    RowDroppedError,
    common_prompt,
    message,
    prompt_of,
    text,
    turns,
    value_in,
)
from rlhf.data.schema import Row, type_of
from rlhf.errors import DataError

_PLAIN = ("prompt", "question", "query", "user_prompt", "history", "post", "context", "input")
_SYSTEMS = ("system", "system_prompt")
# Of these nothing is a dialogue in one text.
_PLAIN_FORMATS = ("trl", "alpaca", "sharegpt", "openai", "qa", "self_instruct")
_DIALOGUES = ("conversations", "conversation")
# Of the texts of a column: at least this share starts with a turn marker, and the column holds dialogues; at most
# one less it, and those that do quote one.
_DIALOGUE_SHARE = 0.95


@dataclass(frozen=True)
class PromptReader:
    """Reads the prompt of a row.

    Attributes:
        format: the convention, as forms are named.
        column: the main one; empty where the prompt stands before the answers.
        read: all columns that it reads.
        of: the prompt of a row.
    """

    format: str
    column: str
    read: frozenset[str]
    of: Callable[[Row], Messages]


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
    system = next((name for name in _SYSTEMS if name in survey and str in survey[name].types and name not in taken), "")
    free = [name for name in survey if name not in taken]
    for name in _DIALOGUES:
        if name in free and list in survey[name].types:
            return _with_system("sharegpt", name, system, partial(_dialogue, name=name))
    if "instruction" in free:
        return _instruction(survey, system, taken)
    for name in _PLAIN:
        if name in free and survey[name].types & {str, list, dict}:
            marked = holds_dialogues(survey, name, source, format_name)
            return _with_system(
                "hh" if marked else "trl",
                name,
                system,
                partial(_plain, name=name, is_dialogue=marked),
            )
    return None


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
        DataError: some are and some are not, and nobody but their owner can tell.
    """
    column = survey.get(name)
    if column is None or str not in column.types or format_name in _PLAIN_FORMATS:
        return False
    share = column.num_dialogues / column.num_rows
    if format_name == "hh" or share >= (0.5 if else_unread else _DIALOGUE_SHARE):
        return True
    if share <= 1 - _DIALOGUE_SHARE or else_unread or format_name != "auto":
        return False
    raise DataError(
        f'{source}: of the texts in "{name}" {share:.0%} start with a turn such as "Human:" and the others do not, so '
        "whether those are dialogues or quote one cannot be told; give --format hh or --format trl"
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
    if _ends_with(prompt, context):
        return [*prompt[: len(prompt) - len(context)], *context], better, worse
    if _ends_with(context, prompt) or _asks(context, prompt):
        return context, better, worse
    raise RowDroppedError(dialogues.PROMPT_DIFFERS)


def _ends_with(dialogue: Messages, end: Messages) -> bool:
    tail = dialogue[len(dialogue) - len(end) :] if len(end) <= len(dialogue) else []
    return bool(end) and [_bare(m) for m in tail] == [_bare(m) for m in end]


def _asks(context: Messages, prompt: Messages) -> bool:
    """Whether a prompt of one turn is a turn of the dialogue."""
    return len(prompt) == 1 and _bare(prompt[0]) in [_bare(m) for m in context]


def _bare(message: dict[str, str]) -> tuple[str, str]:
    return message["role"], message["content"].strip()


def _with_system(format_name: str, column: str, system: str, of: Callable[[Row], Messages]) -> PromptReader:
    def read(row: Row) -> Messages:
        prompt = of(row)
        given = row.get(system, "")
        if not isinstance(given, str):
            raise RowDroppedError(dialogues.NOT_TEXT, f'"{system}" is {type_of(given)}')
        return [message("system", given), *prompt] if given.strip() else prompt

    return PromptReader(format_name, column, frozenset({column, *([system] if system else [])}), read if system else of)


def _dialogue(row: Row, name: str) -> Messages:
    return turns(value_in(row, name), name)


def _plain(row: Row, name: str, is_dialogue: bool) -> Messages:
    return prompt_of(value_in(row, name), name, is_dialogue=is_dialogue)


def _instruction(survey: Survey, system: str, taken: Sequence[str]) -> PromptReader:
    extra = "input" if "input" in survey and "input" not in taken else ""
    history = "history" if "history" in survey and list in survey["history"].types else ""

    def read(row: Row) -> Messages:
        parts = [text(row, "instruction"), text(row, extra) if extra in row else ""]
        asked = message("user", "\n\n".join(part for part in parts if part.strip()))
        return [*(_history(row[history]) if history in row else []), asked]

    reader = _with_system("alpaca", "instruction", system, read)
    return PromptReader(
        reader.format, reader.column, reader.read | {name for name in (extra, history) if name}, reader.of
    )


def _history(turns_before: object) -> Messages:
    """Alpaca's turns before: a list of question and answer."""
    if not isinstance(turns_before, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(said, str) for said in pair)
        for pair in turns_before
    ):
        raise RowDroppedError(dialogues.NOT_MESSAGES, '"history" is not a list of questions and answers')
    return [
        message(role, said) for pair in turns_before for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
