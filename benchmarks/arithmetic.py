"""What an update must do, counted from the models' shape: floating-point operations, and bytes that decoding reads.

A product of [m, k] and [k, n] counts 2 m k n. Norms, softmax and the like are left out, as are embeddings' look-ups.
"""

from dataclasses import dataclass

from benchmarks.arguments import Settings
from benchmarks.made_models import PROMPT_TOKENS, Shape

BACKWARD = 2
"""A backward pass costs as much as two forward passes."""


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one update.

    Attributes:
        generation: decoding.
        scoring: log-probabilities, values and scores.
        training: forward and backward passes.
        over_cache: those of generation that attention does over the cache.
    """

    generation: float
    scoring: float
    training: float
    over_cache: float

    @property
    def all(self) -> float:
        """Of the whole update."""
        return self.generation + self.scoring + self.training


def block_weights(shape: Shape) -> int:
    """Weights of all blocks' products: four of attention, three of the feed-forward layer."""
    return shape.num_hidden_layers * (4 * shape.hidden_size**2 + 3 * shape.hidden_size * shape.intermediate_size)


def forward(shape: Shape, tokens: float, head_tokens: float) -> float:
    """One sequence of `tokens`, every token attending to those before it; the head on `head_tokens` of them."""
    products = 2 * block_weights(shape) * tokens
    return products + attention(shape, tokens) + 2 * shape.hidden_size * shape.vocab_size * head_tokens


def attention(shape: Shape, tokens: float) -> float:
    """Queries times keys and probabilities times values of one sequence."""
    return 4 * shape.num_hidden_layers * shape.hidden_size * tokens * (tokens + 1) / 2


def update_flops(shape: Shape, settings: Settings) -> Flops:
    """One update of four separate models: decode; policy, reference, value, reward pass; train policy and value."""
    tokens = sum(PROMPT_TOKENS) / 2 + settings.response_tokens
    policy = forward(shape, tokens, settings.response_tokens)
    backbone = forward(shape, tokens, 0)
    return Flops(
        generation=settings.rollout * policy,
        scoring=settings.rollout * 2 * (policy + backbone),
        training=settings.rollout * settings.ppo_epochs * (1 + BACKWARD) * (policy + backbone),
        over_cache=settings.rollout * attention(shape, tokens),
    )


def cache_bytes(shape: Shape, settings: Settings, bytes_per_number: int) -> float:
    """Keys and values that one update's decoding reads: at every step but the first those of all tokens so far."""
    steps = settings.response_tokens - 1
    columns = steps * (sum(PROMPT_TOKENS) / 2 + (steps + 1) / 2)
    return settings.rollout * columns * shape.num_hidden_layers * 2 * shape.hidden_size * bytes_per_number
