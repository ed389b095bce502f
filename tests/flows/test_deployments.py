"""prefect.yaml: every deployment's parameters are what its flow takes."""

import asyncio
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.servers.deployments import is_as_asked, make_deployments, register, set_up
from flows.servers.prefect_yaml import own_recipes, prefect_yaml
from rlhf.stages import pipeline_stages
from tasks.form import read_form

ROOT = Path(__file__).parents[2]
FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = FILE["deployments"]
STAGES = {stage.command for stage in pipeline_stages()}


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


def test_is_what_the_recipes_and_the_table_of_stages_make():
    assert (ROOT / "prefect.yaml").read_text() == prefect_yaml(), "`make prefect.yaml` writes it"


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


@pytest.mark.slow
def test_prefects_own_command_registers_the_same(prefect_server: str, client_environment: dict[str, str]):
    """With what a person types who has a server elsewhere; the names of a flow with a schedule and of two without."""
    made = make_deployments()
    requests = {request["name"]: request for _, request in made.requests}
    chosen = ("nightly", "demo", "reproduce")

    async def read() -> dict[str, DeploymentResponse]:
        async with get_client() as client:
            return {one.name: one for one in await client.read_deployments(limit=200)}

    asyncio.run(set_up())
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *(f"--name={name}" for name in chosen)]
    subprocess.run(command, cwd=ROOT, env=os.environ | client_environment, check=True, capture_output=True)
    by_command = asyncio.run(read())
    assert all(is_as_asked(by_command[name], requests[name]) for name in chosen)
    asyncio.run(register(made))
    registered = asyncio.run(read())
    left_alone = all(registered[name].updated == by_command[name].updated for name in chosen)
    assert left_alone, "they are as asked"
    assert all(is_as_asked(registered[name], request) for name, request in requests.items())
    assert not is_as_asked(registered["nightly"], requests["nightly"] | {"schedules": []})
    assert not is_as_asked(registered["nightly"], requests["nightly"] | {"concurrency_limit": None})


def test_there_is_a_deployment_for_every_stage_alone():
    assert {deployment["name"] for deployment in DEPLOYMENTS} >= STAGES


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_each_is_described_tagged_versioned_and_on_the_pool(deployment: dict[str, Any]):
    assert deployment["description"].endswith(".")
    assert deployment["tags"]
    assert deployment["version"] == "{{ commit.stdout }}"
    assert deployment["work_pool"]["name"] == "rlhf"


@pytest.mark.parametrize(
    ("filled", "taken"),
    [
        ({}, True),
        ({"seeds": [7, 11]}, True),
        ({"seeds": None, "num_seeds": 3}, True),
        ({"seeds": []}, True),
        ({"seeds": [-1, 2]}, False),
        ({"seeds": ["eleven"]}, False),
        ({"num_seeds": 1}, False),
    ],
)
def test_the_form_of_several_seeds(filled: dict[str, Any], taken: bool):
    (deployment,) = (one for one in DEPLOYMENTS if one["name"] == "seeds")
    schema = parameter_schema(flow_of(deployment)).model_dump_for_openapi()
    errors = validate(deployment["parameters"] | filled, schema, raise_on_error=False)
    assert (not errors) == taken


def test_a_recipe_that_a_person_adds_is_a_deployment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("name: mine\nrl: {kl_coef: 0.2}\ncompute: {device: cuda}\n")
    (tmp_path / "configs" / "data.yaml").write_text("name: other\n")
    (tmp_path / "configs" / "wrong.yaml").write_text("rl: {kl_coeff: 0.2}\n")
    own, (error,) = own_recipes()
    assert "kl_coeff" in str(error)
    written = {one["name"]: one for one in yaml.safe_load(prefect_yaml(own))["deployments"]}
    assert set(written) - {one["name"] for one in FILE["deployments"]} == {"mine", "data-recipe"}
    assert written["mine"]["parameters"] == {"recipe": "mine"}
    assert read_form("mine").rl.kl_coef == 0.2
    assert "mine" in parameter_schema(flow_of(written["seeds"])).properties["recipe"]["enum"]
    assert written["mine"]["tags"] == ["pipeline", "gpu"]
    assert written["data"]["entrypoint"].endswith("data_stage"), "the stage keeps its name"
