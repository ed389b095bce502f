"""The model that a run starts from, in one line, read from its files' headers: torch is not imported."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from rlhf.bases import base_with_folder, is_hub_id
from rlhf.config import ArchitectureConfig, ModelConfig
from rlhf.errors import ModelError


def described(model: ModelConfig) -> str:
    """What every run says first: the base and its parameters, or that a model is built, and how large.

    Raises:
        ModelError: a file of weights does not begin as safetensors do.
    """
    if model.base is None:
        return _built(model.architecture or ArchitectureConfig())
    if is_hub_id(model.base):
        at = f" at {model.revision}" if model.revision else ""
        return f"base model: {model.base} of the Hugging Face hub{at}; its parameters are known once it is here"
    return f"base model: {model.base}, {num_parameters(Path(base_with_folder(model).base or '')):,} parameters"


def num_parameters(folder: Path) -> int:
    """Numbers in all weights of a model folder, tied ones counted once.

    Raises:
        ModelError: a file of weights does not begin as safetensors do.
    """
    return sum(math.prod(shape) for file in sorted(folder.glob("*.safetensors")) for shape in _shapes(file))


def _shapes(file: Path) -> Iterator[list[int]]:
    """Of the tensors that the header names: eight bytes with its length, then JSON."""
    try:
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        yield from [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
        raise ModelError(
            f"{file}: this is no safetensors file: its header cannot be read ({file.stat().st_size:,} bytes); download "
            "or copy it again"
        ) from None


def _built(shape: ArchitectureConfig) -> str:
    """A Llama has four square projections, three of the feed-forward layer and two norms a block, and one more norm."""
    width = shape.hidden_size
    block = 4 * width * width + 3 * width * shape.feed_forward_size + 2 * width
    fixed = shape.num_layers * block + width
    return (
        f"base model: none; a Llama with random weights is built, {fixed:,} parameters and {2 * width:,} for each token"
        " of a vocabulary made from the training data"
    )
