"""prefect.yaml: every deployment's recipe is the one in configs/, and its parameters are what its flow takes."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

ROOT = Path(__file__).parents[2]
FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = FILE["deployments"]
STAGES = {"data", "sft", "reward-model", "reward-audit", "ppo", "evaluation", "model-card"}


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


@pytest.mark.parametrize("recipe", ["demo", "smoke", "hh", "gpu"])
def test_recipes_are_those_of_the_configuration_folder(recipe: str):
    assert FILE["definitions"][recipe] == yaml.safe_load((ROOT / "configs" / f"{recipe}.yaml").read_text())


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_parameters_are_what_the_flow_takes(deployment: dict[str, Any]):
    """An invalid default would reset every parameter of a deployment without a word."""
    flow = flow_of(deployment)
    required = [
        name
        for name, parameter in inspect.signature(flow.fn).parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in deployment["parameters"]
    ]
    # What only the person who starts it can know.
    assert all(name.endswith("_run") for name in required)
    filled = deployment["parameters"] | dict.fromkeys(required, "0123")
    validate(filled, parameter_schema(flow).model_dump_for_openapi(), raise_on_error=True)
    flow.validate_parameters(filled)


def test_there_is_a_deployment_for_every_stage_alone():
    assert {deployment["name"] for deployment in DEPLOYMENTS} >= STAGES


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_each_is_described_tagged_versioned_and_on_the_pool(deployment: dict[str, Any]):
    assert deployment["description"].endswith(".")
    assert deployment["tags"]
    assert deployment["version"] == "{{ commit.stdout }}"
    assert deployment["work_pool"]["name"] == "rlhf"
