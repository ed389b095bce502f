"""Tiny models and prompts in a folder, for programs and fixtures that outlive one test."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig, Setup
from rlhf.modeling.models import save_model, start_policy
from rlhf.modeling.tokenizer import prepare_tokenizer

WORDS = "0 1 2 3 4 5 6 7 8 9 a b c d e f g h i j k l m n"
SETUP = Setup(
    seed=0,
    model=ModelConfig(
        architecture=ArchitectureConfig(hidden_size=32, num_layers=2, num_heads=2, feed_forward_size=64), max_length=48
    ),
    compute=ComputeConfig(dtype="fp32", num_threads=1),
)


def save_world(folder: Path) -> None:
    """Policy, reward models (whole, and as adapters over the policy), and prompts."""
    tokenizer = prepare_tokenizer(SETUP.model, [WORDS])[0]
    save_model(start_policy(SETUP, tokenizer), tokenizer, folder / "sft" / "policy")
    for seed, name in enumerate(("reward_model", "selection_reward_model")):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(folder / "sft" / "policy", num_labels=1)
        save_model(model, tokenizer, folder / "reward_models" / name)
        config = LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=2, init_lora_weights=False)
        get_peft_model(model, config).save_pretrained(folder / "adapter_models" / name / "adapter")
        model.config.save_pretrained(folder / "adapter_models" / name)
    for split in ("train", "validation"):
        path = folder / "data" / "prompts" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in _prompts(split)))


def _prompts(split: str) -> list[list[dict[str, str]]]:
    words, first = WORDS.split(), 0 if split == "train" else 7
    texts = [" ".join(words[(row + first) % 24 : (row + first) % 24 + 1 + row % 5]) for row in range(40)]
    return [[{"role": "user", "content": text}] for text in texts[: 40 if split == "train" else 9]]
