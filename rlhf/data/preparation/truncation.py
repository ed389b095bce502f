"""Rows in token ids: what encoding changes is noticed, and prompts lose their oldest turns until a row fits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.preparation.text_changes import text_changes, turn_markers
from rlhf.data.schema import TEXT_FIELDS, Row
from rlhf.errors import DataError, one_line
from rlhf.modeling.chat import chat_of
from rlhf.modeling.conversations import EncodedRow, cut_to_fit, encode_prompts, encode_rows

# Rows whose token ids are in memory at once.
_BATCH = 4096


@dataclass(frozen=True)
class Context:
    """The room that a row must fit into.

    Attributes:
        tokenizer: with the chat template.
        max_length: tokens of prompt and response together.
        max_response_tokens: what a prompt without a response must leave room for.
    """

    tokenizer: Any
    max_length: int
    max_response_tokens: int


@dataclass(frozen=True)
class NumberedRow:
    """A row, the line that it stands in, and the key of its prompt."""

    line: int
    row: Row
    key: str


@dataclass(frozen=True)
class Fitted:
    """A row that fits.

    Attributes:
        row: its prompt perhaps cut.
        num_dropped_messages: how many messages the prompt lost.
        prompt_tokens: length of the prompt.
        response_tokens: length of the longest response; 0 where there is none.
        changes: what template and tokenizer changed of it, in words.
    """

    row: Row
    num_dropped_messages: int
    prompt_tokens: int
    response_tokens: int
    changes: tuple[str, ...] = ()


def fit_rows(kind: str, rows: Sequence[NumberedRow], context: Context) -> list[Fitted | str | DataError]:
    """Encode rows, and cut the prompts that are too long.

    Returns:
        For every row the row that fits, the reason why it is of no use in token ids, or the error that tells why it
        cannot fit.

    Raises:
        DataError: the chat template refuses a row.
    """
    markers = turn_markers(context.tokenizer)
    fitted: list[Fitted | str | DataError] = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        encoded = _encode(kind, part, context.tokenizer)
        changes = text_changes(context.tokenizer, markers, encoded)
        fitted += [
            _reason(row) or _fit_one(kind, numbered, context, row, change)
            for numbered, row, change in zip(part, encoded, changes, strict=True)
        ]
    return fitted


def check_roles(tokenizer: Any, rows: Iterable[tuple[str, NumberedRow]]) -> None:
    """Check that the chat template renders the messages of every role that the rows have.

    Args:
        tokenizer: with the chat template.
        rows: kind and row.

    Raises:
        DataError: the template refuses a role or passes over it. The message names the first row that has it.
    """
    seen: set[str] = set()
    for kind, numbered in rows:
        messages = [message for field in _fields(kind)[:2] for message in numbered.row[field]]
        new = {message["role"] for message in messages} - seen
        seen |= new
        for role in sorted(new):
            _check_role(tokenizer, f"{kind}.jsonl:{numbered.line}", messages, role)


def _fields(kind: str) -> tuple[str, ...]:
    """The fields with messages; of an evaluation set, which is called `evaluation/NAME`, the prompt."""
    return TEXT_FIELDS.get(kind, TEXT_FIELDS["prompts"])


def _check_role(tokenizer: Any, where: str, messages: Sequence[Mapping[str, str]], role: str) -> None:
    advice = "rename the role, remove such messages, or give the tokenizer a template that knows it"
    try:
        layout = chat_of(tokenizer).layout([message["role"] for message in messages], asks=False)
    except DataError as error:
        why = one_line(error.__cause__ or error)
        raise DataError(f"{where}: the tokenizer's chat template refuses the dialogue ({why}); {advice}") from None
    if any(message["role"] == role and index not in layout.slots for index, message in enumerate(messages)):
        raise DataError(f'{where}: the tokenizer\'s chat template does not know the role "{role}"; {advice}')


def _encode(kind: str, rows: Sequence[NumberedRow], tokenizer: Any) -> list[EncodedRow]:
    """Encode all rows at once; where that is refused, find the row that is to blame."""
    answers = _fields(kind)[1:]
    try:
        return encode_rows(
            tokenizer, [n.row["prompt"] for n in rows], [[n.row[field] for n in rows] for field in answers]
        )
    except DataError as error:
        if len(rows) == 1:
            raise DataError(f"{kind}.jsonl:{rows[0].line}: {error}") from None
        for numbered in rows:
            _encode(kind, [numbered], tokenizer)
        raise


def _reason(row: EncodedRow) -> str | None:
    """Why a row is of no use; None where it is of use."""
    if "rewritten" in row.rewritings:
        return "the chat template rewrites a message, so that the text which a model reads is not the one given"
    num_prompt = len(row.content_ids) - len(row.answers)
    if not any(row.content_ids[:num_prompt]):
        return "nothing is left of the prompt in tokens"
    if not all(row.content_ids[num_prompt:]):
        return "nothing is left of a response in tokens"
    if len(row.answers) > 1 and row.answers[0] == row.answers[1]:
        return "chosen and rejected are the same tokens"
    return None


def _fit_one(
    kind: str, numbered: NumberedRow, context: Context, encoded: EncodedRow, changes: tuple[str, ...]
) -> Fitted | DataError:
    prompt_tokens, response_tokens = len(encoded.prompt), max(map(len, encoded.answers), default=0)
    room = context.max_length - (response_tokens or context.max_response_tokens)
    if prompt_tokens <= room:
        return Fitted(numbered.row, 0, prompt_tokens, response_tokens, changes)
    where = f"{kind}.jsonl:{numbered.line}"
    if room <= 0:
        return DataError(
            f"{where}: the response has {response_tokens} tokens, and model.max_length is {context.max_length}; "
            "shorten it, or raise model.max_length"
        )
    try:
        prompt, dropped = cut_to_fit(context.tokenizer, numbered.row["prompt"], room)
    except DataError as error:
        return DataError(f"{where}: {error}")
    (ids,) = encode_prompts(context.tokenizer, [prompt])
    return Fitted({**numbered.row, "prompt": prompt}, dropped, len(ids), response_tokens, changes)
