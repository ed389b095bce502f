"""Shapes of public models, by the numbers of their config.json, so that a recipe can be sized without any file."""

from rlhf.errors import InputError, nearest
from rlhf.planning.shape import ModelShape


def llama_shape(
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    feed_forward_size: int,
    heads: tuple[int, int, int],
    *,
    is_tied: bool = False,
    has_biases: bool = False,
) -> ModelShape:
    """A Llama, or with biases on queries, keys and values a Qwen. Heads: of queries, of keys, and their width."""
    num_heads, num_key_value_heads, head_size = heads
    queries, keys = num_heads * head_size, num_key_value_heads * head_size
    block = 2 * hidden_size * (queries + keys) + 3 * hidden_size * feed_forward_size + 2 * hidden_size
    block += queries + 2 * keys if has_biases else 0
    embeddings = vocab_size * hidden_size * (1 if is_tied else 2)
    parameters = num_layers * block + hidden_size + embeddings
    return ModelShape(parameters, vocab_size, hidden_size, num_layers, feed_forward_size, num_heads, keys, is_tied)


PUBLIC_SHAPES: dict[str, tuple[str, ModelShape]] = {
    "0.5B": ("Qwen2.5-0.5B", llama_shape(151_936, 896, 24, 4864, (14, 2, 64), is_tied=True, has_biases=True)),
    "1B": ("Llama-3.2-1B", llama_shape(128_256, 2048, 16, 8192, (32, 8, 64), is_tied=True)),
    "3B": ("Llama-3.2-3B", llama_shape(128_256, 3072, 28, 8192, (24, 8, 128), is_tied=True)),
    "7B": ("Qwen2.5-7B", llama_shape(152_064, 3584, 28, 18_944, (28, 4, 128), has_biases=True)),
    "8B": ("Llama-3.1-8B", llama_shape(128_256, 4096, 32, 14_336, (32, 8, 128))),
    "14B": ("Qwen2.5-14B", llama_shape(152_064, 5120, 48, 13_824, (40, 8, 128), has_biases=True)),
    "32B": ("Qwen2.5-32B", llama_shape(152_064, 5120, 64, 27_648, (40, 8, 128), has_biases=True)),
    "70B": ("Llama-3.1-70B", llama_shape(128_256, 8192, 80, 28_672, (64, 8, 128))),
}
"""Name and shape of a public model of each size."""


def public_shape(name: str) -> tuple[str, ModelShape]:
    """Name and shape of the public model that stands for a size.

    Raises:
        InputError: none does.
    """
    sizes = {size.lower(): size for size in PUBLIC_SHAPES}
    if name.lower() not in sizes:
        closest = sizes[nearest(name.lower(), sizes)]
        raise InputError(
            f"--shape {name}: not a known shape; the nearest known one is {closest}, of {', '.join(PUBLIC_SHAPES)}"
        )
    return PUBLIC_SHAPES[sizes[name.lower()]]
