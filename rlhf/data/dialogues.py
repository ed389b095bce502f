"""The pieces of other conventions: Anthropic's dialogue text, ShareGPT's turns, plain strings."""

import re
from typing import Any

Messages = list[dict[str, str]]

_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}


class RowDroppedError(Exception):
    """A row that cannot be used; its text is the reason, by which such rows are counted."""


class RowRefusedError(Exception):
    """A row that does not have the form of its file; its text says how."""


EMPTY_RESPONSE = "a response is empty"
EMPTY_PROMPT = "the prompt is empty"
SAME_RESPONSES = "chosen and rejected are the same text"
CONTEXTS_DIFFER = "the contexts of chosen and rejected differ"
NO_ANSWER = "the dialogue does not end with one answer of the assistant"
UNKNOWN_ROLE = "a turn is neither of the system nor of the user nor of the assistant"
NOT_TEXT = "a response is not text"
TIE = "the judge saw no difference"
UNWANTED = "the label says that the response is not wanted"


def text(row: dict[str, Any], field: str) -> str:
    """The text of a field."""
    if field not in row:
        raise RowRefusedError(f'the field "{field}" is missing')
    value = row[field]
    if not isinstance(value, str):
        raise RowRefusedError(f'"{field}" is not text')
    return value


def has_turns(dialogue: str) -> bool:
    """Whether a text has the turn markers of Anthropic's dialogues."""
    return _TURN.search(dialogue) is not None


def split_dialogue(dialogue: str, field: str) -> Messages:
    r"""The turns of `\n\nHuman: ... \n\nAssistant: ...`."""
    start, *parts = _TURN.split(dialogue)
    if start.strip() or not parts:
        raise RowRefusedError(f'"{field}" does not start with a turn such as "\\n\\nHuman: ..."')
    return [message(_HH_ROLES[who], said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]


def split_answer(messages: Messages) -> tuple[Messages, Messages]:
    """A dialogue's context and its last turn, which must be the assistant's."""
    if not messages or messages[-1]["role"] != "assistant":
        raise RowDroppedError(NO_ANSWER)
    return messages[:-1], messages[-1:]


def common_prompt(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Prompt and the two answers of two whole dialogues that must share their context."""
    context, better = split_answer(chosen)
    other_context, worse = split_answer(rejected)
    if context != other_context:
        raise RowDroppedError(CONTEXTS_DIFFER)
    return context, better, worse


def message(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


def turns(value: object, field: str) -> Messages:
    """Messages of a list in TRL's or in ShareGPT's convention."""
    if not isinstance(value, list):
        raise RowRefusedError(f'"{field}" is not a list of messages')
    return [_turn(item, field) for item in value]


def prompt_of(value: object, field: str) -> Messages:
    """A prompt given as text, as dialogue text or as messages."""
    if not isinstance(value, str):
        return turns(value, field)
    if not has_turns(value):
        return [message("user", value.strip())]
    messages = split_dialogue(value, field)
    return messages[:-1] if messages[-1] == message("assistant", "") else messages


def answer_of(value: object, field: str) -> Messages:
    """A response given as text, as one message or as messages."""
    if isinstance(value, str):
        return [message("assistant", value.strip())]
    return [_turn(value, field)] if isinstance(value, dict) else turns(value, field)


def _turn(item: object, field: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise RowRefusedError(f'"{field}" holds something that is not a message')
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise RowRefusedError(f'a message of "{field}" lacks the text of its role or content')
    if role not in _SHAREGPT_ROLES:
        raise RowDroppedError(UNKNOWN_ROLE)
    return message(_SHAREGPT_ROLES[role], content)
