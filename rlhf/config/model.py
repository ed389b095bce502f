"""Settings of the model, of how it is computed, and of adapters."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rlhf.config.base import Count, Fraction, Positive, Section


def _check_day(value: object) -> object:
    """A day in text, which YAML gives as a date where it is not in quotes."""
    day = value if isinstance(value, date) else date.fromisoformat(str(value))
    return day.isoformat()


Day = Annotated[str, BeforeValidator(_check_day)]
CONTINUATION = "continuation"
"""Name of the project's chat template in which a response goes on with the text of its prompt."""
OF_A_MODEL = ("revision", "chat_template", "template_date")


class ComputeConfig(Section):
    """Device, threads, processes and precision. Each of them changes the bits of a result."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Device of the models."""
    num_threads: Count = 2
    """Threads per process on the CPU. Another number gives other bits."""
    dtype: Literal["bf16", "fp32"] = "bf16"
    """Precision of matrix products. Weights, optimizer state, log-probabilities and losses are fp32 either way."""
    fused_layers: bool = True
    """Let layers of this project stand in for those of transformers that they know, which is quicker and takes less
    memory. Each kind is held against transformers' own when a model is loaded, and not used where it differs; false
    uses none."""
    num_processes: Count = 1
    """Processes that share the rows of each PPO step, each with num_threads threads on the CPU or with its own CUDA
    device. Other stages run in one process. Must divide the episodes of a minibatch."""
    sharding: Literal["none", "full", "node"] = "none"
    """Weights that each of these processes holds. none: all. full: its part of every model, and of what a model learns
    by; it gathers the rest block by block while it computes. node: within a host as full, and each host holds all.
    Needs several processes."""

    @model_validator(mode="after")
    def _sharding_needs_processes(self) -> Self:
        if self.sharding != "none" and self.num_processes == 1:
            raise ValueError(
                f"sharding is {self.sharding} but num_processes is 1, so it would be ignored; set num_processes to 2 "
                f"or more, or sharding to none"
            )
        return self


class ArchitectureConfig(Section):
    """Shape of the Llama that is built in place of a base model."""

    hidden_size: Count = 128
    """Width of the residual stream."""
    num_layers: Count = 4
    """Transformer blocks."""
    num_heads: Count = 4
    """Attention heads; must divide hidden_size."""
    feed_forward_size: Count = 384
    """Inner width of the feed-forward layers."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        self._check_multiple("hidden_size", "num_heads")
        return self


class ModelConfig(Section):
    """The language model that everything starts from."""

    base: str | None = None
    """Folder or hub id of a causal language model (safetensors). A run needs a base, or the architecture of a model to
    build."""
    revision: str | None = None
    """Commit, tag or branch of the hub id. A run asks once which commit it is, and loads and records this commit."""
    chat_template: str | None = None
    """Name of the chat template where the model has several. Empty: `default`, or the only template. Where the base has
    none, `continuation` lets a response go on with the text of the prompt; empty: turns of Human and Assistant."""
    template_date: Day | None = None
    """Day (YYYY-MM-DD) that a chat template which reads the clock shows. Empty: the day on which the run starts."""
    architecture: ArchitectureConfig | None = None
    """Shape of a small Llama with random weights that is built in place of a base, with a word-level tokenizer made
    from the training data."""
    max_length: Annotated[int, Field(ge=8)] = 64
    """Largest number of tokens of prompt and response together. Longer dialogues lose their oldest turns."""

    @model_validator(mode="after")
    def _base_or_architecture(self) -> Self:
        # A recipe for any base says so before one is named; a run without a model is refused later.
        of_any_base = {"chat_template"} if self.architecture is None and self.chat_template == CONTINUATION else set()
        for name in OF_A_MODEL:
            if self.base is None and getattr(self, name) is not None and name not in of_any_base:
                raise ValueError(f"{name} is set but base is not, so it would be ignored; name a base or drop {name}")
        if self.base is not None and self.architecture is not None:
            raise ValueError(
                "base and architecture are both set, and architecture would be ignored; drop one of the two"
            )
        return self


class LoraConfig(Section):
    """Low-rank adapters that are trained in place of all weights, and merged when the stage ends."""

    rank: Count = 16
    """Rank of the adapters."""
    alpha: Positive = 32.0
    """Scale of the adapters: their product is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout on the adapters' input. PPO needs 0."""


class Setup(Section):
    """Settings that every stage with a model needs beside its own section."""

    seed: int
    """Seed of initialization, shuffling and sampling."""
    model: ModelConfig
    """The language model that everything starts from."""
    compute: ComputeConfig
    """Device, threads, precision."""
