"""Models from outside, as settings name them: a folder, or an id of the Hugging Face hub.

A branch of the hub moves. A run asks once, at its start, which commit it stands for, and means that from then on.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from rlhf.config import ModelConfig, PipelineConfig, RewardSourceConfig
from rlhf.errors import ConfigError, ModelError, one_line
from rlhf.project import root

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")

_Names = TypeVar("_Names", ModelConfig, RewardSourceConfig)


def is_hub_id(name: str | None) -> bool:
    """Whether a model is named by an id of the hub, and not by a folder."""
    return name is not None and _HUB_ID.fullmatch(name) is not None and not (root() / name).exists()


def base_with_folder(model: ModelConfig) -> ModelConfig:
    """The model with the whole path of its base, where that is a folder below the project's root."""
    return model.model_copy(update={"base": model.base and _whole_path(model.base)})


def source_with_folder(source: RewardSourceConfig) -> RewardSourceConfig:
    """The same for the reward model of a source of scores."""
    return source.model_copy(update={"path": source.path and _whole_path(source.path)})


def check_models(model: ModelConfig | None, sources: Iterable[RewardSourceConfig]) -> None:
    """Refuse at once what a stage would refuse after hours: a model that is not in its folder, or pickled.

    Args:
        model: names the base, or none.
        sources: sources of scores, some of which name reward models.

    Raises:
        ConfigError: it names neither a base nor the shape of a model to build.
        ModelError: a folder is missing, or lacks a tokenizer or safetensors.
    """
    if model is not None and model.base is None and model.architecture is None:
        raise ConfigError(
            "model.base is not set, so there is no language model to start from; name one with --model.base "
            "FOLDER_OR_HUB_ID, or set model.architecture to build a small one with random weights"
        )
    for name in [model.base if model else None, *(source.path for source in sources)]:
        if name is not None:
            check_folder(_whole_path(name), weights=True)


def check_folder(name: str, weights: bool) -> None:
    """Refuse a local model folder early and plainly. A hub id passes.

    Args:
        name: folder or hub id.
        weights: whether safetensors must be there.

    Raises:
        ModelError: the folder is missing, or lacks a tokenizer or safetensors.
    """
    folder = Path(name)
    if not folder.is_dir():
        if _HUB_ID.fullmatch(name) and not folder.parent.is_dir():
            return
        raise ModelError(f"{name}: no such model folder; give a folder, or a hub id such as organization/name")
    if not (folder / "tokenizer_config.json").exists() and not (folder / "tokenizer.json").exists():
        raise ModelError(f"{name}: there is no tokenizer in this model folder; save one there with save_pretrained")
    if not weights or list(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
    if pickled:
        raise ModelError(
            f"{name}: only pickled weights are there ({', '.join(pickled)}), and unpickling runs code; "
            "convert them to safetensors"
        )
    raise ModelError(f"{name}: there are no weights (*.safetensors) in this model folder; give another one")


def at_commits(config: PipelineConfig) -> PipelineConfig:
    """The settings with every model of the hub at the commit that its revision stands for now.

    Raises:
        ModelError: the hub does not have one; or it does not answer, and its local cache does not have it either.
    """
    rewards = tuple(map(source_at_commit, config.ppo.rewards))
    changed = {
        "model": _at_commit(config.model, config.model.base),
        "ppo": config.ppo.model_copy(update={"rewards": rewards}),
    }
    return config.model_copy(update=changed)


def source_at_commit(source: RewardSourceConfig) -> RewardSourceConfig:
    """The same for one source of scores."""
    return _at_commit(source, source.path)


def _whole_path(name: str) -> str:
    folder = root() / name
    return str(folder) if folder.is_dir() else name


def _at_commit(section: _Names, name: str | None) -> _Names:
    revision = section.revision
    if name is None or not is_hub_id(name) or (revision is not None and _COMMIT.fullmatch(revision)):
        return section
    commit = _commit(name, revision)
    logger.info("%s at %s is commit %s", name, revision or "its main branch", commit)
    return section.model_copy(update={"revision": commit})


def _commit(name: str, revision: str | None) -> str:
    """Asked by fetching a small file, so that the hub's cache knows it too, and answers where the hub does not."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    at = f" at {revision}" if revision else ""
    try:
        file = hf_hub_download(name, "config.json", revision=revision)
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name}: there is no such folder, the hub does not answer, and its local cache does not have it{at}; try "
            f"again, or give a folder ({one_line(error.__cause__ or error)})"
        ) from None
    except (HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"{name}: there is no such folder, and the hub does not give such a model{at}; give a folder, or a hub id "
            f"and revision that exist and that you may read ({one_line(error)})"
        ) from None
    return Path(file).parent.name
