"""The models that both sides of a benchmark load, made once and kept in a folder.

`2M`, `20M`, `160M`, `1B`: random weights that never say EOS or pad, so that every response has full length.
`ends`: the 20M shape, where EOS follows one in twenty of the tokens. `demo`: what the demo's own stages make;
`demo-lora`: the same policy, with reward models that are adapters over it.

    python -m benchmarks.made_models 20M ends

A set is a folder with `policy/`, `reward_models/{reward_model,selection_reward_model}/` (each with the same model as
LoRA weights over the policy's backbone in `adapter/`) and `prompts.jsonl`, rows {"input_ids": [...]}.
"""

import argparse
import functools
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench" / "models"
VOCABULARY = 1024
NUM_PROMPTS = 512
PROMPT_TOKENS = (24, 32)
_SPECIAL = ["<pad>", "<bos>", "<eos>"]
# Embeddings of unit scale instead of 0.02: an update at these learning rates then moves a policy and does not wreck it.
_EMBEDDING_SCALE = 50.0
# The residual stream's first channel holds the same number for every token, so that the head's weight on it is a bias;
# the second one marks the tokens after which a response ends.
_MARK = 8.0
_NEVER = -10.0
_ALWAYS = 20.0
_STOP_TOKENS = slice(10, None, 20)


@dataclass(frozen=True)
class Shape:
    """A Llama's size."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int = VOCABULARY


SHAPES = {
    "tiny": Shape(32, 64, 2, 2),
    "0.3M": Shape(64, 256, 2, 2),
    "2M": Shape(128, 512, 6, 4),
    "8M": Shape(256, 1024, 7, 4),
    "20M": Shape(384, 1536, 8, 6),
    "160M": Shape(768, 3072, 12, 12, 32_000),
    "1B": Shape(2048, 5632, 16, 16, 32_000),
}


@dataclass(frozen=True)
class ModelSet:
    """Where a set's parts are."""

    folder: Path

    @property
    def policy(self) -> Path:
        return self.folder / "policy"

    @property
    def reward(self) -> Path:
        return self.folder / "reward_models" / "reward_model"

    @property
    def prompts(self) -> Path:
        return self.folder / "prompts.jsonl"

    @property
    def data(self) -> Path:
        """The data stage's output, of the demo's set only."""
        return self.folder / "data"

    def flags(self) -> list[str]:
        """As flags of `our_run` and `peer_ppo`."""
        return ["--policy", str(self.policy), "--reward", str(self.reward), "--prompts", str(self.prompts)]


def model_set(name: str, folder: Path = FOLDER) -> ModelSet:
    """The set of this name, made if it is not there yet."""
    final = folder / name
    if not final.is_dir():
        partial = folder / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _make(name, ModelSet(partial))
        partial.rename(final)
    return ModelSet(final)


def made_elsewhere(name: str) -> ModelSet:
    """The set, made by another process: this one stays small, without torch."""
    command = [sys.executable, "-m", "benchmarks.made_models", name, "--folder", str(FOLDER)]
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr, env=os.environ | quiet)
    return ModelSet(FOLDER / name)


def _make(name: str, made: ModelSet) -> None:
    if name.startswith("demo"):
        from benchmarks import demo_models

        if name == "demo":
            demo_models.make_demo_models(made)
        else:
            demo_models.make_demo_adapters(made, model_set("demo", made.folder.parent))
        return
    tokenizer = make_tokenizer()
    prompts = make_prompts(tokenizer)
    made.prompts.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in prompts))
    policy = _random_policy(SHAPES["20M" if name == "ends" else name], tokenizer)
    _forbid(policy, [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id])
    if name == "ends":
        _let_end(policy, tokenizer.eos_token_id)
    policy.save_pretrained(made.policy)
    tokenizer.save_pretrained(made.policy)
    for seed, model in enumerate(("reward_model", "selection_reward_model"), start=1):
        save_reward_model(made, model, tokenizer, seed)


@functools.cache
def made_up_words() -> list[str]:
    """Invented words of one to five syllables."""
    rng = random.Random(7)
    syllables = [onset + vowel for onset in ("", *"bdfgklmnprstvz") for vowel in ("a", "e", "i", "o", "u", "ai", "or")]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 5))) for _ in range(2000)]


def made_up_sentences(count: int, seed: int) -> list[str]:
    """Sentences of invented words, frequent ones more often, as in a language."""
    rng, words = random.Random(seed), made_up_words()
    weights = [1.0 / rank for rank in range(4, len(words) + 4)]
    return [" ".join(rng.choices(words, weights, k=rng.randint(24, 48))) + " ." for _ in range(count)]


def make_tokenizer() -> Any:
    """Byte-level BPE with 1,024 pieces, learned from invented sentences."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(
        made_up_sentences(3000, seed=1), VOCABULARY, special_tokens=_SPECIAL, show_progress=False
    )
    pad, bos, eos = _SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces._tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, padding_side="left"
    )
    assert len(tokenizer) == VOCABULARY
    return tokenizer


def make_prompts(tokenizer: Any) -> list[list[int]]:
    """The beginnings of other sentences, 24 to 32 tokens each."""
    rng, shortest, longest = random.Random(2), *PROMPT_TOKENS
    encoded = tokenizer(made_up_sentences(2 * NUM_PROMPTS, seed=3), add_special_tokens=False)["input_ids"]
    long_enough = [ids for ids in encoded if len(ids) >= longest][:NUM_PROMPTS]
    assert len(long_enough) == NUM_PROMPTS
    return [ids[: rng.randint(shortest, longest)] for ids in long_enough]


def _random_policy(shape: Shape, tokenizer: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    policy = LlamaForCausalLM(
        LlamaConfig(
            **vars(shape),
            max_position_embeddings=1024,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        policy.model.embed_tokens.weight *= _EMBEDDING_SCALE
        policy.model.embed_tokens.weight[:, 0] = _MARK
        policy.lm_head.weight[:, 0] = 0.0
    return policy.eval()


def _forbid(policy: Any, tokens: list[int]) -> None:
    """Make tokens so unlikely that they are never drawn."""
    import torch

    with torch.no_grad():
        policy.lm_head.weight[tokens, 0] = _NEVER


def _let_end(policy: Any, eos_token_id: int) -> None:
    """Make EOS follow every stop token, and nothing else.

    A bias that makes EOS likely everywhere would be learned away within an update. What is certain has no gradient;
    and as EOS is embedded like the average token, a response that ends is scored like one that goes on.
    """
    import torch

    with torch.no_grad():
        embedding = policy.model.embed_tokens.weight
        embedding[eos_token_id] = embedding.mean(0)
        embedding[:, 1] = 0.0
        embedding[_STOP_TOKENS, 1] = _MARK
        policy.lm_head.weight[:, 1] = 0.0
        policy.lm_head.weight[eos_token_id, 1] = _ALWAYS


def save_reward_model(made: ModelSet, name: str, tokenizer: Any, seed: int) -> None:
    """Random LoRA weights and a random head over the policy's backbone, as an adapter and merged."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    from rlhf.config.model import LoraConfig
    from rlhf.modeling.lora import peft_config

    torch.manual_seed(seed)
    backbone = AutoModelForSequenceClassification.from_pretrained(made.policy, num_labels=1, dtype=torch.float32)
    model = get_peft_model(backbone, peft_config(LoraConfig(), "SEQ_CLS", backbone))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name:
                parameter.normal_(std=0.02)
            if "score" in parameter_name:
                parameter[:, :2] = 0.0  # neither the constant nor what ends a response is worth anything
    folder = made.folder / "reward_models" / name
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=[*SHAPES, "ends", "demo", "demo-lora"])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parsed = parser.parse_args()
    for name in parsed.names:
        print(model_set(name, parsed.folder).folder)


if __name__ == "__main__":
    main()
