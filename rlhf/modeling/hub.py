"""Models from outside, as settings name them: a folder, or an id of the Hugging Face hub.

A branch of the hub moves. A run asks once, at its start, which commit it stands for, and means that from then on.
"""

import logging
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TypeVar

from rlhf.config.model import ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.errors import ModelError, one_line
from rlhf.paths import root

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_Names = TypeVar("_Names", ModelConfig, RewardSourceConfig)


def is_hub_id(name: str | None) -> bool:
    """Whether a model is named by an id of the hub, and not by a folder."""
    return name is not None and _HUB_ID.fullmatch(name) is not None and not (root() / name).exists()


def base_with_folder(model: ModelConfig) -> ModelConfig:
    """The model with the whole path of its base, where that is a folder below the project's root."""
    return model.model_copy(update={"base": model.base and _whole_path(model.base)})


def source_with_folder(source: RewardSourceConfig) -> RewardSourceConfig:
    """The source of scores with the whole path of its reward model."""
    return source.model_copy(update={"path": source.path and _whole_path(source.path)})


def check_model_folder(name: str) -> None:
    """Refuse a local model folder that is not there, or has no tokenizer. A hub id passes.

    Args:
        name: folder or hub id.

    Raises:
        ModelError: it is so.
    """
    folder = Path(name)
    if not folder.is_dir():
        if _HUB_ID.fullmatch(name) and not folder.parent.is_dir():
            return
        raise ModelError(f"{name}: no such model folder; give a folder, or a hub id such as organization/name")
    if not (folder / "tokenizer_config.json").exists() and not (folder / "tokenizer.json").exists():
        raise ModelError(f"{name}: there is no tokenizer in this model folder; save one there with save_pretrained")


def at_commits(config: PipelineConfig) -> PipelineConfig:
    """The settings with every model of the hub at the commit that its revision stands for now, which is asked for once.

    Raises:
        ModelError: the hub does not have one; or it does not answer, and its local cache does not have it either.
    """
    resolve = cache(_commit)
    return config.with_sources(lambda source: _at_commit(source, source.path, resolve)).model_copy(
        update={"model": _at_commit(config.model, config.model.base, resolve)}
    )


def sources_at_commits(sources: Iterable[RewardSourceConfig]) -> tuple[RewardSourceConfig, ...]:
    """Sources of scores with every model of the hub at the commit that its revision stands for now."""
    resolve = cache(_commit)
    return tuple(_at_commit(source, source.path, resolve) for source in sources)


def _whole_path(name: str) -> str:
    folder = root() / name
    return str(folder) if folder.is_dir() else name


def _at_commit(section: _Names, name: str | None, resolve: Callable[[str, str | None], str]) -> _Names:
    revision = section.revision
    if name is None or not is_hub_id(name) or (revision is not None and _COMMIT.fullmatch(revision)):
        return section
    commit = resolve(name, revision)
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
