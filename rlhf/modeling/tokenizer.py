"""The tokenizer that a run uses: the base model's with pad token and chat template settled, or one built from text."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf.config.model import CONTINUATION, ModelConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.errors import DataError, ModelError
from rlhf.modeling.chat import chat_of
from rlhf.modeling.conversations import check_continues
from rlhf.modeling.files import readable
from rlhf.modeling.hub import base_with_folder, check_model_folder, source_with_folder
from rlhf.modeling.templates import choose, fixed
from rlhf.modeling.text_tokens import TextTokens

MAX_VOCABULARY = 8192
_PAD_CANDIDATES = ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>", "<|finetune_right_pad_id|>", "<unk>", "[UNK]")
_ADDED_PAD = "<|pad|>"
# One word with the space before it, or one digit with the space before it. A word that looks like a special token falls
# in two, since the vocabulary holds those.
_WORD = r"▁?[0-9]|▁?<(?=\|)|▁?[^▁0-9<]+(?:<(?!\|)[^▁0-9<]*)*|▁?(?:<(?!\|)[^▁0-9<]*)+|▁"

_BUILT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'system' %}<|system|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# GAP stands after a name. It is a space where the tokenizer puts one before each text anyway, so that the two are one,
# and a line break elsewhere: a lone space token is what no base has seen before a word.
_TEXT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\nHuman:GAP' + message['content'] }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '\\n\\nAssistant:ASKED' }}"
    "{% generation %}{{ 'UNASKED' + message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\nAssistant:ASKED' }}{% endif %}"
)
# What a base that only continues text has seen: the response is the text that follows, as long as it goes.
_CONTINUATION_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ 'UNASKED' + message['content'] + eos_token }}{% endgeneration %}"
    "{% elif message['role'] in ['user', 'system'] %}{{ message['content'] + 'ASKED' }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}"
)


@dataclass(frozen=True)
class TokenizerReport:
    """Choices that had to be made for a tokenizer.

    Attributes:
        origin: the base, or `built`.
        vocab_size: tokens, added ones included.
        pad_token: the pad token, which is never EOS.
        pad_token_choice: kept as it was, chosen among the base's tokens, or added.
        chat_template: kept as it was, or one of the project's own.
        template_name: of the one that was chosen, where the base has several.
        fixed: what of the template would have changed by itself, in sentences without a full stop.
        unknown_share: share of the words of the training text that the vocabulary does not hold.
    """

    origin: str
    vocab_size: int
    pad_token: str
    pad_token_choice: Literal["kept", "chosen", "added"]
    chat_template: Literal["kept", "own"]
    unknown_share: float
    template_name: str | None = None
    fixed: tuple[str, ...] = ()


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
        tokenizer.chat_template = _own_template(tokenizer, model)
    named = None if own_template else model.chat_template
    name, fixed = settle_template(tokenizer, model.base, named, model.template_date)
    check_dialogue(tokenizer, model.base)
    report = TokenizerReport(
        model.base,
        len(tokenizer),
        tokenizer.pad_token,
        pad_choice,
        "own" if own_template else "kept",
        0.0,
        name,
        tuple(fixed),
    )
    return tokenizer, report


def check_tokenizer(model: ModelConfig | RewardSourceConfig) -> None:
    """Load a model's tokenizer and refuse a chat template that is of no use.

    Raises:
        ModelError: it is broken.
    """
    if isinstance(model, ModelConfig):
        prepare_tokenizer(base_with_folder(model), [])
        return
    source = source_with_folder(model)
    tokenizer = load_source_tokenizer(source)
    try:
        chat_of(tokenizer).layout(["user", "assistant"], asks=False)
    except DataError as error:
        raise ModelError(
            f"{source.path}: the chat template is broken: it refuses even a question and its answer ({error}); "
            f"correct it or name another of the model's templates with chat_template"
        ) from error


def load_source_tokenizer(source: RewardSourceConfig) -> Any:
    """The tokenizer of a reward model from elsewhere, its template settled as that of a base is.

    Raises:
        ModelError: there is none, or it has no EOS token or no sound chat template.
    """
    assert source.path is not None, "the configuration asks for it"
    tokenizer = load_tokenizer(source.path, source.revision)
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{source.path}: the reward model's tokenizer has no chat template, so it cannot read dialogues; save one "
            f"with it"
        )
    settle_template(tokenizer, source.path, source.chat_template, source.template_date)
    return tokenizer


def encode_alike(first: Any, second: Any) -> bool:
    """Whether two tokenizers give every dialogue the same ids."""
    return bool(
        first.chat_template == second.chat_template
        and first.eos_token_id == second.eos_token_id
        and first.get_vocab() == second.get_vocab()
        and _rules(first) == _rules(second)
    )


def settle_template(tokenizer: Any, model: str, name: str | None, day: str | None) -> tuple[str | None, list[str]]:
    """Give the tokenizer the one template that is meant, with nothing left in it that changes by itself.

    Returns:
        Its name where there are several, and what was fixed.

    Raises:
        ModelError: there is none of that name, or it is broken.
    """
    chosen, template = choose(tokenizer.chat_template, name, model)
    tokenizer.chat_template, fixed_parts = fixed(template, day, model)
    return chosen, fixed_parts


def check_dialogue(tokenizer: Any, model: str) -> None:
    """Refuse a template that writes not even a question and its answer.

    Raises:
        ModelError: it fails for them.
    """
    try:
        chat = chat_of(tokenizer)
        for roles, asks in ((["user"], True), (["user", "assistant"], False)):
            chat.layout(roles, asks)
    except DataError as error:
        raise ModelError(
            f"{model}: the chat template is broken: it refuses even a question and its answer ({error}); correct it or "
            f"name another of the model's templates with model.chat_template"
        ) from error
    try:
        check_continues(tokenizer)
    except DataError as error:
        raise ModelError(f"{model}: {error}") from error


def load_tokenizer(folder: Path | str, revision: str | None = None) -> Any:
    """A tokenizer from a folder or a hub id.

    Raises:
        ModelError: there is none, or it has no EOS token.
    """
    check_model_folder(str(folder))
    with readable(f"{folder}: no tokenizer can be loaded from there"):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), revision=revision, trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{folder}: the tokenizer has no EOS token, so no response could ever end; set eos_token")
    return tokenizer


def _rules(tokenizer: Any) -> object:
    """Rules by which text becomes tokens, apart from padding and truncation, which callers set."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer)
    content = json.loads(backend.to_str())
    return {name: content[name] for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")}


def _own_template(tokenizer: Any, model: ModelConfig) -> str:
    if model.chat_template not in (None, CONTINUATION):
        raise ModelError(
            f"{model.base}: model.chat_template is {model.chat_template}, but the base has no chat template; drop it, "
            f"or set it to {CONTINUATION}, so that a response goes on with the text of its prompt"
        )
    if model.template_date is not None:
        raise ModelError(f"{model.base}: model.template_date is set, but the base has no chat template; drop it")
    # The generation prompt ends before the space, since that belongs to the answer's first token.
    leads = TextTokens(tokenizer).leads_with_space
    gap, asked, unasked = (" ", "", " ") if leads else ("\\n", "\\n", "")
    template = _CONTINUATION_TEMPLATE if model.chat_template == CONTINUATION else _TEXT_TEMPLATE
    return template.replace("GAP", gap).replace("UNASKED", unasked).replace("ASKED", asked)


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
