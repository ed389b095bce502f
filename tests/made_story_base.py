"""A tiny base model with random weights that writes sentences: it prefers a few words, and stops among them."""

from pathlib import Path

import torch

from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig, Setup
from rlhf.data import embedded
from rlhf.data.schema import read_rows
from rlhf.modeling.models import save_model, start_policy
from rlhf.modeling.tokenizer import prepare_tokenizer

_SAID = "the happy dog . a sad friend ! she smiled at it . they love to play ? he was kind and lost ."


def save_story_base(folder: Path, seed: int = 0) -> Path:
    """Save the model, with a tokenizer that knows the words of the prompts and has no chat template."""
    with embedded.generated("stories") as prompts:
        asked = [row["prompt"][0]["content"] for _, row in read_rows(prompts / "prompts.jsonl", "prompts")]
    shape = ArchitectureConfig(hidden_size=32, num_layers=2, num_heads=2, feed_forward_size=64)
    setup = Setup(seed=seed, model=ModelConfig(architecture=shape, max_length=128), compute=ComputeConfig(dtype="fp32"))
    tokenizer, _ = prepare_tokenizer(setup.model, [f" {_SAID}", *asked])
    model = start_policy(setup, tokenizer)
    with torch.no_grad():
        # One direction that every state has and only the preferred words answer to.
        model.get_input_embeddings().weight[:, 0] = 1.0
        model.get_output_embeddings().weight[tokenizer(f" {_SAID}", add_special_tokens=False)["input_ids"], 0] = 1.0
    tokenizer.chat_template = None
    save_model(model, tokenizer, folder)
    return folder
