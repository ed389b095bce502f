"""What the tutorial's reader has already: pairs of answers, and a small base model."""

import itertools
import json
from pathlib import Path

from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig, Setup
from rlhf.modeling.models import save_model, start_policy
from rlhf.modeling.tokenizer import prepare_tokenizer

_THINGS = (
    "lamp",
    "phone",
    "kettle",
    "radio",
    "printer",
    "camera",
    "heater",
    "router",
    "scale",
    "clock",
    "drill",
    "fan",
)
_WISHES = ("start", "clean", "repair", "charge", "return", "update", "move", "sell", "store", "open")
_WHEN = ("", " today", " at home", " by myself")
_KIND = "You can {wish} your {thing} in a few steps . I will show you ."
_RUDE = "Read the manual of your {thing} ."


def save_pairs(file: Path) -> None:
    """Questions to a help desk; people prefer the friendly answer."""
    rows = [
        {
            "prompt": f"How do I {wish} my {thing}{when} ?",
            "chosen": _KIND.format(wish=wish, thing=thing),
            "rejected": _RUDE.format(thing=thing),
        }
        for thing, wish, when in itertools.product(_THINGS, _WISHES, _WHEN)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def save_base(folder: Path) -> None:
    """A Llama of some ten thousand parameters with random weights, whose tokenizer knows the words of the pairs."""
    words = [*_THINGS, *_WISHES, *_WHEN, _KIND, _RUDE, "How do I my ?"]
    shape = ArchitectureConfig(hidden_size=32, num_layers=2, num_heads=2, feed_forward_size=64)
    setup = Setup(seed=0, model=ModelConfig(architecture=shape, max_length=128), compute=ComputeConfig(dtype="fp32"))
    tokenizer, _ = prepare_tokenizer(setup.model, words)
    tokenizer.chat_template = None
    save_model(start_policy(setup, tokenizer), tokenizer, folder)
