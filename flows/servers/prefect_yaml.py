"""prefect.yaml, made from the recipes in configs/ and the table of stages: `make prefect.yaml` writes it.

`rlhf up` registers what the file says, and so does `prefect deploy --all` where PREFECT_API_URL names a server.
Recipes that a person adds to configs/ are deployments of `rlhf up` too, and change no file of the project.
"""

from collections.abc import Mapping
from itertools import starmap
from pathlib import Path
from typing import Any

import prefect
import yaml

from flows.servers.flow_runs import POOL
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError
from rlhf.paths import root, source_root
from rlhf.services.schedule import Schedule
from rlhf.stages import pipeline_stages

_HEADER = """\
# Deployments, written by `make prefect.yaml`: change configs/, rlhf/stages.py or flows/servers/prefect_yaml.py instead.
# `rlhf up` registers all of them; so does `prefect deploy --all` where PREFECT_API_URL names a server. What the form
# then asks for is the whole recipe; what is left as it is costs nothing, since a stage that has not changed is not run
# again.
"""
_COMMIT = "{{ commit.stdout }}"
# The project's own recipes: the deployment of one has the recipe's name, but for `hh`.
_RECIPES = {
    "demo": ("demo", "cpu", "Align the embedded default, calibrated arithmetic: minutes on two cores."),
    "smoke": ("smoke", "cpu", "Every stage in seconds, to see that all is in place. Nothing is learned."),
    "dpo": ("dpo", "cpu", "The embedded default by DPO: from the pairs themselves."),
    "kto": ("kto", "cpu", "The embedded default by KTO: from responses that are wanted or not."),
    "best-of-n": (
        "best-of-n",
        "cpu",
        "The embedded default by best-of-n: from the best of the policy's own responses.",
    ),
    "stories": (
        "stories",
        "cpu",
        "Stories that a pretrained base writes itself, labelled by a rule that reads text. Name it in model.base.",
    ),
    "hh": ("dialogues", "cpu", "Data of your own with a small base model, on a CPU. Name the model in model.base."),
    "gpu": ("gpu", "gpu", "Data of your own with a model of the hub, on one CUDA device."),
}
_TAKEN = {"seeds", "reproduce", "nightly", "dialogues", *(stage.command for stage in pipeline_stages())}
"""Names of other deployments."""
_SEEDS = (
    "The demo with several seeds, one after the other, and what it comes to over them. Any recipe can be filled in."
)
_REPRODUCE = "Make a run again from its MLflow run id, and say whether it came out the same to the bit."
_NIGHTLY = "Retrain where there is new data or feedback, and promote what is better. Ends at once where nothing is new."


class _Dumper(yaml.SafeDumper):
    """A recipe that stands in several deployments is written once, and named."""

    def generate_anchor(self, node: yaml.MappingNode) -> str:
        """The recipe's name."""
        return next(str(value.value) for key, value in node.value if key.value == "name")


def prefect_yaml(own: Mapping[str, PipelineConfig] | None = None, schedule: Schedule | None = None) -> str:
    """The file's text.

    Args:
        own: recipes of a person, by the names of their files.
        schedule: when to retrain, and with which recipe; None for never.

    Raises:
        ConfigError: the scheduled recipe cannot be read.
    """
    folder = source_root() / "configs"
    recipes = {name: yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in _RECIPES}
    commit = {"id": "commit", "script": "git describe --always --dirty", "stream_output": False}
    content = {
        "name": "rlhf-pipeline",
        "prefect-version": prefect.__version__,
        "build": [{"prefect.deployments.steps.run_shell_script": commit}],
        "deployments": [*_deployments(recipes, schedule), *starmap(_own_deployment, (own or {}).items())],
    }
    return _HEADER + yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120)


def own_recipes() -> tuple[dict[str, PipelineConfig], list[ConfigError]]:
    """The recipes that a person has put into configs/, and what is wrong with others."""
    found: dict[str, PipelineConfig] = {}
    errors: list[ConfigError] = []
    folders = dict.fromkeys(folder / "configs" for folder in (root(), source_root()))
    for file in (file for folder in folders for file in sorted(folder.glob("*.yaml"))):
        if file.stem not in {*_RECIPES, *found}:
            try:
                found[file.stem] = load_config(file)
            except ConfigError as error:
                errors.append(error)
    return found, errors


def _own_deployment(name: str, config: PipelineConfig) -> dict[str, Any]:
    device = "gpu" if config.compute.device == "cuda" else "cpu"
    settings = config.model_dump(mode="json", exclude_unset=True)
    text = f"The recipe configs/{name}.yaml."
    return _deployment(
        f"{name}-recipe" if name in _TAKEN else name,
        text,
        "pipeline.rlhf_pipeline",
        ["pipeline", device],
        {"config": settings},
    )


def _deployments(recipes: dict[str, Any], schedule: Schedule | None) -> list[dict[str, Any]]:
    demo = recipes["demo"]
    pipelines = [
        _deployment(name, text, "pipeline.rlhf_pipeline", ["pipeline", device], {"config": recipes[recipe]})
        for recipe, (name, device, text) in _RECIPES.items()
    ]
    stages = [
        _deployment(stage.command, stage.summary_alone, f"stages.{stage.name}_stage", ["stage"], {"config": demo})
        for stage in pipeline_stages()
    ]
    nightly = _deployment("nightly", _NIGHTLY, "retrain.retrain", ["retrain"], {"config": demo, "retrain": {}}) | {
        # Off until `rlhf schedule` names a recipe and a time.
        "schedules": [{"cron": "0 2 * * *", "timezone": "UTC", "active": False}],
        "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
    }
    if schedule is not None:
        settings = load_config(Path(schedule.recipe)).model_dump(mode="json", exclude_unset=True)
        nightly["parameters"] = {"config": settings, "retrain": schedule.retrain}
        nightly["schedules"] = [{"cron": schedule.cron, "timezone": schedule.timezone, "active": True}]
    return [
        *pipelines,
        _deployment("seeds", _SEEDS, "seeds.run_seeds", ["pipeline", "cpu"], {"config": demo}),
        *stages,
        _deployment("reproduce", _REPRODUCE, "reproduce.reproduce", ["reproduce"], {}),
        nightly,
    ]


def _deployment(
    name: str, description: str, function: str, tags: list[str], parameters: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "entrypoint": f"flows.{function}",
        "tags": tags,
        "version": _COMMIT,
        "work_pool": {"name": POOL},
        "parameters": parameters,
    }


if __name__ == "__main__":
    (source_root() / "prefect.yaml").write_text(prefect_yaml(), encoding="utf-8")
