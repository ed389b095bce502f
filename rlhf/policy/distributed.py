"""Several processes that share the work of one run, row by row.

Every process holds the models and knows the whole rollout; each computes its share of the rows, and what it computed
is summed over all. With one process every function here hands back what it was given.
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from rlhf.config.model import ComputeConfig
from rlhf.errors import ConfigError, RLHFError
from rlhf.policy.sharding import local_part, num_parts

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
_OF_TALKING = re.compile("gloo|nccl|connection (closed|reset)", re.IGNORECASE)
"""In errors of torch's backends, which have no class of their own with gloo."""


class ProcessesError(RLHFError):
    """The processes of a run cannot go on together."""


class LostProcessError(ProcessesError):
    """Another process is gone. Why, that one knows."""


def num_started() -> int:
    """How many processes `torchrun`, `accelerate launch` or `rlhf.rl.launch` started; 1 where none of them did."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def process_group(compute: ComputeConfig) -> Iterator[None]:
    """Be one of the processes that were started, until the block ends. Alone, or in a group already, do nothing.

    Raises:
        ConfigError: another number was started than is configured, or there are more than CUDA devices.
    """
    if num_started() != compute.num_processes:
        raise ConfigError(
            f"{num_started()} processes were started, but compute.num_processes is {compute.num_processes}; it decides "
            f"the bits of the result, so set it to the number that you start"
        )
    if compute.num_processes == 1 or dist.is_initialized():
        yield
        return
    _join(compute)
    yield
    # Not after an error: the others may wait for a message that will not come, and this process is about to end.
    wait_for_all()
    dist.destroy_process_group()


def num_processes() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that logs and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


def local_rows(rows: Tensor) -> Tensor:
    """This process's part of row numbers [N]: every num_processes-th. Of fewer rows than processes it may be empty."""
    return rows[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else rows


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all processes of tensors of one shape, on the tensor's own device."""
    return _reduced(tensor, dist.ReduceOp.SUM)


def all_reduce_max(tensor: Tensor) -> Tensor:
    """The largest of all processes' numbers, element by element."""
    return _reduced(tensor, dist.ReduceOp.MAX)


def sum_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes. Where none has a gradient there is none afterwards.

    Gradients of sharded parameters are summed already, by the backward pass.
    """
    parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if not dist.is_initialized() or not parameters:
        return
    used = all_reduce_max(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32))
    for parameter, is_used in zip(parameters, used.tolist(), strict=True):
        if is_used:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            with _run_collective():
                dist.all_reduce(parameter.grad)


def all_gather(own: Sequence[T], num_rows: int) -> list[T]:
    """All rows, in order, of what each process has of its `local_rows`."""
    if not dist.is_initialized():
        return list(own)
    parts: list[Sequence[T]] = [[]] * dist.get_world_size()
    with _run_collective():
        dist.all_gather_object(parts, list(own))
    return [parts[row % len(parts)][row // len(parts)] for row in range(num_rows)]


def check_alike(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Check that all processes hold the same fp32 weights, bit by bit as far as a checksum tells.

    Of sharded ones, that those which hold the same part do.

    Raises:
        ProcessesError: they do not.
    """
    parameters = list(parameters)
    held = [local_part(parameter.detach()) for parameter in parameters]
    checksum = int(torch.stack([tensor.view(torch.int32).sum(dtype=torch.int64) for tensor in held]).sum())
    checksums, parts = all_gather([checksum], num_processes()), num_parts(parameters)
    if any(found != checksums[rank % parts] for rank, found in enumerate(checksums)):
        raise ProcessesError(
            "the processes no longer hold the same weights, so their gradients do not belong together; they must run "
            "on machines of one kind, with the same libraries"
        )


def check_agreed(what: str, own: str) -> None:
    """Check that all processes see the same.

    Args:
        what: is seen, for the message.
        own: what this process sees.

    Raises:
        ProcessesError: another one sees something else.
    """
    seen = sorted(set(all_gather([own], num_processes())))
    if len(seen) > 1:
        raise ProcessesError(
            f"the {what} is {' for one process and '.join(seen)} for another; the run's folders must be on a disk that "
            f"all its machines share"
        )


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if dist.is_initialized():
        with _run_collective():
            dist.barrier()


def _join(compute: ComputeConfig) -> None:
    """NCCL on CUDA devices, one per process; gloo on CPUs."""
    if compute.device == "cpu":
        dist.init_process_group("gloo", timeout=TIMEOUT)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local} of this machine has no CUDA device ({torch.cuda.device_count()} found); set "
            f"compute.num_processes to the number of devices"
        )
    torch.cuda.set_device(local)
    dist.init_process_group("nccl", timeout=TIMEOUT, device_id=torch.device("cuda", local))


def _reduced(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if not dist.is_initialized():
        return tensor
    held = tensor.to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
    with _run_collective():
        dist.all_reduce(held, operation)
    return held.to(tensor.device)


@contextmanager
def noticing_losses() -> Iterator[None]:
    """Within the block models gather weights by themselves: an error of theirs may mean that another process is gone.

    Raises:
        LostProcessError: it is.
    """
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not _OF_TALKING.search(str(error)):
            raise
        raise LostProcessError(f"another process of this run is gone ({error}); its own error says why") from error


@contextmanager
def _run_collective() -> Iterator[None]:
    """Errors of torch within the block mean that another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(f"another process of this run is gone ({error}); its own error says why") from error
