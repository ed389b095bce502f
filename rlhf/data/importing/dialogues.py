"""The pieces of other conventions: Anthropic's dialogue text, ShareGPT's turns, parts of text, plain strings.

Text is kept as it is given. Nothing is stripped but the one space that a dialogue's turn marker ends with.
"""

import re
from typing import Any

from rlhf.data.schema import type_of

Messages = list[dict[str, str]]

_START = re.compile(r"\s*(Human|Assistant):")
_TURN = re.compile(r"(?:\r?\n){2}(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question", "customer", "instruction"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai", "answer", "bing", "bard"), "assistant"
    ),
    **dict.fromkeys(("system", "developer"), "system"),
}
_ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text")
_TEXT_PARTS = ("text", "input_text", "output_text")


class RowDroppedError(Exception):
    """A row that cannot be used.

    Attributes:
        reason: by which such rows are counted.
        detail: what was there in place of what was expected; shown beside the reason.
        is_fault: False where the row was understood and has nothing to teach, such as a label that says "not wanted".
    """

    def __init__(self, reason: str, detail: str = "", *, is_fault: bool = True) -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail, self.is_fault = reason, detail, is_fault


EMPTY_RESPONSE = "a response is empty"
SAME_RESPONSES = "chosen and rejected are the same text"
NO_ANSWER = "the dialogue does not end with one answer of the assistant"
NOT_TEXT = "something is not text"
NOT_MESSAGES = "something is neither text nor messages"
NO_MESSAGE = "a message lacks its role or its text"
UNREADABLE = "a verdict cannot be read"
NO_VERDICT = "there is no verdict"


def value_in(row: dict[str, Any], field: str) -> Any:
    """The value of a field.

    Raises:
        RowDroppedError: the field is missing.
    """
    if field not in row:
        raise RowDroppedError("a field is missing", f'no "{field}"')
    return row[field]


def text(row: dict[str, Any], field: str) -> str:
    """The text of a field.

    Raises:
        RowDroppedError: the field is missing, or something else.
    """
    value = value_in(row, field)
    if not isinstance(value, str):
        raise RowDroppedError(NOT_TEXT, f'"{field}" is {type_of(value)}')
    return value


def as_number(value: object) -> float | None:
    """A number, or a text that spells one; None for all else, and for what is not a number (NaN)."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return value if is_number else None  # type: ignore[return-value]


def number_of(value: object, field: str) -> float:
    """A value that must be a number.

    Raises:
        RowDroppedError: the value is something else.
    """
    if (number := as_number(value)) is None:
        raise RowDroppedError(UNREADABLE, f'"{field}" is {value!r}'[:80])
    return number


def starts_with_turn(value: str) -> bool:
    """Whether a text starts with a turn marker of Anthropic's dialogues."""
    return _START.match(value) is not None


def split_dialogue(dialogue: str, field: str) -> Messages:
    r"""The turns of `\n\nHuman: ... \n\nAssistant: ...`.

    Raises:
        RowDroppedError: the text does not start with a turn.
    """
    start = _START.match(dialogue)
    if start is None:
        raise RowDroppedError(
            'a text does not start with a turn such as "\\n\\nHuman: ..."', f'"{field}" starts with {dialogue[:20]!r}'
        )
    first, *rest = _TURN.split(dialogue[start.end() :])
    said = [(start[1], first), *zip(rest[::2], rest[1::2], strict=True)]
    return [message(_HH_ROLES[who], words.removeprefix(" ")) for who, words in said]


def split_answer(messages: Messages) -> tuple[Messages, Messages]:
    """A dialogue's context and its last turn, which must be the assistant's.

    Raises:
        RowDroppedError: it is not.
    """
    if not messages or messages[-1]["role"] != "assistant":
        raise RowDroppedError(NO_ANSWER, f"the last turn is the {messages[-1]['role']}'s" if messages else "no turn")
    return messages[:-1], messages[-1:]


def common_prompt(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Prompt and the two answers of two whole dialogues that must share their context.

    Raises:
        RowDroppedError: they do not, or one does not end with an answer.
    """
    context, better = split_answer(chosen)
    other_context, worse = split_answer(rejected)
    if context != other_context:
        raise RowDroppedError("the contexts of chosen and rejected differ")
    return context, better, worse


def message(role: str, content: str) -> dict[str, str]:
    """A message."""
    return {"role": role, "content": content}


def is_message(value: object) -> bool:
    """Whether a value has the keys of a message in one of the conventions."""
    return isinstance(value, dict) and any(k in value for k in _ROLE_KEYS) and any(k in value for k in _TEXT_KEYS)


def are_texts(value: object) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def are_messages(value: object) -> bool:
    """Whether a value is a message or a list of messages that is not empty."""
    return all(map(is_message, value if isinstance(value, list) and value else [value]))


def turns(value: object, field: str) -> Messages:
    """Messages of a list in TRL's or in ShareGPT's convention.

    Raises:
        RowDroppedError: there is something else, a role that is not known, or a part that is not text.
    """
    if not isinstance(value, list):
        raise RowDroppedError(NOT_MESSAGES, f'"{field}" is {type_of(value)}')
    return [_turn(item, field) for item in value]


def prompt_of(value: object, field: str, *, is_dialogue: bool = False) -> Messages:
    """A prompt given as text, as dialogue text, as messages or as a request to a chat interface.

    Args:
        value: what stands in the field.
        field: its name.
        is_dialogue: texts of this field are dialogues with turn markers.
    """
    if isinstance(value, dict) and "messages" in value:
        if value.get("tools"):
            raise RowDroppedError("the prompt offers tools", f'in "{field}"')
        return turns(value["messages"], field)
    messages = _messages_of(value, field, "user", is_dialogue)
    opens_answer = messages and messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip()
    return messages[:-1] if opens_answer and is_dialogue and isinstance(value, str) else messages


def answer_of(value: object, field: str, *, is_dialogue: bool = False) -> Messages:
    """A response given as text, as a whole dialogue in one text, as one message or as messages."""
    return _messages_of(value, field, "assistant", is_dialogue)


def _messages_of(value: object, field: str, role: str, is_dialogue: bool) -> Messages:
    if isinstance(value, str):
        return split_dialogue(value, field) if is_dialogue else [message(role, value)]
    return [_turn(value, field)] if isinstance(value, dict) else turns(value, field)


def _turn(item: object, field: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise RowDroppedError(NOT_MESSAGES, f'"{field}" holds {type_of(item)}')
    role = next((item[key] for key in _ROLE_KEYS if item.get(key) is not None), None)
    content = next((item[key] for key in _TEXT_KEYS if item.get(key) is not None), None)
    if not isinstance(role, str):
        raise RowDroppedError(NO_MESSAGE, f'in "{field}" the role is {type_of(role)}')
    known = _ROLES.get(role) or _ROLES.get(role.strip().casefold())
    if known is None:
        raise RowDroppedError("a turn has a role that is not known", f'"{role[:40]}"')
    return message(known, content if isinstance(content, str) else _joined_parts(content, field))


def _joined_parts(content: object, field: str) -> str:
    """The text of a message that is given in parts, as chat interfaces do."""
    if not isinstance(content, list):
        raise RowDroppedError(NO_MESSAGE, f'in "{field}" the text is {type_of(content)}')
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else type_of(part)
        said = part.get("text") if isinstance(part, dict) and kind in _TEXT_PARTS else part
        if not isinstance(said, str):
            raise RowDroppedError(
                "a message has a part that is not text", f'in "{field}" a part of kind {str(kind)[:40]}'
            )
        texts.append(said)
    return "".join(texts)
