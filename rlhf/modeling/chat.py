"""Dialogues as a tokenizer's chat template writes them: its own pieces, and the messages' contents between them.

The template is rendered once for each order of roles, with marks in place of the contents, and what stands between the
marks are its pieces. A rendering of the real contents then shows what the template does to them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary, proxy

from rlhf.errors import DataError, one_line
from rlhf.modeling.text_tokens import TextTokens

Message = Mapping[str, str]
Conversation = Sequence[Message]
Rewriting = Literal["trimmed", "cut", "rewritten"]

# Private use characters, which no template has reason to write.
_MARK = re.compile("\ue0f0([0-9]+)\ue0f1")
_CHATS: "WeakKeyDictionary[Any, tuple[object, Chat]]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Layout:
    """Text of a template for messages of certain roles, whatever they say.

    Attributes:
        pieces: the template's own text before, between and after the contents, [K + 1].
        slots: which message's content stands between two pieces, [K].
    """

    pieces: tuple[str, ...]
    slots: tuple[int, ...]

    def join(self, contents: Sequence[str]) -> str:
        """The text with contents in their places, [K]."""
        parts = [part for pair in zip(self.pieces, contents, strict=False) for part in pair]
        return "".join([*parts, self.pieces[-1]])


@dataclass(frozen=True)
class Written:
    """A dialogue as the template writes it.

    Attributes:
        layout: pieces and places.
        contents: what stands between the pieces, [K].
        rewriting: what the template did to a content: trimmed its ends, or left out more of it. None: nothing.
            `rewritten`: neither explains what it writes, and `contents` are as they were given.
    """

    layout: Layout
    contents: tuple[str, ...]
    rewriting: Rewriting | None


class Chat:
    """One tokenizer's template and tokens.

    Attributes:
        tokens: ids of texts and pieces.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.tokens = TextTokens(tokenizer)
        self._layouts: dict[tuple[tuple[str, ...], bool], Layout] = {}

    def layout(self, roles: Sequence[str], asks: bool) -> Layout:
        """The pieces for messages of these roles.

        Args:
            roles: of the messages in their order.
            asks: end with what an answer follows.

        Raises:
            DataError: the template refuses such a dialogue.
        """
        key = (tuple(roles), asks)
        if key not in self._layouts:
            marked = [{"role": role, "content": f"\ue0f0{index}\ue0f1"} for index, role in enumerate(roles)]
            parts = _MARK.split(self._render([marked], asks)[0])
            self._layouts[key] = Layout(tuple(parts[::2]), tuple(map(int, parts[1::2])))
        return self._layouts[key]

    def write(self, conversations: Sequence[Conversation], asks: bool) -> list[Written]:
        """Dialogues as the template writes them.

        Raises:
            DataError: the template refuses one.
        """
        texts = self._render(conversations, asks)
        return [self._explain(dialogue, text, asks) for dialogue, text in zip(conversations, texts, strict=True)]

    def _explain(self, conversation: Conversation, text: str, asks: bool) -> Written:
        layout = self.layout([message["role"] for message in conversation], asks)
        given = tuple(conversation[slot]["content"] for slot in layout.slots)
        if layout.join(given) == text:
            return Written(layout, given, None)
        if (contents := _trimmed(layout, given, text)) is not None:
            return Written(layout, contents, "trimmed")
        if (contents := _cut(layout, given, text)) is not None:
            return Written(layout, contents, "cut")
        return Written(layout, given, "rewritten")

    def _render(self, conversations: Sequence[Conversation], asks: bool) -> list[str]:
        if not conversations:
            return []
        try:
            texts: list[str] = self._tokenizer.apply_chat_template(
                [list(conversation) for conversation in conversations], tokenize=False, add_generation_prompt=asks
            )
        except Exception as error:  # a template is a program from elsewhere, and fails in any way
            raise DataError(
                f"the tokenizer's chat template refuses a conversation: {one_line(error)}; correct the data or template"
            ) from error
        return texts


def chat_of(tokenizer: Any) -> Chat:
    """The tokenizer's template and tokens; made anew where the tokenizer was changed meanwhile."""
    state = (tokenizer.chat_template, len(tokenizer), tokenizer.eos_token_id, tuple(tokenizer.all_special_ids))
    kept = _CHATS.get(tokenizer)
    if kept is None or kept[0] != state:
        # A proxy, since the cache would otherwise keep the tokenizer for ever.
        kept = _CHATS[tokenizer] = (state, Chat(proxy(tokenizer)))
    return kept[1]


def _trimmed(layout: Layout, given: Sequence[str], text: str) -> tuple[str, ...] | None:
    """The contents if the template trimmed some of their ends, and did nothing else."""
    first = layout.pieces[0]
    ways: list[tuple[int, tuple[str, ...]]] = [(len(first), ())] if text.startswith(first) else []
    while ways:
        at, contents = ways.pop()
        if len(contents) == len(given):
            if at == len(text):
                return contents
            continue
        content, following = given[len(contents)], layout.pieces[len(contents) + 1]
        for option in dict.fromkeys([content.lstrip(), content.rstrip(), content.strip(), content]):
            if text.startswith(option + following, at):
                ways.append((at + len(option) + len(following), (*contents, option)))
    return None


def _cut(layout: Layout, given: Sequence[str], text: str) -> tuple[str, ...] | None:
    """The contents if the template wrote a part of each, as it does that leaves earlier thoughts out."""
    *between, last = layout.pieces[1:] or ("",)
    if not text.startswith(layout.pieces[0]) or not text.endswith(last):
        return None
    at, contents = len(layout.pieces[0]), []
    for content, following in zip(given, [*between, None], strict=False):
        end = len(text) - len(last) if following is None else text.find(following, at) if following else -1
        if end < at or text[at:end] not in content:
            return None
        contents.append(text[at:end])
        at = end + len(following or "")
    return tuple(contents)
