"""Checkpoints of a run: everything that it needs to go on as if it had never stopped.

A checkpoint is a folder that is written under a temporary name, synced and renamed, so one that bears its name is
whole. Prompts, noise, minibatch order and learning rates are functions of seed and update, so no generator's state is
part of it.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from rlhf.errors import ArtifactMismatchError
from rlhf.files.atomic import new_folder
from rlhf.files.hashing import altered_files
from rlhf.files.manifest import hash_files
from rlhf.files.tidying import tidy_up
from rlhf.policy import distributed as processes
from rlhf.policy.best_checkpoint import CheckpointError, ChoiceState, explain_write_errors
from rlhf.policy.sharding import gathered, part_like
from rlhf.rl.context import Optimizers
from rlhf.rl.models import Models, Parameters

NamedTensors = Iterator[tuple[str, Tensor]]
NUM_KEPT = 2
_STATE = "state.json"


@dataclass(frozen=True)
class TrainerState(ChoiceState):
    """State of a run beside the tensors.

    Attributes:
        next_update: the update to go on with.
        kl_coef: the KL controller's coefficient.
        moments: count, mean and squares of each source's scores, by name.
    """

    next_update: int = 0
    kl_coef: float = 0.0
    moments: dict[str, dict[str, float]] = field(default_factory=dict)


def save_checkpoint(
    folder: Path, state: TrainerState, models: Models, optimizers: Optimizers, settings: Mapping[str, Any]
) -> Path:
    """Write `folder/update_NNNN` and remove all but the newest two.

    Every process takes part, which gathers what is sharded, and the first one writes.

    Args:
        folder: of all checkpoints.
        state: what is not in the tensors.
        models: those that learn.
        optimizers: theirs.
        settings: the run's, as JSON; a run with others does not go on from here.

    Raises:
        CheckpointError: it cannot be written, for instance because the disk is full; earlier ones are as they were.
    """
    final = folder / f"update_{state.next_update:06d}"
    if not processes.is_first():
        for tensors in _tensors(models, optimizers).values():
            deque(tensors, maxlen=0)
        return final
    with explain_write_errors(f"the checkpoint {final}", checkpoint_name(folder)), new_folder(final) as temporary:
        for name, tensors in _tensors(models, optimizers).items():
            save_file(dict(tensors), temporary / name)
        words = {"state": asdict(state), "settings": settings, "sha256": hash_files(temporary)}
        (temporary / _STATE).write_text(json.dumps(words | {"own_sha256": _words_sha256(words)}))
    for old in sorted(folder.glob("update_??????"))[:-NUM_KEPT]:
        tidy_up(old)
    return final


def needed_bytes(models: Models) -> int:
    """Bytes that a run's checkpoints take at most, the unfinished checkpoint included, and three whole policies."""
    trained = [*models.policy_parameters.values(), *models.value_parameters.values()]
    weights_and_moments: int = 3 * sum(4 * parameter.numel() for parameter in trained)
    backbone = getattr(models.policy, "part", models.policy)  # of a role on a shared one
    policy: int = sum(4 * parameter.numel() for parameter in backbone.parameters())
    return (NUM_KEPT + 1) * weights_and_moments + 3 * policy


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one."""
    return max(folder.glob("update_??????"), default=None)


def checkpoint_name(folder: Path) -> str | None:
    """The name of the newest checkpoint, if there is one."""
    path = latest_checkpoint(folder)
    return None if path is None else path.name


def last_saved_update(folder: Path) -> int | None:
    """Updates that the newest checkpoint has, if there is one."""
    name = checkpoint_name(folder)
    return None if name is None else int(name.removeprefix("update_"))


def load_checkpoint(path: Path, models: Models, optimizers: Optimizers, settings: Mapping[str, Any]) -> TrainerState:
    """Put the saved tensors into models and optimizers.

    Raises:
        CheckpointError: it is of a run with other settings.
        ArtifactMismatchError: a file is not what was written.
    """
    try:
        words = json.loads((path / _STATE).read_text())
        expected = words.pop("own_sha256")
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ArtifactMismatchError(
            f"{path / _STATE} cannot be read ({error}); remove {path} and start again"
        ) from error
    altered = [path / _STATE] if _words_sha256(words) != expected else altered_files(path, words["sha256"])
    if altered:
        raise ArtifactMismatchError(
            f"{altered[0]} is missing or is not what was written; remove {path} and start again"
        )
    _refuse_other_settings(path, words["settings"], settings)
    _load_weights(models.policy_parameters, load_file(path / "policy.safetensors"))
    _load_moments(optimizers.policy, load_file(path / "policy_optimizer.safetensors"))
    if optimizers.value is not None:
        _load_weights(models.value_parameters, load_file(path / "value_model.safetensors"))
        _load_moments(optimizers.value, load_file(path / "value_optimizer.safetensors"))
    return TrainerState(**words["state"])


def _tensors(models: Models, optimizers: Optimizers) -> dict[str, NamedTensors]:
    tensors = {
        "policy.safetensors": _weights(models.policy_parameters),
        "policy_optimizer.safetensors": _moments(optimizers.policy),
    }
    if optimizers.value is not None:
        tensors["value_model.safetensors"] = _weights(models.value_parameters)
        tensors["value_optimizer.safetensors"] = _moments(optimizers.value)
    return tensors


def _weights(parameters: Parameters) -> NamedTensors:
    for name, parameter in parameters.items():
        yield name, gathered(parameter.detach()).contiguous()


def _load_weights(parameters: Parameters, saved: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(part_like(saved[name], parameter))


def _moments(optimizer: Optimizer) -> NamedTensors:
    """AdamW's step and moments as `INDEX.NAME`; empty before the first step."""
    for index, entry in optimizer.state_dict()["state"].items():
        for name, tensor in entry.items():
            yield f"{index}.{name}", gathered(tensor).contiguous()


def _load_moments(optimizer: Optimizer, saved: Mapping[str, Tensor]) -> None:
    parameters: list[Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in saved.items():
        index, name = key.split(".")
        held = part_like(tensor, parameters[int(index)]) if name != "step" else tensor
        state.setdefault(int(index), {})[name] = held
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _refuse_other_settings(path: Path, saved: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    different = sorted(name for name in {*saved, *settings} if saved.get(name) != settings.get(name))
    if different:
        name = different[0]
        raise CheckpointError(
            f"{path} is a checkpoint of another configuration: {', '.join(different)} differ ({name} was "
            f"{saved.get(name)!r} and is {settings.get(name)!r}); start in another folder, or give the settings it was "
            f"written with"
        )


def _words_sha256(words: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
