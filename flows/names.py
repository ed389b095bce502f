"""How flow runs are named."""

from prefect.runtime import flow_run

from rlhf.provenance import git_state


def flow_run_name() -> str:
    """Recipe and git commit."""
    config = flow_run.parameters["config"]
    name = config["name"] if isinstance(config, dict) else config.name
    return f"{name}-{git_state().short}"
