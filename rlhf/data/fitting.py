"""Cutting: prompts lose their oldest turns until prompt and response fit the model's context."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jinja2 import TemplateError

from rlhf.conversations import cut_to_fit, encode_pairs, encode_prompts
from rlhf.data.schema import REQUIRED_FIELDS, Row
from rlhf.errors import DataError

Encoded = TypeVar("Encoded")


@dataclass(frozen=True)
class Context:
    """What a row must fit into.

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
    """

    row: Row
    num_dropped_messages: int
    prompt_tokens: int
    response_tokens: int


def fit(kind: str, rows: Sequence[NumberedRow], context: Context) -> list[Fitted | DataError]:
    """Cut the prompts that are too long.

    Returns:
        For every row the row that fits, or the error that tells why it cannot.

    Raises:
        DataError: the chat template refuses a row.
    """
    prompts, responses = _count_tokens(kind, rows, context.tokenizer)
    return [
        _fit_one(kind, numbered, context, prompt, response)
        for numbered, prompt, response in zip(rows, prompts, responses, strict=True)
    ]


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
        messages = [message for field in REQUIRED_FIELDS[kind][:2] for message in numbered.row[field]]
        new = {message["role"] for message in messages} - seen
        seen |= new
        for role in sorted(new):
            _check_role(tokenizer, f"{kind}.jsonl:{numbered.line}", messages, role)


def _check_role(tokenizer: Any, where: str, messages: Sequence[Mapping[str, str]], role: str) -> None:
    marked = [{"role": message["role"], "content": f"marker{index}x"} for index, message in enumerate(messages)]
    advice = "rename the role, remove such messages, or give the tokenizer a template that knows it"
    try:
        text: str = tokenizer.apply_chat_template(marked, tokenize=False)
    except TemplateError as error:
        raise DataError(f"{where}: the tokenizer's chat template refuses the dialogue ({error}); {advice}") from None
    if any(message["role"] == role and message["content"] not in text for message in marked):
        raise DataError(f'{where}: the tokenizer\'s chat template does not know the role "{role}"; {advice}')


def _count_tokens(kind: str, rows: Sequence[NumberedRow], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Lengths of the prompts, and of the longest response to each."""
    prompts, responses = [0] * len(rows), [0] * len(rows)
    if kind == "prompts":
        encoded = _naming_rows(kind, rows, lambda part: encode_prompts(tokenizer, [n.row["prompt"] for n in part]))
        return [len(ids) for ids in encoded], responses
    for field in REQUIRED_FIELDS[kind][1:]:
        pairs = _naming_rows(kind, rows, _pair_encoder(tokenizer, field))
        prompts = [len(prompt) for prompt, _ in pairs]
        responses = [max(longest, len(ids)) for longest, (_, ids) in zip(responses, pairs, strict=True)]
    return prompts, responses


def _pair_encoder(tokenizer: Any, field: str) -> Callable[[Sequence[NumberedRow]], list[tuple[list[int], list[int]]]]:
    return lambda part: encode_pairs(tokenizer, [n.row["prompt"] for n in part], [n.row[field] for n in part])


def _naming_rows(
    kind: str, rows: Sequence[NumberedRow], encode: Callable[[Sequence[NumberedRow]], list[Encoded]]
) -> list[Encoded]:
    """Encode all rows at once; where that is refused, find the row that is to blame."""
    try:
        return encode(rows)
    except DataError:
        for numbered in rows:
            try:
                encode([numbered])
            except DataError as error:
                raise DataError(f"{kind}.jsonl:{numbered.line}: {error}") from None
        raise


def _fit_one(
    kind: str, numbered: NumberedRow, context: Context, prompt_tokens: int, response_tokens: int
) -> Fitted | DataError:
    room = context.max_length - (response_tokens or context.max_response_tokens)
    if prompt_tokens <= room:
        return Fitted(numbered.row, 0, prompt_tokens, response_tokens)
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
    return Fitted({**numbered.row, "prompt": prompt}, dropped, len(ids), response_tokens)
