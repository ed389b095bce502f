"""Tokenizers of the kinds that bases have, small, each saved in a folder as a base has it."""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["The cat sat on the mat .", "What is 7 + 5 ?", "I believe the answer is 12 , but please verify .", "no ."] * 20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INSTRUCTIONS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }} {{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
)


def byte_level(folder: Path, template: str | None = None, **settings: bool) -> Path:
    """Byte-level BPE, as GPT-2 has it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **settings})
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    end = "<|im_end|>" if template else "<|endoftext|>"
    return _saved(backend, folder, template, eos_token=end, pad_token="<pad>", extra_special_tokens=special[:3])


def unigram(folder: Path, template: str | None = None) -> Path:
    """A Unigram model with SentencePiece's blanks. Special tokens stand in its vocabulary, as conversions have them."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    backend.train_from_iterator(
        [*TEXTS, "</s> <s> / : [INST] Human Assistant"],
        trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return _saved(backend, folder, template, **names)


def sentencepiece_bpe(folder: Path, template: str | None = None) -> Path:
    """BPE with byte fallback that puts a blank before each text, as Llama 2 has it."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=[f"<0x{n:02X}>" for n in range(256)]
    )
    backend.train_from_iterator(TEXTS, trainer)
    vocabulary = backend.get_vocab()
    for n in range(256):
        vocabulary.setdefault(f"<0x{n:02X}>", len(vocabulary))
    merges = json.loads(backend.to_str())["model"]["merges"]
    model = models.BPE(vocabulary, [tuple(m) for m in merges], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(special)
    return _saved(made, folder, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_level(folder: Path, template: str | None = None) -> Path:
    """Words between blanks and signs, special tokens among them."""
    words = dict.fromkeys(word for text in TEXTS for word in text.split())
    names = ["<unk>", "<pad>", "</s>", "[U]", "[A]", *words]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(names)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase() if template is None else normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(" "), behavior="removed")
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return _saved(backend, folder, template, **special, extra_special_tokens=["[U]", "[A]"])


def _saved(backend: Tokenizer, folder: Path, template: str | None, **special: object) -> Path:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
