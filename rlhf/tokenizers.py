"""The tokenizer that a run uses: the base model's with pad token and chat template settled, or one built from text."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf.bases import check_folder
from rlhf.config import ModelConfig
from rlhf.errors import ModelError
from rlhf.modeling.files import readable

MAX_VOCABULARY = 8192
_PAD_CANDIDATES = ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>", "<|finetune_right_pad_id|>", "<unk>", "[UNK]")
_ADDED_PAD = "<|pad|>"
# One word with the space before it, or one digit with the space before it.
_WORD = "▁?[0-9]|▁?[^▁0-9]+|▁"

_BUILT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'system' %}<|system|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TEXT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '\\n\\nAssistant:' }}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)


@dataclass(frozen=True)
class TokenizerReport:
    """What had to be settled.

    Attributes:
        origin: the base, or `built`.
        vocab_size: tokens, added ones included.
        pad_token: the pad token, which is never EOS.
        pad_token_choice: kept as it was, chosen among the base's tokens, or added.
        chat_template: kept as it was, or one of the project's own.
        unknown_share: share of the words of the training text that the vocabulary does not hold.
    """

    origin: str
    vocab_size: int
    pad_token: str
    pad_token_choice: Literal["kept", "chosen", "added"]
    chat_template: Literal["kept", "own"]
    unknown_share: float


def prepare_tokenizer(model: ModelConfig, texts: Iterable[str]) -> tuple[Any, TokenizerReport]:
    """Load the base's tokenizer and settle what it lacks, or build a word-level one.

    Args:
        model: names the base, or none.
        texts: training text that a built vocabulary is taken from; not read where there is a base.

    Raises:
        ModelError: the base has no tokenizer, or its tokenizer no EOS.
    """
    if model.base is None:
        return _build(texts, model.max_length)
    tokenizer = load_tokenizer(model.base, model.revision)
    pad_choice = _settle_pad_token(tokenizer)
    own_template = tokenizer.chat_template is None
    if own_template:
        tokenizer.chat_template = _TEXT_TEMPLATE
    report = TokenizerReport(
        model.base, len(tokenizer), tokenizer.pad_token, pad_choice, "own" if own_template else "kept", 0.0
    )
    return tokenizer, report


def load_tokenizer(folder: Path | str, revision: str | None = None) -> Any:
    """A tokenizer from a folder or a hub id.

    Raises:
        ModelError: there is none, or it has no EOS token.
    """
    check_folder(str(folder))
    with readable(f"{folder}: no tokenizer can be loaded from there"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), revision=revision, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{folder}: the tokenizer has no EOS token, so no response could ever end; set eos_token")
    return tokenizer


def _settle_pad_token(tokenizer: Any) -> Literal["kept", "chosen", "added"]:
    """Give the tokenizer a pad token that is not EOS, since a padded EOS could not be told from an ending."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return "kept"
    vocabulary = tokenizer.get_vocab()
    for candidate in _PAD_CANDIDATES:
        if candidate in vocabulary and candidate not in (tokenizer.eos_token, tokenizer.bos_token):
            tokenizer.pad_token = candidate
            return "chosen"
    tokenizer.add_special_tokens({"pad_token": _ADDED_PAD})
    return "added"


def _build(texts: Iterable[str], max_length: int) -> tuple[Any, TokenizerReport]:
    """A word-level tokenizer whose digits are single tokens."""
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Split(Regex(_WORD), behavior="isolated")]
    )
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in split.pre_tokenize_str(text))
    special = ["<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[: MAX_VOCABULARY - len(special)]
    vocabulary = {token: index for index, token in enumerate([*special, *ranked])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = split
    backend.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("▁", " ")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _BUILT_TEMPLATE
    known = sum(counts[word] for word in ranked)
    unknown = 1.0 - known / max(1, sum(counts.values()))
    return tokenizer, TokenizerReport("built", len(tokenizer), "<|pad|>", "kept", "own", unknown)
