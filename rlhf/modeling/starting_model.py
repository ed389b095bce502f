"""The model that a run starts from, in one line, read from its files' headers: torch is not imported."""

import math
from pathlib import Path

from rlhf.config.model import ArchitectureConfig, ModelConfig
from rlhf.modeling.files import local_files
from rlhf.modeling.headers import read_weights
from rlhf.modeling.hub import base_with_folder, is_hub_id


def described(model: ModelConfig) -> str:
    """First line of every run: the base and its parameters, or that a model is built, and how large.

    Raises:
        ModelError: a file of weights is not what it should be.
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
        ModelError: there are no weights, or a file of them is not what it should be.
    """
    return sum(math.prod(weight.shape) for weight in read_weights(local_files(folder)).values())


def _built(shape: ArchitectureConfig) -> str:
    """A Llama has four square projections, three of the feed-forward layer and two norms a block, and one more norm."""
    width = shape.hidden_size
    block = 4 * width * width + 3 * width * shape.feed_forward_size + 2 * width
    fixed = shape.num_layers * block + width
    return (
        f"base model: none; a Llama with random weights is built, {fixed:,} parameters and {2 * width:,} for each token"
        " of a vocabulary made from the training data"
    )
