"""prefect.yaml, made from the names of the recipes and the table of stages: `make prefect.yaml` writes it.

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
from rlhf.config.recipes import recipes
from rlhf.errors import ConfigError
from rlhf.paths import source_root
from rlhf.services.schedule import Schedule
from rlhf.stages import pipeline_stages
from tasks.form import recipe_name

_HEADER = """\
# Deployments, written by `make prefect.yaml`: change rlhf/stages.py or flows/servers/prefect_yaml.py instead.
# `rlhf up` registers all of them; so does `prefect deploy --all` where PREFECT_API_URL names a server.
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
    "overoptimize": (
        "overoptimize",
        "cpu",
        "The embedded default without a KL penalty, four times as long: the policy games its reward model.",
    ),
    "stories": (
        "stories",
        "cpu",
        "Stories that a pretrained base writes itself, labelled by a rule that reads text. Name it in model.base.",
    ),
    "grpo": ("grpo", "cpu", "The embedded default by Dr. GRPO, with a reward by rule in place of the reward model."),
    "instructgpt": (
        "instructgpt",
        "cpu",
        "The embedded default as InstructGPT has it: a prompt's comparisons together, and PPO-ptx.",
    ),
    "online": (
        "online",
        "cpu",
        "The embedded default with three rounds of feedback, by simulated raters, as HH did.",
    ),
    "constitutional": (
        "constitutional",
        "cpu",
        "The embedded default by Constitutional AI: critique and revision, then the labels of a simulated judge.",
    ),
    "llama2": ("llama2", "cpu", "The embedded default in Llama 2's rounds: rejection sampling twice, then PPO."),
    "hh": ("dialogues", "cpu", "Data of your own with a small base model, on a CPU. Name the model in model.base."),
    "gpu": ("gpu", "gpu", "Data of your own with a model of the hub, on one CUDA device."),
}
_TAKEN = {
    "seeds",
    "compare-methods",
    "feedback-ask",
    "feedback-label",
    "feedback-revise",
    "feedback-collect",
    "reproduce",
    "nightly",
    "dialogues",
    *(stage.command for stage in pipeline_stages()),
}
"""Names of other deployments."""
_SEEDS = "The demo with several seeds, one after the other, and what it comes to over them. Any recipe can be chosen."
_METHODS = "The demo by PPO and by RLOO, several seeds of each, and what differs. Any recipe can be chosen."
_ASK = "Ask people to compare answers of a policy, in MLflow's review page."
_LABEL = "Have a model behind an endpoint label a round's comparisons, measured against people first."
_REVISE = "Have a policy's answers criticized and revised by principles, and make demonstrations of that."
_COLLECT = "Make a new version of the data of what people answered."
_REPRODUCE = "Make a run again from its MLflow run id, and say whether it came out the same to the bit."
_NIGHTLY = "Retrain where there is new data or feedback, and promote what is better. Ends at once where nothing is new."


def prefect_yaml(own: Mapping[str, PipelineConfig] | None = None, schedule: Schedule | None = None) -> str:
    """The file's text.

    Args:
        own: recipes of a person, by the names of their files.
        schedule: when to retrain, and with which recipe; None for never.
    """
    commit = {"id": "commit", "script": "git describe --always --dirty", "stream_output": False}
    content = {
        "name": "rlhf-pipeline",
        "prefect-version": prefect.__version__,
        "build": [{"prefect.deployments.steps.run_shell_script": commit}],
        "deployments": [*_deployments(schedule), *starmap(_own_deployment, (own or {}).items())],
    }
    return _HEADER + yaml.safe_dump(content, sort_keys=False, width=120)


def own_recipes() -> tuple[dict[str, PipelineConfig], list[ConfigError]]:
    """The recipes that a person has put into configs/, and what is wrong with others."""
    found: dict[str, PipelineConfig] = {}
    errors: list[ConfigError] = []
    for name, file in recipes().items():
        if name not in _RECIPES:
            try:
                found[name] = load_config(file)
            except ConfigError as error:
                errors.append(error)
    return found, errors


def _own_deployment(name: str, config: PipelineConfig) -> dict[str, Any]:
    device = "gpu" if config.compute.device == "cuda" else "cpu"
    text = f"The recipe configs/{name}.yaml."
    called = f"{name}-recipe" if name in _TAKEN else name
    return _deployment(called, text, "forms.pipeline", ["pipeline", device], {"recipe": name})


def _deployments(schedule: Schedule | None) -> list[dict[str, Any]]:
    demo = {"recipe": "demo"}
    pipelines = [
        _deployment(name, text, "forms.pipeline", ["pipeline", device], {"recipe": recipe})
        for recipe, (name, device, text) in _RECIPES.items()
    ]
    stages = [
        _deployment(stage.command, stage.summary_alone, f"forms.{stage.name}_stage", ["stage"], dict(demo))
        for stage in pipeline_stages()
    ]
    nightly = _deployment("nightly", _NIGHTLY, "forms.nightly", ["retrain"], demo | {"retrain": {}}) | {
        # Off until `rlhf schedule` names a recipe and a time.
        "schedules": [{"cron": "0 2 * * *", "timezone": "UTC", "active": False}],
        "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
    }
    if schedule is not None:
        nightly["parameters"] = {"recipe": recipe_name(Path(schedule.recipe)), "retrain": schedule.retrain}
        nightly["schedules"] = [{"cron": schedule.cron, "timezone": schedule.timezone, "active": True}]
    return [
        *pipelines,
        _deployment("seeds", _SEEDS, "forms.seeds", ["pipeline", "cpu"], dict(demo)),
        _deployment(
            "compare-methods",
            _METHODS,
            "forms.methods",
            ["pipeline", "cpu"],
            {**demo, "methods": ["ppo", "rloo"], "num_seeds": 3},
        ),
        *stages,
        _deployment("feedback-ask", _ASK, "forms.feedback_ask", ["feedback"], {**demo, "ask": {"round": "round-1"}}),
        _deployment(
            "feedback-label",
            _LABEL,
            "feedback.label_feedback",
            ["feedback"],
            {
                "label": {"round": "round-1", "constitution": "constitution.yaml"},
                "judge": {"url": "http://127.0.0.1:8000/v1", "model": "judge"},
            },
        ),
        _deployment(
            "feedback-revise",
            _REVISE,
            "forms.feedback_revise",
            ["feedback"],
            {
                **demo,
                "revise": {"round": "revisions-1", "prompts": "prompts.jsonl", "constitution": "constitution.yaml"},
            },
        ),
        _deployment(
            "feedback-collect", _COLLECT, "feedback.collect_feedback", ["feedback"], {"collect": {"round": "round-1"}}
        ),
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
