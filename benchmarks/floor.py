"""What no program on this machine can go below: the matrix products of a run, each measured by itself.

A product is timed with its operands out of the caches, as they are in training, where a pass over the other layers lies
between two uses. All else that a run does (norms, softmax, activations, sums of gradients, optimizer) counts as free.

    python -m benchmarks.floor [CASE]
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Iterator, Sequence

import torch

from benchmarks.cases import CASES, Case
from benchmarks.made_models import PROMPT_TOKENS, SHAPES, Shape
from benchmarks.quiet import wait_until_quiet
from benchmarks.records import commit, machine

_TIMES = 15
_CACHES_BYTES = 64 * 2**20
Product = tuple[int, int, int]
"""m, k, n of [m, k] x [k, n]."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "case", nargs="?", default="20M-epochs4", choices=[n for n, c in CASES.items() if not c.settings.ends]
    )
    options = parser.parse_args(arguments)
    wait_until_quiet(60)
    case = CASES[options.case]
    torch.set_num_threads(case.settings.threads)
    print(json.dumps({"case": case.name, **floor(case), "commit": commit(), "machine": machine()}))


def floor(case: Case) -> dict[str, float]:
    """Seconds of all products of a run of four separate models, by phase."""
    settings, shape = case.settings, SHAPES[case.models]
    tokens = sum(PROMPT_TOKENS) // 2 + settings.response_tokens
    dtype = torch.bfloat16 if case.dtype == "bf16" else torch.float32
    rows = case.micro_batch * tokens
    num_micro_batches = settings.rollout // case.micro_batch
    forward = sum(seconds(product, dtype) for product in _forward(shape, rows))
    backward = sum(seconds(product, dtype) for product in _backward(shape, rows))
    step = sum(seconds(product, dtype) for product in _forward(shape, settings.rollout))
    phases = {
        "generation": settings.response_tokens * step,
        "scoring": 4 * num_micro_batches * forward,
        "training": 2 * settings.ppo_epochs * num_micro_batches * (forward + backward),
    }
    phases = {name: settings.num_updates * spent for name, spent in phases.items()}
    return phases | {"all": sum(phases.values())}


@functools.cache
def seconds(product: Product, dtype: torch.dtype) -> float:
    """Median of one product whose operands are not in the caches."""
    m, k, n = product
    return cold_seconds(torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype))


def cold_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """Median of left @ right, whose memory is in no cache of the processor."""
    others = torch.zeros(_CACHES_BYTES // 4)
    taken = []
    for _ in range(_TIMES):
        others.add_(1.0)
        begun = time.perf_counter()
        left @ right
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _layers(shape: Shape) -> Iterator[tuple[int, int]]:
    """Inputs and outputs of every linear layer of the blocks."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    for _ in range(shape.num_hidden_layers):
        yield from [(hidden, hidden)] * 4
        yield from [(hidden, inner), (hidden, inner), (inner, hidden)]


def _forward(shape: Shape, rows: int) -> list[Product]:
    return [(rows, inputs, outputs) for inputs, outputs in _layers(shape)]


def _backward(shape: Shape, rows: int) -> list[Product]:
    """The gradients of the layer's input, and of its weight."""
    of_inputs = [(rows, outputs, inputs) for inputs, outputs in _layers(shape)]
    return of_inputs + [(outputs, rows, inputs) for inputs, outputs in _layers(shape)]


if __name__ == "__main__":
    main()
