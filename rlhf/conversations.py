"""Conversations to token ids and back, by the tokenizer's chat template.

Prompt and completion are tokenized apart and joined: what a policy is trained on starts with exactly the ids that it
is later asked to continue.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from rlhf.errors import DataError

Message = Mapping[str, str]
Conversation = Sequence[Message]


def encode_prompts(tokenizer: Any, prompts: Sequence[Conversation]) -> list[list[int]]:
    """Token ids of prompts, up to where the assistant's answer starts.

    Raises:
        DataError: the chat template refuses a conversation, for instance for a role that it does not know.
    """
    return _encode(tokenizer, _render(tokenizer, prompts, add_generation_prompt=True))


def encode_pairs(
    tokenizer: Any, prompts: Sequence[Conversation], completions: Sequence[Conversation]
) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of their completions, each completion ending with its one EOS.

    Raises:
        DataError: the chat template refuses a conversation, or does not continue its own generation prompt.
    """
    starts = _render(tokenizer, prompts, add_generation_prompt=True)
    wholes = _render(
        tokenizer, [[*p, *c] for p, c in zip(prompts, completions, strict=True)], add_generation_prompt=False
    )
    ends = [_continuation(start, whole) for start, whole in zip(starts, wholes, strict=True)]
    prompt_ids, completion_ids = _encode(tokenizer, starts), _encode(tokenizer, ends)
    return [(p, end_at_eos(c, tokenizer.eos_token_id)) for p, c in zip(prompt_ids, completion_ids, strict=True)]


def encode_dialogues(tokenizer: Any, dialogues: Sequence[Conversation]) -> list[list[int]]:
    """Token ids of whole dialogues, as their text is tokenized in one piece.

    Raises:
        DataError: the chat template refuses a conversation.
    """
    return _encode(tokenizer, _render(tokenizer, dialogues, add_generation_prompt=False))


def decode_responses(tokenizer: Any, responses: Sequence[Sequence[int]]) -> list[str]:
    """Text of responses, without EOS and other special tokens."""
    if not responses:
        return []
    texts: list[str] = tokenizer.batch_decode([list(ids) for ids in responses], skip_special_tokens=True)
    return [text.strip() for text in texts]


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


def _render(tokenizer: Any, conversations: Sequence[Conversation], add_generation_prompt: bool) -> list[str]:
    if not conversations:
        return []
    try:
        texts: list[str] = tokenizer.apply_chat_template(
            [list(c) for c in conversations], tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise DataError(
            f"the tokenizer's chat template refuses a conversation: {error}; mend the data or the template"
        ) from error
    return texts


def _continuation(start: str, whole: str) -> str:
    if not whole.startswith(start):
        raise DataError(
            "the chat template renders a prompt differently once an answer follows, so the answer's tokens "
            "cannot be told; "
            f"prompt: {start[-80:]!r}, with answer: {whole[: len(start)][-80:]!r}"
        )
    return whole[len(start) :]


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    # Not verbose: that a dialogue is longer than the model's context is for the data stage to say.
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
