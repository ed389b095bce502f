"""The registered model of policies, and how one becomes the candidate."""

import functools
from collections.abc import Mapping

from mlflow.exceptions import MlflowException

from rlhf.references import Reference
from rlhf.tracking.client import client, retry_while_unavailable

REGISTERED_MODEL = "rlhf-policy"
LONGEST_DESCRIPTION = 5000
"""MLflow's column has no room for more."""


def register_policy(reference: Reference) -> str:
    """Register a policy as `rlhf-policy` and give it the alias `candidate`. The same content gets no second version.

    Returns:
        The version.
    """
    return retry_while_unavailable(lambda: _register(reference))


def describe_version(version: str, tags: Mapping[str, str], description: str) -> None:
    """Say on the page of a version what it is, in place of what was said before.

    Args:
        version: of the registered policy.
        tags: recipe, base, data, figures.
        description: Markdown; at most `LONGEST_DESCRIPTION` characters.
    """
    retry_while_unavailable(lambda: client().update_model_version(REGISTERED_MODEL, version, description))
    for name, value in tags.items():
        retry_while_unavailable(
            functools.partial(client().set_model_version_tag, REGISTERED_MODEL, version, name, value)
        )


def _register(reference: Reference) -> str:
    try:
        client().create_registered_model(REGISTERED_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client().search_model_versions(f"name = '{REGISTERED_MODEL}'")
    known = [version.version for version in versions if version.tags.get("sha256") == reference.sha256]
    version = (
        known[0]
        if known
        else client()
        .create_model_version(
            REGISTERED_MODEL, reference.uri, run_id=reference.run_id, tags={"sha256": reference.sha256}
        )
        .version
    )
    client().set_registered_model_alias(REGISTERED_MODEL, "candidate", version)
    return str(version)
