"""Two pieces of work at the same time on one CPU, each on half of the threads.

Twice the threads do not make a product of small matrices twice as fast, nor a norm. Two models that have nothing to do
with each other lose less where each has half of the threads to itself; docs/experiment-log.md has the figures.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from rlhf.config.model import ComputeConfig

A = TypeVar("A")
B = TypeVar("B")


def side_by_side(compute: ComputeConfig, first: Callable[[], A], second: Callable[[], B]) -> tuple[A, B]:
    """Call both at once and return what they return.

    Whether gradients are wanted and what autocast does holds for one thread, so each call says it for itself. An error
    of the first, or an interrupt, does not wait for the second, which then ends by itself.

    Args:
        compute: its threads, an even number, are shared out.
        first: is called in this thread.
        second: is called in another one.
    """
    half = compute.num_threads // 2

    def on_half(work: Callable[[], B]) -> B:
        torch.set_num_threads(half)
        return work()

    other = ThreadPoolExecutor(1, "rlhf-lane")
    try:
        torch.set_num_threads(half)
        of_second = other.submit(on_half, second)
        return first(), of_second.result()
    finally:
        other.shutdown(wait=False)
        torch.set_num_threads(compute.num_threads)
