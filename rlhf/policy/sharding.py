"""Sharded models: a process keeps its part of the weights, and gathers a block's while the block computes (FSDP2).

Gradients are summed over the processes, as `rlhf.policy.distributed` sums those of whole models: the losses are
divided by all tokens of a minibatch already. Each pass gathers weights in every process, so all of them make the same
number of passes. Without a mesh every function here hands back what it was given.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rlhf.config.model import ComputeConfig
from rlhf.errors import ConfigError, ModelError


def make_mesh(compute: ComputeConfig) -> DeviceMesh | None:
    """The processes by what they hold: rows of hosts with like parts, or one row; None where models are whole.

    Raises:
        ConfigError: the hosts have not as many processes each, or one, so that none could share its weights.
    """
    if compute.sharding == "none":
        return None
    size = dist.get_world_size()
    per_host = _processes_per_host() if compute.sharding == "node" else size
    if per_host == size:
        return init_device_mesh(compute.device, (size,))
    return init_device_mesh(compute.device, (size // per_host, per_host), mesh_dim_names=("replicate", "shard"))


def shard(model: Any, mesh: DeviceMesh | None) -> Any:
    """Shard a model that is called as a whole: its blocks one by one, and what is around them together.

    Args:
        model: a transformers model, or a module around one.
        mesh: of `make_mesh`.

    Raises:
        ModelError: transformers does not say what the model's blocks are.
    """
    if mesh is not None:
        for unit in (*_blocks(model), model):
            shard_unit(unit, mesh)
    return model


def shard_parts(model: Any, mesh: DeviceMesh | None) -> None:
    """Shard a frozen model of which parts are called as well: what is around the blocks is gathered layer by layer.

    A head that is tied to the embeddings gets weights of its own, for the two are gathered apart.

    Raises:
        ModelError: transformers does not say what the model's blocks are.
    """
    if mesh is None:
        return
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    blocks = _blocks(model)
    within = {id(module) for block in blocks for module in block.modules()}
    around = [m for m in model.modules() if id(m) not in within and list(m.parameters(recurse=False))]
    for unit in (*blocks, *around, model):
        shard_unit(unit, mesh)


def shard_unit(module: Any, mesh: DeviceMesh | None) -> Any:
    """Let a module gather its weights when it is called, and let them go after; units within it see to theirs."""
    if mesh is not None:
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        # Gloo sums where NCCL would average (pytorch issue 162338): both are told to sum.
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)
        module.set_reduce_scatter_unused_params(True)  # an expert may be used in one process and not in another
    return module


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Inside, every process holds all weights of a model, and passes need not be as many in each; a collective.

    Args:
        model: sharded or not; or a role on a shared backbone (`rlhf.rl.adapters.Role`).
    """
    # Which adapter learns is noted at the sharded weights, so it is switched on while they are what the model has.
    module = model if isinstance(model, nn.Module) else model.switched_on()
    units = [unit for unit in module.modules() if isinstance(unit, FSDPModule)]
    for unit in units:
        unit.unshard()
        unit.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(True, recurse=False)
            unit.reshard()


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor; all of it where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """All of a tensor, on the CPU where it had to be gathered for that; then it is a collective."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, cut as another one of its shape is; no collective."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def num_parts(parameters: Iterable[Tensor]) -> int:
    """Into how many parts parameters are cut; 1 where they are whole."""
    first = next(iter(parameters))
    return first.device_mesh.size(first.device_mesh.ndim - 1) if isinstance(first, DTensor) else 1


def _processes_per_host() -> int:
    found: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(found, int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size())))
    per_host = found[0]
    if set(found) != {per_host}:
        raise ConfigError(
            f"compute.sharding is node, but the hosts have {sorted(set(found))} processes; start as many on each"
        )
    if per_host == 1:
        raise ConfigError(
            "compute.sharding is node, which shards among the processes of a host, but each host has one, so it would "
            "be ignored; start more on each, or set compute.sharding to full"
        )
    return per_host


def _blocks(model: Any) -> list[nn.Module]:
    """The blocks of a transformers model, which it names for those who place them on several devices."""
    modules = list(model.modules())
    names = {name for module in modules for name in getattr(module, "_no_split_modules", None) or ()}
    blocks = [module for module in modules if type(module).__name__ in names]
    if not blocks:
        raise ModelError(
            f"a {type(model).__name__} cannot be sharded: transformers does not say what its blocks are; set "
            f"compute.sharding to none, or give a model of another family"
        )
    return blocks
