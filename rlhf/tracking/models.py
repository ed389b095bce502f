"""Registered policies: one registered model for each recipe, of the recipe's name, and how a policy becomes a version.

What this project has registered bears a tag: a store may hold models of other people's making.
"""

import functools
from collections.abc import Mapping

from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from rlhf.errors import ConfigError
from rlhf.references import SHARED_MODEL, Reference
from rlhf.tracking.client import client, retry_while_unavailable
from rlhf.tracking.records import POLICY
from rlhf.tracking.tags import KIND_TAG

LONGEST_DESCRIPTION = 5000
"""MLflow's column has no room for more."""
_MOST_MODELS = 1000


def registered_models() -> list[RegisteredModel]:
    """The registered models that policies are versions of, with their tags and aliases."""
    conditions = (f"name = '{SHARED_MODEL}'", f"tags.`{KIND_TAG}` = '{POLICY}'")
    found = [
        model
        for condition in conditions
        for model in retry_while_unavailable(
            functools.partial(client().search_registered_models, condition, max_results=_MOST_MODELS)
        )
    ]
    return list({model.name: model for model in found}.values())


def check_recipe_name(recipe: str) -> None:
    """Refuse a recipe whose name a registered model of somebody else has.

    Raises:
        ConfigError: there is such a model in the MLflow store.
    """
    models = retry_while_unavailable(lambda: client().search_registered_models(f"name = '{recipe}'"))
    if models and models[0].tags.get(KIND_TAG) != POLICY:
        owner = "of all recipes of before" if recipe == SHARED_MODEL else "that no recipe has made"
        raise ConfigError(
            f"name is {recipe}, and this MLflow store has a registered model {recipe} {owner}; give the recipe another "
            "name, or set registered to false"
        )


def register_policy(reference: Reference, recipe: str, *, candidate: bool = True) -> str:
    """Register a recipe's policy. The same content gets no second version.

    Args:
        reference: the policy's folder.
        recipe: name of the recipe, and of the registered model.
        candidate: whether the version gets the alias `candidate`.

    Returns:
        The version, as `RECIPE/NUMBER`.

    Raises:
        ConfigError: somebody else has a registered model of that name.
    """
    check_recipe_name(recipe)
    return retry_while_unavailable(lambda: _register(reference, recipe, candidate))


def describe_version(version: str, tags: Mapping[str, str], description: str) -> None:
    """Say on the page of a version what it is, in place of what was said before.

    Args:
        version: of a registered policy.
        tags: recipe, base, data, figures.
        description: Markdown; at most `LONGEST_DESCRIPTION` characters.
    """
    model, number = version.split("/")
    retry_while_unavailable(lambda: client().update_model_version(model, number, description))
    for name, value in tags.items():
        retry_while_unavailable(functools.partial(client().set_model_version_tag, model, number, name, value))


def _register(reference: Reference, recipe: str, candidate: bool) -> str:
    try:
        client().create_registered_model(recipe, tags={KIND_TAG: POLICY})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client().search_model_versions(f"name = '{recipe}'")
    known = [version.version for version in versions if version.tags.get("sha256") == reference.sha256]
    version = (
        known[0]
        if known
        else client()
        .create_model_version(recipe, reference.uri, run_id=reference.run_id, tags={"sha256": reference.sha256})
        .version
    )
    if candidate:
        client().set_registered_model_alias(recipe, "candidate", version)
    return f"{recipe}/{version}"
