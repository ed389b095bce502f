"""Conversations to token ids and back, by the tokenizer's chat template.

Prompt and completion are tokenized apart and joined: what a policy is trained on starts with exactly the ids that it
is later asked to continue. Contents are tokenized apart from the template's pieces, with special tokens off: a message
that spells `</s>` ends no response, and one that spells a turn makes none where special tokens mark turns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.errors import DataError
from rlhf.modeling.chat import Chat, Conversation, Layout, Message, Rewriting, Written, chat_of

__all__ = [
    "Conversation",
    "EncodedRow",
    "Message",
    "check_continues",
    "cut_to_fit",
    "decode_responses",
    "encode_answers",
    "encode_dialogues",
    "encode_pairs",
    "encode_prompts",
    "encode_rows",
    "end_at_eos",
]

Ids = Mapping[str, list[int]]


@dataclass(frozen=True)
class EncodedRow:
    """A prompt and answers to it.

    Attributes:
        prompt: its ids.
        answers: ids of each answer, each with its one EOS.
        contents: the texts of all messages as they were encoded.
        content_ids: the ids of each of them.
        rewritings: what the template did to a content: `trimmed`, `cut`, `rewritten`.
        adds_eos: the template ends no answer with EOS, so that one was added.
    """

    prompt: list[int]
    answers: tuple[list[int], ...]
    contents: tuple[str, ...]
    content_ids: tuple[list[int], ...]
    rewritings: frozenset[Rewriting]
    adds_eos: bool


def encode_prompts(tokenizer: Any, prompts: Sequence[Conversation]) -> list[list[int]]:
    """Token ids of prompts, up to where the assistant's answer starts.

    Raises:
        DataError: the chat template refuses a conversation, for instance for a role that it does not know.
    """
    return [row.prompt for row in encode_rows(tokenizer, prompts, [])]


def encode_pairs(
    tokenizer: Any, prompts: Sequence[Conversation], completions: Sequence[Conversation]
) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of their completions, each completion ending with its one EOS.

    Raises:
        DataError: the chat template refuses a conversation, or does not continue its own generation prompt.
    """
    return [(row.prompt, row.answers[0]) for row in encode_rows(tokenizer, prompts, [completions])]


def check_continues(tokenizer: Any) -> None:
    """Check that what the chat template writes with an answer starts with its generation prompt.

    Raises:
        DataError: it does not, or refuses a question and its answer.
    """
    chat = chat_of(tokenizer)
    _continuation(chat.layout(["user"], asks=True), chat.layout(["user", "assistant"], asks=False))


def encode_rows(
    tokenizer: Any, prompts: Sequence[Conversation], answers: Sequence[Sequence[Conversation]]
) -> list[EncodedRow]:
    """Prompts with one or more answers each.

    Args:
        tokenizer: with the chat template.
        prompts: N of them.
        answers: lists of N answers, of one message each.

    Raises:
        DataError: the chat template refuses a conversation, or does not continue its own generation prompt.
    """
    chat = chat_of(tokenizer)
    asked = chat.write(prompts, asks=True)
    whole = [chat.write([[*p, *a] for p, a in zip(prompts, column, strict=True)], asks=False) for column in answers]
    contents = [text for column in (asked, *whole) for written in column for text in written.contents]
    ids = chat.tokens.encode(contents)
    eos = tokenizer.eos_token_id
    return [_encode_row(chat, eos, ids, *row) for row in zip(asked, *whole, strict=True)]


def encode_answers(
    tokenizer: Any, prompts: Sequence[Conversation], texts: Sequence[str], ended: Sequence[bool]
) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of answers that a model wrote, as a model is trained on them.

    Args:
        tokenizer: with the chat template.
        prompts: N of them.
        texts: the answers, [N].
        ended: the answer ended by itself; one that was cut off has no EOS, nor what the template writes after it, [N].

    Raises:
        DataError: the chat template refuses a conversation, or does not continue its own generation prompt.
    """
    chat = chat_of(tokenizer)
    rows = encode_rows(tokenizer, prompts, [[_answer(text) for text in texts]])
    return [
        (row.prompt, row.answers[0] if end else _unended(chat, tokenizer.eos_token_id, prompt, row))
        for prompt, row, end in zip(prompts, rows, ended, strict=True)
    ]


def encode_dialogues(
    tokenizer: Any, prompts: Sequence[Conversation], texts: Sequence[str], ended: Sequence[bool]
) -> list[list[int]]:
    """Token ids of whole dialogues for a reward model from elsewhere, whose template may know of no generation prompt.

    Where it knows, they are those of `encode_answers`. For the arguments see there.

    Raises:
        DataError: the chat template refuses a conversation.
    """
    chat = chat_of(tokenizer)
    dialogues = [[*prompt, *_answer(text)] for prompt, text in zip(prompts, texts, strict=True)]
    if _continues(chat, dialogues):
        return [[*prompt, *answer] for prompt, answer in encode_answers(tokenizer, prompts, texts, ended)]
    whole = chat.write(dialogues, asks=False)
    ids = chat.tokens.encode([text for written in whole for text in written.contents])
    encoded = []
    for written, end in zip(whole, ended, strict=True):
        if not written.contents:
            raise DataError("the chat template writes no contents of messages; give the tokenizer another template")
        start = _join(chat, written.layout.pieces[:-1], written.contents[:-1], ids, leads=True)
        answer = ids[written.contents[-1]]
        encoded.append([*start, *answer, *(_end(chat, tokenizer.eos_token_id, written.layout) if end else [])])
    return encoded


def decode_responses(tokenizer: Any, responses: Sequence[Sequence[int]]) -> list[str]:
    """Texts of responses as they were sampled, without EOS and other special tokens.

    What the template itself writes around an answer is no part of the answer and is left out, where a response has it.
    """
    texts = chat_of(tokenizer).tokens.decode(responses, skip_special_tokens=True)
    before, after = _around_answers(tokenizer)
    return [
        text.removeprefix(before).removesuffix(after if tokenizer.eos_token_id in ids else "")
        for text, ids in zip(texts, responses, strict=True)
    ]


def cut_to_fit(tokenizer: Any, prompt: Conversation, max_tokens: int) -> tuple[list[Message], int]:
    """Drop the oldest turns of a dialogue until it fits; a system message in front is kept.

    Returns:
        The messages that are left, a user's first, and the number of those dropped.

    Raises:
        DataError: the last turn alone does not fit.
    """
    system = [message for message in prompt[:1] if message["role"] == "system"]
    turns = list(prompt[len(system) :])
    starts = [i for i, message in enumerate(turns) if message["role"] == "user"] or [len(turns) - 1]
    for start in dict.fromkeys([0, *starts]):
        kept = [*system, *turns[start:]]
        length = len(encode_prompts(tokenizer, [kept])[0])
        if length <= max_tokens:
            return kept, start
    raise DataError(
        f"the last turn alone has {length} tokens, and {max_tokens} are allowed; shorten it, or raise model.max_length"
    )


def end_at_eos(ids: Sequence[int], eos_token_id: int) -> list[int]:
    """The ids up to their first EOS, which is added where there is none."""
    ids = list(ids)
    return ids[: ids.index(eos_token_id) + 1] if eos_token_id in ids else [*ids, eos_token_id]


def _encode_row(chat: Chat, eos_token_id: int, ids: Ids, asked: Written, *whole: Written) -> EncodedRow:
    prompt = _join(chat, asked.layout.pieces, asked.contents, ids, leads=True)
    contents = (*asked.contents, *(written.contents[-1] for written in whole))
    answers = []
    for written in whole:
        before = chat.tokens.piece(_continuation(asked.layout, written.layout), continues=True, leads=True)
        end = _end(chat, eos_token_id, written.layout)
        answers.append([*before, *ids[written.contents[-1]], *end])
    return EncodedRow(
        prompt,
        tuple(answers),
        contents,
        tuple(ids[text] for text in contents),
        frozenset(written.rewriting for written in (asked, *whole) if written.rewriting),
        any(eos_token_id not in _tail(chat, written.layout) for written in whole),
    )


def _join(chat: Chat, pieces: Sequence[str], contents: Sequence[str], ids: Ids, leads: bool) -> list[int]:
    """Ids of pieces with contents between them; `leads`: another text follows."""
    joined = [*chat.tokens.piece(pieces[0], continues=False, leads=bool(contents) or leads)]
    for index, (content, piece) in enumerate(zip(contents, pieces[1:], strict=True)):
        joined += ids[content]
        joined += chat.tokens.piece(piece, continues=True, leads=leads or index < len(contents) - 1)
    return joined


def _tail(chat: Chat, layout: Layout) -> tuple[int, ...]:
    return chat.tokens.piece(layout.pieces[-1], continues=True, leads=False)


def _end(chat: Chat, eos_token_id: int, layout: Layout) -> list[int]:
    """Ids that end an answer: the template's text after it, up to EOS."""
    return end_at_eos(_tail(chat, layout), eos_token_id)


def _unended(chat: Chat, eos_token_id: int, prompt: Conversation, row: EncodedRow) -> list[int]:
    """The answer without its end."""
    layout = chat.layout([*(message["role"] for message in prompt), "assistant"], asks=False)
    num_end = len(row.answers[0]) - len(_end(chat, eos_token_id, layout))
    return row.answers[0][:num_end]


def _continuation(asked: Layout, whole: Layout) -> str:
    """Text of the template between its generation prompt and the answer.

    Raises:
        DataError: what it writes with an answer does not start with the generation prompt.
    """
    *before, last = asked.pieces
    num = len(before)
    answer = whole.slots[-1:]
    same = whole.slots[:-1] == asked.slots and answer and answer[0] not in asked.slots
    if same and list(whole.pieces[:num]) == before and whole.pieces[num].startswith(last):
        return whole.pieces[num].removeprefix(last)
    asks, answered = "...".join(asked.pieces), "...".join(whole.pieces[: num + 1])
    raise DataError(
        f"the chat template writes a prompt in another way once an answer follows, so a model would have to go "
        f"on from what it was never trained on; edit the template (in a copy of the model's folder) so that what it "
        f"writes with an answer starts with its generation prompt, or choose another of its templates with "
        f"model.chat_template; it asks: {asks[-80:]!r}, with an answer: {answered[-80:]!r}"
    )


def _continues(chat: Chat, dialogues: Iterable[Conversation]) -> bool:
    """Whether what the template writes with an answer starts with its generation prompt."""
    for roles in {tuple(message["role"] for message in dialogue) for dialogue in dialogues}:
        try:
            _continuation(chat.layout(roles[:-1], asks=True), chat.layout(roles, asks=False))
        except DataError:
            return False
    return True


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _around_answers(tokenizer: Any) -> tuple[str, str]:
    """Text of the template right before and after an answer, apart from special tokens and not with the prompt."""
    chat = chat_of(tokenizer)
    try:
        whole = chat.layout(["user", "assistant"], asks=False)
        before = _continuation(chat.layout(["user"], asks=True), whole)
    except DataError:  # a template that needs more than these two; whatever it writes is then left in the text
        return "", ""
    if chat.tokens.leads_with_space:
        before = before.removesuffix(" ")
    after = whole.pieces[-1].partition(tokenizer.eos_token)[0]
    for token in tokenizer.all_special_tokens:
        before, after = before.replace(token, ""), after.replace(token, "")
    return before, after
