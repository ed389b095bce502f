"""The models that a run's settings name, checked as the run starts."""

from collections.abc import Iterable, Iterator

from rlhf.config.model import ModelConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.errors import ConfigError
from rlhf.modeling.checks import check_hub_model, check_model
from rlhf.modeling.headers import Role
from rlhf.modeling.hub import check_model_folder, is_hub_id
from rlhf.paths import root


def check_models(model: ModelConfig | None, sources: Iterable[RewardSourceConfig]) -> None:
    """Refuse at once what a stage would refuse after hours, or train on: a model folder that is not whole and sound.

    Args:
        model: names the base, or none.
        sources: sources of scores, some of which name reward models.

    Raises:
        ConfigError: it names neither a base nor the shape of a model to build.
        ModelError: a folder is missing, or its tokenizer, config or weights are missing, broken, or not of one model.
    """
    if model is not None and model.base is None and model.architecture is None:
        raise ConfigError(
            "model.base is not set, so there is no language model to start from; name one with --model.base "
            "FOLDER_OR_HUB_ID, or set model.architecture to build a small one with random weights"
        )
    for name, _, role in _named(model, sources):
        folder = root() / name
        if folder.is_dir():
            check_model(folder, role)
        else:
            check_model_folder(name)


def check_hub_models(model: ModelConfig | None, sources: Iterable[RewardSourceConfig]) -> None:
    """Refuse models of the hub in the same way; their revisions must be commits.

    Raises:
        ModelError: one is refused, or cannot be had.
    """
    for name, commit, role in _named(model, sources):
        if is_hub_id(name):
            assert commit is not None, "at_commits comes first"
            check_hub_model(name, commit, role)


def _named(model: ModelConfig | None, sources: Iterable[RewardSourceConfig]) -> Iterator[tuple[str, str | None, Role]]:
    """Name, revision and role of each model that the settings name."""
    if model is not None and model.base is not None:
        yield model.base, model.revision, "policy"
    for source in sources:
        if source.path is not None:
            yield source.path, source.revision, "reward_model"
