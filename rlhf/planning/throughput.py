"""Seconds of an update on many GPUs, by phase, as a range between two efficiencies that are assumed.

Passes over whole rows take operations, decoding reads weights and cache at every token, sharded models are gathered and
their gradients spread for each pass. Nothing here was measured on a GPU: a figure is what arithmetic leaves possible.

Source:
    Two operations per weight and token forward, twice as many backward: Kaplan et al., 2001.08361, section 2.1.
    38 to 43% of the peak in training at its best: Llama 3, 2407.21783, table 4.
"""

import math
from dataclasses import dataclass

from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.planning.hardware import Cluster
from rlhf.planning.memory import frozen_bytes
from rlhf.planning.shape import ModelShape

_WEIGHT, _GRADIENT, _OPTIMIZER_BYTES = 4, 4, 28
"""Bytes of a weight, of its gradient, and of all that AdamW reads and writes of it in a step."""


@dataclass(frozen=True)
class Efficiency:
    """What part of a data sheet's figures a run gets.

    Attributes:
        mfu: share of the peak operations in passes over whole rows.
        reading: share of the memory's bandwidth.
        link: share of the link within a node.
        between_nodes: bytes per second of each GPU to other nodes, one way. A byte that all processes need crosses
            once from node to node, and the GPUs of a node share its bytes.
        call: seconds of a block in a step of decoding beside what it reads.
        overlaps: whether sharded weights are gathered while other layers compute.
    """

    mfu: float
    reading: float
    link: float
    between_nodes: float
    call: float
    overlaps: bool


BEST = Efficiency(0.45, 0.7, 0.8, 50e9, 1e-4, True)
WORST = Efficiency(0.20, 0.25, 0.5, 12.5e9, 3e-4, False)
"""Assumptions: the range of a figure. Between nodes: 400 and 100 Gb/s per GPU."""


@dataclass(frozen=True)
class Seconds:
    """A range of seconds: at the best efficiency that is assumed, and at the worst."""

    low: float
    high: float

    def __str__(self) -> str:
        """Two digits of each."""
        return f"{_two_digits(self.low)} to {_two_digits(self.high)}"


def update_seconds(
    config: PipelineConfig, shape: ModelShape, cluster: Cluster, shards: int
) -> dict[str, Seconds] | None:
    """Seconds of an update's phases and of `all`, without held-out evaluations, of rows of full length.

    Args:
        config: the recipe, whose processes are those of the cluster.
        shape: of the model.
        cluster: the GPUs, one per process.
        shards: processes over which each model is spread.

    Returns:
        None where it cannot be said: only the memory of the GPUs is known, products are in fp32, or the method has no
        updates.
    """
    if config.rl is None or cluster.gpu.flops is None or config.compute.dtype != "bf16":
        return None
    best, worst = (
        _Update(config, config.rl, shape, cluster, shards, efficiency).phases() for efficiency in (BEST, WORST)
    )
    phases = {phase: Seconds(best[phase], worst[phase]) for phase in best}
    return phases | {"all": Seconds(sum(best.values()), sum(worst.values()))}


class _Update:
    """One update in one process, at one efficiency."""

    def __init__(
        self,
        config: PipelineConfig,
        rl: RLConfig,
        shape: ModelShape,
        cluster: Cluster,
        shards: int,
        efficiency: Efficiency,
    ) -> None:
        gpu = cluster.gpu
        assert gpu.flops is not None
        assert gpu.bandwidth is not None
        assert gpu.link is not None
        self.rl, self.shape, self.cluster, self.shards, self.efficiency = rl, shape, cluster, shards, efficiency
        self.processes = config.compute.num_processes
        self.rate, self.reading = gpu.flops * efficiency.mfu, gpu.bandwidth * efficiency.reading
        self.link = gpu.link * efficiency.link
        self.response = rl.max_response_tokens
        self.tokens = config.model.max_length
        self.has_value_model = ROLLOUT_METHODS[config.method].has_critic and rl.sharing != "trunk"
        self.num_reward_models = sum(source.kind != "function" for source in rl.rewards)
        self.frozen = frozen_bytes(shape, config.compute)
        self.rows = rl.rollout_size / self.processes
        share = rl.minibatch_size // self.processes
        self.num_passes = math.ceil(self.rows / min(rl.micro_batch_size or share, share))

    def phases(self) -> dict[str, float]:
        """Seconds by phase."""
        return {"generation": self._generation(), "scoring": self._scoring(), "training": self._training()}

    def _generation(self) -> float:
        shape, prompt = self.shape, self.tokens - self.response
        weights = 2 * (shape.products + shape.head)
        cached = self.rows * self.response * (prompt + self.response / 2) * shape.num_layers * 4 * shape.key_value_size
        read = (self.response * weights + cached) / self.reading
        computed = self.rows * self._forward(self.response) / self.rate
        calls = self.response * shape.num_layers * self.efficiency.call
        whole = self.frozen if self.rl.sharing == "adapters" else _WEIGHT * shape.parameters
        return read + computed + calls + self._gathering(whole)

    def _scoring(self) -> float:
        """Policy and reference make logits, value model and reward models none."""
        without = self.num_reward_models + (1 if self.has_value_model else 0)
        computed = self.rows * (2 * self._forward(self.response) + without * self._forward(0)) / self.rate
        learned = 0 if self.rl.sharing == "adapters" else 1 + (1 if self.has_value_model else 0)
        still = 2 + without - learned
        moved = self.num_passes * (learned * _WEIGHT * self.shape.parameters + still * self.frozen)
        return self._together(computed, self._gathering(moved))

    def _training(self) -> float:
        rl, shape = self.rl, self.shape
        steps = rl.num_ppo_epochs * rl.num_minibatches
        seconds = 0.0
        for head_tokens, is_whole in self._learning():
            trained = shape.parameters if is_whole else shape.adapters(rl.lora.rank if rl.lora else 0)
            # The backward pass of a frozen weight computes no gradient of it.
            passes = 3 if is_whole else 2
            rows = rl.num_ppo_epochs * self.rows + (self._ptx_rows() if head_tokens else 0)
            computed = rows * passes * self._forward(head_tokens) / self.rate
            whole = self.frozen if rl.sharing == "adapters" else _WEIGHT * shape.parameters
            moved = rl.num_ppo_epochs * self.num_passes * (2 * whole + _GRADIENT * trained)
            stepped = steps * trained / self.shards * _OPTIMIZER_BYTES / self.reading
            summed = steps * self._summing(_GRADIENT * trained / self.shards)
            seconds += self._together(computed, self._gathering(moved)) + stepped + summed
        return seconds

    def _ptx_rows(self) -> float:
        rl = self.rl
        steps = rl.num_ppo_epochs * rl.num_minibatches
        return steps * (rl.ptx_batch_size or rl.minibatch_size) / self.processes if rl.ptx_coef else 0.0

    def _learning(self) -> list[tuple[int, bool]]:
        """Tokens with logits, and whether all weights learn, of each model that does."""
        policy = (self.response, self.rl.lora is None)
        return [policy, (0, self.rl.sharing == "none")] if self.has_value_model else [policy]

    def _forward(self, head_tokens: int) -> float:
        """Operations of a row of full length."""
        shape, tokens = self.shape, self.tokens
        attention = 2 * shape.num_layers * shape.hidden_size * tokens * tokens
        return 2 * shape.products * tokens + attention + 2 * shape.head * head_tokens

    def _together(self, computed: float, moved: float) -> float:
        return max(computed, moved) if self.efficiency.overlaps else computed + moved

    def _gathering(self, num_bytes: float) -> float:
        """Seconds in which a process gets what the others hold of weights, or gives away its part of gradients."""
        return self._moving(num_bytes, self.shards, self.shards > self.cluster.per_node)

    def _summing(self, num_bytes: float) -> float:
        """Seconds in which processes that hold the same part of the weights sum their gradients, there and back."""
        copies = self.processes // self.shards
        return self._moving(2 * num_bytes, copies, self.cluster.nodes > 1)

    def _moving(self, num_bytes: float, group: int, crosses_nodes: bool) -> float:
        between_nodes = self.efficiency.between_nodes * self.cluster.per_node
        rate = min(self.link, between_nodes) if crosses_nodes else self.link
        return num_bytes * (group - 1) / group / rate


def _two_digits(value: float) -> str:
    """A number of seconds in two significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(value)))
    return f"{round(value, 1 - math.floor(math.log10(value))):,.{digits}f}"
