"""What template and tokenizer change of the text that they are given, told by row."""

from collections.abc import Sequence
from typing import Any

from rlhf.errors import DataError
from rlhf.modeling.chat import Layout, chat_of
from rlhf.modeling.conversations import EncodedRow

TRIMMED = "the chat template trims the ends of a message"
CUT = "the chat template leaves out a part of a message"
UNKNOWN = "a message holds text that the tokenizer has no token for"
OTHER_TEXT = "the tokens of a message read as another text (letters, blanks or characters are lost)"
MARKER = "a message holds text that marks a turn in the chat template"
NO_EOS = "the chat template ends no answer with EOS; it was added"
_REWRITINGS = {"trimmed": TRIMMED, "cut": CUT}
# Dialogues in which a template writes all that it writes before a turn.
_DIALOGUES = (("user",), ("user", "assistant", "user"), ("system", "user", "assistant", "user"))


class Losses:
    """Notices what is lost or changed between a row's text and its ids.

    Attributes:
        markers: plain text by which the template marks turns; empty where special tokens mark them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokens = chat_of(tokenizer).tokens
        self._tokenizer = tokenizer
        self.markers = turn_markers(tokenizer)

    def of(self, rows: Sequence[EncodedRow]) -> list[tuple[str, ...]]:
        """The changes of each row, in words."""
        ids = {text: ids for row in rows for text, ids in zip(row.contents, row.content_ids, strict=True)}
        decoded = self._tokens.decode(list(ids.values()), skip_special_tokens=False)
        by_text = {
            text: found
            for (text, row), back in zip(ids.items(), decoded, strict=True)
            if (found := self._of_text(text, row, back))
        }
        return [self._of_row(row, by_text) for row in rows]

    def _of_text(self, text: str, ids: Sequence[int], back: str) -> tuple[str, ...]:
        found = [UNKNOWN] if self._tokens.unknown_id is not None and self._tokens.unknown_id in ids else []
        if back != text and not found:
            found.append(OTHER_TEXT)
        if any(marker in text for marker in self.markers):
            found.append(MARKER)
        return tuple(found)

    def _of_row(self, row: EncodedRow, by_text: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
        if not by_text and not row.rewritings and not row.adds_eos:
            return ()
        found = [_REWRITINGS[name] for name in sorted(row.rewritings) if name in _REWRITINGS]
        found += [change for text in row.contents for change in by_text.get(text, ())]
        return tuple(dict.fromkeys([*found, *([NO_EOS] if row.adds_eos else [])]))


def turn_markers(tokenizer: Any) -> tuple[str, ...]:
    """The plain text by which the template marks turns, so that a message which holds it looks like two."""
    markers = set()
    for roles in _DIALOGUES:
        for asks in (False, True):
            markers |= set(_markers(tokenizer, roles, asks))
    return tuple(sorted(markers))


def _layout(tokenizer: Any, roles: Sequence[str], asks: bool) -> Layout:
    try:
        return chat_of(tokenizer).layout(roles, asks)
    except DataError:  # a role or an order that the template does not know is not in the data either
        return Layout(("",), ())


def _markers(tokenizer: Any, roles: Sequence[str], asks: bool) -> list[str]:
    found = []
    head, *pieces = _layout(tokenizer, roles, asks).pieces
    # A user's turn comes again further on; what begins a dialogue may be more than the mark of its first turn.
    first = [head.rstrip().rpartition("\n")[2]] if roles[0] == "system" else []
    for piece in [*first, *(pieces if asks else pieces[:-1])]:
        # They mark where a text starts or ends, and not whose turn it is.
        for token in (tokenizer.bos_token, tokenizer.eos_token):
            piece = piece.replace(token, "") if token else piece
        tokens = chat_of(tokenizer).tokens
        marked = not tokens.special_ids.isdisjoint(tokens.piece(piece, continues=True, leads=False))
        if not marked and piece.strip():
            found.append(piece.rstrip())
    return found
