"""Several processes that share the work of one PPO run, row by row.

Every process holds the models and knows the whole rollout; each computes its share of the rows, and what it computed
is summed over all. With one process every function here hands back what it was given.
"""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf.config import ComputeConfig
from rlhf.errors import ConfigError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)


def join(compute: ComputeConfig) -> None:
    """Join the processes that `torchrun` or `accelerate launch` started; alone, do nothing.

    Raises:
        ConfigError: there are more processes than CUDA devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if compute.device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine has no CUDA device ({torch.cuda.device_count()} found); start as "
                f"many processes as there are devices"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if compute.device == "cuda" else "gloo", timeout=TIMEOUT)


def leave() -> None:
    """Leave the group that `join` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def num_processes() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that logs and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def share(rows: Tensor) -> Tensor:
    """This process's part of row numbers [N]: every num_processes-th."""
    return rows[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else rows


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes of tensors of one shape, on the tensor's own device."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def largest(tensor: Tensor) -> Tensor:
    """The largest of all processes' numbers, element by element."""
    return _reduced(tensor, dist.ReduceOp.MAX)


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, in one message."""
    if not dist.is_initialized():
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = summed(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def gathered(own: Sequence[T], num_rows: int) -> list[T]:
    """All rows, in order, of what each process has of its `share`."""
    if not dist.is_initialized():
        return list(own)
    parts: list[Sequence[T]] = [[]] * dist.get_world_size()
    dist.all_gather_object(parts, list(own))
    rows: list[T] = [own[0]] * num_rows
    for first, part in enumerate(parts):
        rows[first :: len(parts)] = part
    return rows


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def _reduced(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if not dist.is_initialized():
        return tensor
    held = tensor.cuda() if dist.get_backend() == "nccl" else tensor.clone()
    dist.all_reduce(held, operation)
    return held.to(tensor.device)
