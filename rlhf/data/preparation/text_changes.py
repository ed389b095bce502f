"""Changes that chat template and tokenizer make to the text of a row."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.errors import DataError
from rlhf.modeling.chat import chat_of
from rlhf.modeling.conversations import EncodedRow

TRIMMED = "the chat template trims the ends of a message"
CUT = "the chat template leaves out a part of a message"
UNKNOWN = "a message holds text that the tokenizer has no token for"
OTHER_TEXT = "the tokens of a message read as another text (letters, blanks or characters are lost)"
MARKER = "a message holds text that marks a turn in the chat template"
NO_EOS = "the chat template ends no answer with EOS; it was added"
_REWRITINGS = {"trimmed": TRIMMED, "cut": CUT}
# Dialogues in which a template writes every mark that it puts before a turn.
_DIALOGUES = (("user",), ("user", "assistant", "user"), ("system", "user", "assistant", "user"))


def text_changes(tokenizer: Any, markers: Sequence[str], rows: Sequence[EncodedRow]) -> list[tuple[str, ...]]:
    """The losses and changes between each row's text and its token ids, in words.

    Args:
        tokenizer: with the chat template.
        markers: the plain text by which the template marks turns (`turn_markers`).
        rows: as encoded.
    """
    tokens = chat_of(tokenizer).tokens
    ids_of = {text: ids for row in rows for text, ids in zip(row.contents, row.content_ids, strict=True)}
    decoded = tokens.decode(list(ids_of.values()), skip_special_tokens=False)
    by_text: dict[str, list[str]] = {}
    for (text, ids), back in zip(ids_of.items(), decoded, strict=True):
        is_unknown = tokens.unknown_id is not None and tokens.unknown_id in ids
        changes = [UNKNOWN] if is_unknown else [OTHER_TEXT] if back != text else []
        changes += [MARKER] if any(marker in text for marker in markers) else []
        if changes:
            by_text[text] = changes
    return [_changes_of_row(row, by_text) for row in rows]


def _changes_of_row(row: EncodedRow, by_text: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if not by_text and not row.rewritings and not row.adds_eos:
        return ()
    changes = [_REWRITINGS[name] for name in sorted(row.rewritings) if name in _REWRITINGS]
    changes += [change for text in row.contents for change in by_text.get(text, ())]
    return tuple(dict.fromkeys([*changes, *([NO_EOS] if row.adds_eos else [])]))


def turn_markers(tokenizer: Any) -> tuple[str, ...]:
    """The plain text by which the template marks turns, so that a message which holds it looks like two."""
    return tuple(
        sorted(
            {marker for roles in _DIALOGUES for asks in (False, True) for marker in _markers(tokenizer, roles, asks)}
        )
    )


def _markers(tokenizer: Any, roles: Sequence[str], asks: bool) -> list[str]:
    try:
        head, *pieces = chat_of(tokenizer).layout(roles, asks).pieces
    except DataError:  # a role or an order that the template does not know is not in the data either
        return []
    markers = []
    # A user's turn comes again further on; what begins a dialogue may be more than the mark of its first turn.
    first = [head.rstrip().rpartition("\n")[2]] if roles[0] == "system" else []
    for piece in [*first, *(pieces if asks else pieces[:-1])]:
        # BOS and EOS mark where a text starts or ends, and not whose turn it is.
        for token in (tokenizer.bos_token, tokenizer.eos_token):
            piece = piece.replace(token, "") if token else piece
        tokens = chat_of(tokenizer).tokens
        marked = not tokens.special_ids.isdisjoint(tokens.piece(piece, continues=True, leads=False))
        if not marked and piece.strip():
            markers.append(piece.rstrip())
    return markers
