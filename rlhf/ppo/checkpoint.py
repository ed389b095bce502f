"""Checkpoints of a PPO run: everything that it needs to go on as if it had never stopped.

A checkpoint is a folder that is written under a temporary name, synced and renamed, so one that bears its name is
whole. Prompts, noise, minibatch order and learning rates are functions of seed and update, so no generator's state is
part of it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from rlhf.errors import ArtifactMismatchError
from rlhf.ppo.rollout import Models
from rlhf.ppo.update import Optimizers

NUM_KEPT = 2
_STATE = "state.json"


@dataclass(frozen=True)
class TrainerState:
    """What of a run is not in the tensors.

    Attributes:
        next_update: the update to go on with.
        kl_coef: the KL controller's coefficient.
        evaluations: the held-out evaluations so far, in order.
    """

    next_update: int
    kl_coef: float
    evaluations: list[dict[str, Any]]


def save_checkpoint(folder: Path, state: TrainerState, models: Models, optimizers: Optimizers) -> Path:
    """Write `folder/update_NNNN` and remove all but the newest two.

    Raises:
        OSError: the disk is full, for instance; earlier checkpoints are as they were.
    """
    final = folder / f"update_{state.next_update:06d}"
    temporary = final.with_suffix(".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, tensors in _tensors(models, optimizers).items():
        save_file(tensors, temporary / name)
    hashes = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
    (temporary / _STATE).write_text(json.dumps({"state": asdict(state), "sha256": hashes}))
    publish(temporary, final)
    for old in sorted(folder.glob("update_??????"))[:-NUM_KEPT]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    return max(folder.glob("update_??????"), default=None)


def load_checkpoint(path: Path, models: Models, optimizers: Optimizers) -> TrainerState:
    """Put the saved tensors into models and optimizers.

    Raises:
        ArtifactMismatchError: a file is not what was written.
    """
    saved = json.loads((path / _STATE).read_text())
    for name, expected in saved["sha256"].items():
        if not (path / name).exists() or _sha256(path / name) != expected:
            raise ArtifactMismatchError(
                f"{path / name} is missing or is not what was written; remove {path} and start again"
            )
    _load_parameters(models.policy, load_file(path / "policy.safetensors"))
    _load_parameters(models.value_model, load_file(path / "value_model.safetensors"))
    _load_moments(optimizers.policy, load_file(path / "policy_optimizer.safetensors"))
    _load_moments(optimizers.value, load_file(path / "value_optimizer.safetensors"))
    return TrainerState(**saved["state"])


def publish(temporary: Path, final: Path) -> None:
    """Sync a folder's files to the disk and give it its name, in one step."""
    for path in temporary.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tensors(models: Models, optimizers: Optimizers) -> dict[str, dict[str, Tensor]]:
    return {
        "policy.safetensors": _parameters(models.policy),
        "value_model.safetensors": _parameters(models.value_model),
        "policy_optimizer.safetensors": _moments(optimizers.policy),
        "value_optimizer.safetensors": _moments(optimizers.value),
    }


def _parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def _load_parameters(model: torch.nn.Module, saved: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(saved[name])


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """AdamW's step and moments as `INDEX.NAME`; empty before the first step."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor.contiguous() for index, entry in state.items() for name, tensor in entry.items()}


def _load_moments(optimizer: Optimizer, saved: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
