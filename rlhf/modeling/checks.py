"""The check of a model from outside at a run's start, before anything is prepared or trained.

Names, types and shapes come from the headers of its files each time. What costs an import of transformers, or a pass
over all weights, is done once for the same files, and kept.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rlhf.errors import ModelError
from rlhf.files.hashing import sha256
from rlhf.modeling.files import ModelFiles, hub_files, local_files, readable
from rlhf.modeling.headers import GENERATION_CONFIG, Role, Weight, are_there, read_weights
from rlhf.modeling.verdicts import keep, recall

_VERSION = 2
"""Raised where a model that passed might no longer do so."""

logger = logging.getLogger(__name__)


def check_model(folder: Path, role: Role) -> None:
    """Refuse a model folder that a stage could not load whole, or whose numbers are broken.

    Args:
        folder: an existing one.
        role: what the model is to be.

    Raises:
        ModelError: a file is missing or broken, weights are not those of config.json, or a number is not finite.
    """
    with readable(f"{folder}: its files cannot be read"):
        files = local_files(folder)
        weights = read_weights(files)
        _refuse_without_config(files)
        settings = {name: hashlib.sha256(content).hexdigest() for name, content in files.read_settings().items()}
    headers = {name: [weight.dtype, *weight.shape] for name, weight in weights.items()}
    _once([role, settings, headers], lambda: _check_fit(folder, str(folder), None, weights, role))
    check_finite(folder, str(folder), weights)


def check_hub_model(name: str, commit: str, role: Role) -> None:
    """Refuse a model of the hub in the same way. Of weights that are not on this machine only the headers are fetched.

    Args:
        name: its id.
        commit: which has always the same files.
        role: what the model is to be.

    Raises:
        ModelError: it is not there, or would be refused in a folder.
    """
    _once([role, name, commit], lambda: _check_hub_model(name, commit, role))


def check_finite(folder: Path, name: str, weights: Mapping[str, Weight]) -> None:
    """Refuse weights that are not finite; the same file, and a file of the same content, is read once.

    Args:
        folder: where the files are.
        name: what messages call it.
        weights: what the headers say.

    Raises:
        ModelError: a number is NaN or infinite.
    """
    for file in sorted({weight.file for weight in weights.values()}):
        path = (folder / file).resolve()
        identity = _identity(path)
        if recall("finite-file", identity) is not None:
            continue
        with readable(f"{name}/{file} cannot be read"):
            content = sha256(path)
            if recall("finite", content) is None:
                from rlhf.modeling.finiteness import refuse_not_finite

                refuse_not_finite(folder, name, {n: weight for n, weight in weights.items() if weight.file == file})
                keep("finite", content, True)
        if _identity(path) == identity:
            keep("finite-file", identity, True)


def check_loaded_finite(name: str, revision: str | None) -> None:
    """Refuse a model of the hub that has just been loaded, and so is on this machine, where its weights are not finite.

    Raises:
        ModelError: a number is NaN or infinite.
    """
    from huggingface_hub import hf_hub_download

    with readable(f"{name}: what was loaded of it cannot be read again"):
        folder = Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=True)).parent
        weights = read_weights(local_files(folder, name))
    check_finite(folder, name, weights)


def _check_hub_model(name: str, commit: str, role: Role) -> Sequence[str]:
    from huggingface_hub import hf_hub_download

    with readable(f"{name} at {commit}: its files cannot be had", "look whether the hub answers, or give a folder"):
        folder = Path(hf_hub_download(name, "config.json", revision=commit)).parent
        files = local_files(folder, f"{name} at {commit}")
        is_here = are_there(files)
        if not is_here:
            files = hub_files(name, commit)
        weights = read_weights(files)
        if GENERATION_CONFIG in files.sizes:
            hf_hub_download(name, GENERATION_CONFIG, revision=commit)
    notes = _check_fit(folder, name, commit, weights, role)
    if is_here:
        check_finite(folder, name, weights)
    return notes


def _check_fit(
    folder: Path, name: str, revision: str | None, weights: Mapping[str, Weight], role: Role
) -> Sequence[str]:
    """A tokenizer can be loaded, and the weights are those of config.json."""
    from rlhf.modeling.architecture import check_architecture
    from rlhf.modeling.special_tokens import check_rows
    from rlhf.modeling.tokenizer import load_tokenizer

    notes = check_architecture(folder, name, weights, role)
    tokenizer = load_tokenizer(name, revision)
    # The embedding of a base grows with the tokenizer, a reward model is taken as it is.
    return notes if role == "policy" else [*notes, *check_rows(folder, name, tokenizer)]


def _once(key: object, check: Callable[[], Sequence[str]]) -> None:
    """Check, unless that was done with the same outcome before, and say what the check found worth saying."""
    whole_key = [_VERSION, version("transformers"), key]
    notes = recall("fit", whole_key)
    if notes is None:
        notes = check()
        keep("fit", whole_key, notes)
    for note in notes:
        logger.warning("%s", note)


def _refuse_without_config(files: ModelFiles) -> None:
    if "config.json" not in files.sizes:
        raise ModelError(
            f"{files.name}: there is no config.json, so nothing says what its weights belong to; download it too"
        )


def _identity(path: Path) -> list[object]:
    """Marks of a file, of which every change of it changes at least one."""
    status = path.stat()
    return [str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
