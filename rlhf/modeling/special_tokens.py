"""Where a base and its tokenizer do not agree: on the tokens that begin, end and fill a text, and on their number."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from rlhf.config.model import ModelConfig
from rlhf.errors import ModelError
from rlhf.modeling.files import readable

_KINDS = {"bos": "BOS", "eos": "EOS", "pad": "pad"}


def num_ids(tokenizer: Any) -> int:
    """How many rows an embedding needs. Where ids are left out, that is more than there are tokens."""
    largest: int = max(tokenizer.get_vocab().values())
    return max(len(tokenizer), largest + 1)


def differences(model: ModelConfig, tokenizer: Any) -> list[str]:
    """Sentences on each setting of a run that differs from the base's own files.

    Args:
        model: names the base, or none.
        tokenizer: as the run uses it.

    Raises:
        ModelError: the base's config.json or generation_config.json cannot be used.
    """
    # The data stage needs a tokenizer, and no more; a run's start has refused a base without a config.
    if model.base is None or (Path(model.base).is_dir() and not (Path(model.base) / "config.json").exists()):
        return []
    with readable(f"{model.base}: its config.json or generation_config.json cannot be used"):
        config = AutoConfig.from_pretrained(model.base, revision=model.revision, trust_remote_code=False)
        text_config = config.get_text_config(decoder=True)
        said = {"config.json": _ids(text_config), "generation_config.json": _generation_ids(model)}
        num_rows = text_config.vocab_size
    sentences = [sentence for kind in _KINDS for sentence in _about_token(kind, said, tokenizer)]
    return [*sentences, *_about_embedding(num_rows, num_ids(tokenizer))]


def check_rows(folder: Path, name: str, tokenizer: Any) -> list[str]:
    """Refuse a reward model whose embedding has no row for a token that every text has.

    Args:
        folder: where its config.json is.
        name: what messages call it.
        tokenizer: its own.

    Returns:
        That the tokenizer has other tokens beyond the embedding, in a sentence, where it has.

    Raises:
        ModelError: BOS, EOS or the pad token is beyond the embedding.
    """
    with readable(f"{name}: its config.json cannot be used"):
        num_rows = AutoConfig.from_pretrained(str(folder)).get_text_config(decoder=True).vocab_size
    for kind, shown in _KINDS.items():
        number = getattr(tokenizer, f"{kind}_token_id")
        if number is not None and number >= num_rows:
            raise ModelError(
                f"{name}: the {shown} token of its tokenizer, {getattr(tokenizer, f'{kind}_token')!r}, has the id "
                f"{number}, and the embedding of the model {num_rows:,} rows; save model and tokenizer again after "
                f"resize_token_embeddings, or give the tokenizer that belongs to the model"
            )
    needed = num_ids(tokenizer)
    if needed <= num_rows:
        return []
    return [
        f"{name}: its tokenizer has ids up to {needed - 1:,}, and the model rows for {num_rows:,}; it cannot read a "
        f"text with a token beyond them"
    ]


def _generation_ids(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Ids that generation_config.json names; none where there is no such file."""
    try:
        config = GenerationConfig.from_pretrained(model.base, revision=model.revision)
    except OSError:
        return dict.fromkeys(_KINDS, ())
    return _ids(config)


def _ids(config: Any) -> dict[str, tuple[int, ...]]:
    """None, one id or several of each kind, as tuples."""
    said = {kind: getattr(config, f"{kind}_token_id", None) for kind in _KINDS}
    ids = {
        kind: () if numbers is None else tuple(numbers) if isinstance(numbers, list) else (numbers,)
        for kind, numbers in said.items()
    }
    for kind, numbers in ids.items():
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"{kind}_token_id is {said[kind]!r}, and no id of a token")
    return ids


def _about_token(kind: str, said: Mapping[str, Mapping[str, tuple[int, ...]]], tokenizer: Any) -> Iterator[str]:
    used = getattr(tokenizer, f"{kind}_token_id")
    shown = f"{used} ({getattr(tokenizer, f'{kind}_token')!r})" if used is not None else "none"
    name = _KINDS[kind]
    others = {file: ids[kind] for file, ids in said.items() if ids[kind] not in ((), (used,))}
    if others:
        listed = " and ".join(f"{file} says {_listed(ids)}" for file, ids in others.items())
        yield f"{name}: the base's {listed}, its tokenizer {shown}. The tokenizer's is used and saved with the policy."
    elif used is not None and not any(ids[kind] for ids in said.values()):
        yield f"{name}: the base's config.json names none. The tokenizer's, {shown}, is used and saved with the policy."
    more = sorted({id_ for ids in others.values() for id_ in ids} - {used})
    if kind == "eos" and any(len(ids) > 1 for ids in others.values()):
        yield (
            f"The base may also end an answer with {_listed(more)}. In this run, and in the policy that it saves, "
            f"these are tokens like others: an answer ends with {shown} alone."
        )


def _listed(ids: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, ids[:-1])) + (" and " if len(ids) > 1 else "") + str(ids[-1])


def _about_embedding(num_rows: int, needed: int) -> Iterator[str]:
    if needed > num_rows:
        yield (
            f"The tokenizer has {needed:,} tokens, the base's embedding {num_rows:,} rows. The embedding of the policy "
            f"has {needed - num_rows:,} more, drawn at random around the mean of the others."
        )
    elif needed < num_rows:
        yield (
            f"The base's embedding has {num_rows:,} rows, {num_rows - needed:,} more than the tokenizer has tokens. "
            f"They stay, and stand for no token."
        )
