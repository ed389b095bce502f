"""The registered model of policies, and how one becomes the candidate."""

from mlflow.exceptions import MlflowException

from rlhf.references import Reference
from rlhf.tracking.client import client, retry_while_unavailable

REGISTERED_MODEL = "rlhf-policy"


def register_policy(reference: Reference) -> str:
    """Register a policy as `rlhf-policy` and give it the alias `candidate`. The same content gets no second version.

    Returns:
        The version.
    """
    return retry_while_unavailable(lambda: _register(reference))


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
