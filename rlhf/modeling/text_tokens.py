"""Token ids of text that people and models wrote, and of the pieces that a chat template writes around it.

What a message spells is text, whatever it spells: its ids are those that the tokenizer gives the bare text with special
tokens off. Only a template's own pieces become special tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

# A character of the private use area: no vocabulary joins it with what follows. Where it is unknown and what follows as
# well, some tokenizers make one unknown token of both; then a letter stands before it.
_ANCHORS = ("\ue000", "a")
_SPACES = ("▁", "Ġ", " ")


class TextTokens:
    """One tokenizer's ids of texts, of pieces of templates, and back.

    Attributes:
        special_ids: ids that no text may have; an unknown token is not one of them.
        leads_with_space: the tokenizer puts a space before each text, as SentencePiece does.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = _backend_for_texts(tokenizer)
        special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(tokenizer.all_special_ids)
        unknown, end = tokenizer.unk_token_id, tokenizer.eos_token_id
        self.unknown_id: int | None = None if unknown == end else unknown
        self.special_ids = frozenset(special - {self.unknown_id})
        self.leads_with_space = self._leads_with_space()
        self._keeps_space = self._keeps_leading_space()
        self._pieces: dict[tuple[str, bool, bool], tuple[int, ...]] = {}

    def encode(self, texts: Sequence[str]) -> Mapping[str, list[int]]:
        """Ids of each different text, with special tokens off.

        Some tokenizers make a special token of text even so, where it is a word of their vocabulary: it is spelled out
        in smaller tokens then.
        """
        different = list(dict.fromkeys(texts))
        if not different:
            return {}
        if self._backend is not None:
            rows = [one.ids for one in self._backend.encode_batch_fast(different, add_special_tokens=False)]
        else:
            rows = self._call(different, split_special_tokens=True)["input_ids"]
        return {text: self._without_special(ids) for text, ids in zip(different, rows, strict=True)}

    def piece(self, text: str, continues: bool, leads: bool) -> tuple[int, ...]:
        """Ids of what a template writes, special tokens and all.

        Args:
            text: the piece.
            continues: text stands before it, so that it gets no space at its start.
            leads: a text comes next. A tokenizer that puts a space before each text has put the piece's last space
                there already.
        """
        key = (text, continues, leads)
        if key not in self._pieces:
            self._pieces[key] = tuple(self._encode_piece(*key))
        return self._pieces[key]

    def decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool) -> list[str]:
        """The texts that ids stand for, to the character: nothing is stripped or tidied."""
        if not rows:
            return []
        texts: list[str]
        if self._backend is not None:
            texts = self._backend.decode_batch([list(ids) for ids in rows], skip_special_tokens=skip_special_tokens)
        else:
            texts = self._tokenizer.batch_decode(
                [list(ids) for ids in rows],
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        return [text.removeprefix(" ") for text in texts] if self._keeps_space else texts

    def _encode_piece(self, text: str, continues: bool, leads: bool) -> list[int]:
        if leads and self.leads_with_space:
            text = text.removesuffix(" ")
        if not text:
            return []
        if continues and self.leads_with_space and self._backend is not None:
            for anchor in _ANCHORS:
                anchored = self._call(anchor + text, split_special_tokens=False, return_offsets_mapping=True)
                ids: list[int] = anchored["input_ids"]
                num_before = sum(end <= 1 for _, end in anchored["offset_mapping"])
                if num_before and all(start >= 1 for start, _ in anchored["offset_mapping"][num_before:]):
                    return ids[num_before:]
        return list(self._call(text, split_special_tokens=False)["input_ids"])

    def _call(self, texts: str | list[str], **how: bool) -> Any:
        # Not verbose: that a dialogue is longer than the model's context is for the data stage to say.
        return self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False, **how)

    def _without_special(self, ids: list[int]) -> list[int]:
        if self.special_ids.isdisjoint(ids):
            return ids
        return [part for index in ids for part in (self._spelled(index) if index in self.special_ids else [index])]

    def _spelled(self, index: int) -> list[int]:
        """A special token's text in other tokens; nothing where the vocabulary has none for it."""
        token: str = self._tokenizer.convert_ids_to_tokens(index)
        parts = [part for part in (token[:1], token[1:]) if part]
        if self._backend is None:
            ids = [index for row in self._call(parts, split_special_tokens=True)["input_ids"] for index in row]
        else:
            ids = [found.id for part in parts for found in self._backend.model.tokenize(part)]
        return [part for part in ids if part not in self.special_ids]

    def _leads_with_space(self) -> bool:
        if self._backend is None:
            return any(token.startswith(_SPACES) for token in self._tokenizer.tokenize("a")[:1])
        normalizer, pre_tokenizer = self._backend.normalizer, self._backend.pre_tokenizer
        text = normalizer.normalize_str("a") if normalizer else "a"
        words = pre_tokenizer.pre_tokenize_str(text) if pre_tokenizer else [(text, None)]
        return bool(words) and words[0][0].startswith(_SPACES)

    def _keeps_leading_space(self) -> bool:
        """Whether decoding leaves the space at the start that encoding has put there."""
        if not self.leads_with_space:
            return False
        text: str = self._tokenizer.decode(self.encode(["a"])["a"], clean_up_tokenization_spaces=False)
        return text.startswith(" ")


def _backend_for_texts(tokenizer: Any) -> Any:
    """A copy of a fast tokenizer's backend with special tokens off; None for a tokenizer that has none.

    transformers switches them off at the backend that all callers share, and leaves it so until its next call.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    copied = Tokenizer.from_str(backend.to_str())
    copied.no_padding()
    copied.no_truncation()
    copied.encode_special_tokens = True
    return copied
