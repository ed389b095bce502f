"""The whole pipeline on configs/smoke.yaml: a real Prefect server, MLflow store and DVC repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort

from flows import forms, stages
from flows.pipeline import rlhf_pipeline
from rlhf.chat.policies import find_policy
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError, DataError, InputError
from rlhf.references import PipelineReport
from rlhf.runs.audit.target import find_target
from rlhf.runs.audit.verify import verify
from rlhf.runs.note import noted
from rlhf.tracking.client import EXPERIMENT, tracking_uri

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "configs" / "smoke.yaml"
STAGES = ["data", "sft", "reward_model", "reward_audit", "policy", "evaluation", "model_card"]

pytestmark = pytest.mark.usefixtures("prefect_server")


def config(**settings: object) -> PipelineConfig:
    return load_config(SMOKE, {"registered": True, "compute.num_threads": 1, **settings})


def states(report: PipelineReport) -> dict[str, str]:
    return {stage.name: stage.state for stage in report.stages}


def versions(client: MlflowClient) -> dict[str, str]:
    return {v.version: v.tags["sha256"] for v in client.search_model_versions("name = 'smoke'")}


CACHED_RUN = """
import sys
from pathlib import Path
from rlhf.config.loading import load_config
from flows.pipeline import rlhf_pipeline
report = rlhf_pipeline(load_config(Path(sys.argv[1]), {"registered": True, "compute.num_threads": 1}))
print({stage.state for stage in report.stages})
print({"torch", "transformers", "trl", "datasets"} & set(sys.modules))
"""


def test_all_stages_then_none_then_those_behind_a_changed_setting(
    embedded_project: Path, client_environment: dict[str, str]
):
    first = rlhf_pipeline(config())
    assert states(first) == dict.fromkeys(STAGES, "trained")
    assert list(states(first)) == STAGES

    second = rlhf_pipeline(config())
    assert states(second) == dict.fromkeys(STAGES, "cached")
    assert [stage.run_id for stage in second.stages] == [stage.run_id for stage in first.stages]
    assert second.policy_path == first.policy_path
    assert {k: v for k, v in second.metrics.items() if not k.endswith("/seconds")} == {
        k: v for k, v in first.metrics.items() if not k.endswith("/seconds")
    }

    third = rlhf_pipeline(config(**{"rl.kl_coef": 0.3}))
    assert states(third) == dict.fromkeys(STAGES[:4], "cached") | dict.fromkeys(STAGES[4:], "trained")

    check_registry(first, third)
    check_cached_in_another_process(client_environment)
    check_policy_folder(first)
    check_parent(first, second)
    check_stages_alone(first)
    check_answers(first)


def check_cached_in_another_process(environment: dict[str, str]) -> None:
    """All is found, and nothing that trains is imported."""
    command = [sys.executable, "-c", CACHED_RUN, str(SMOKE)]
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert run.stdout == "{'cached'}\nset()\n", run.stderr
    assert run.stderr == ""


def check_policy_folder(report: PipelineReport) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(report.policy_path)
    AutoTokenizer.from_pretrained(report.policy_path)
    card = Path(report.model_card).read_text()
    assert report.run_id in card
    assert all(stage.run_id in card for stage in report.stages[:-1])


def check_parent(trained: PipelineReport, cached: PipelineReport) -> None:
    client = MlflowClient(tracking_uri())
    parents = [client.get_run(report.run_id) for report in (trained, cached)]
    for parent in parents:
        assert parent.info.status == "FINISHED"
        assert parent.data.params["rl.kl_coef"] == "0.1"
        assert {tag.split(".")[-1] for tag in parent.data.tags if tag.startswith("rlhf.run.")} == set(STAGES)
        assert {f"{stage}/seconds" for stage in STAGES} <= set(parent.data.metrics)
        assert {f"{stage}/trained_seconds" for stage in STAGES} <= set(parent.data.metrics)
        (data,) = parent.inputs.dataset_inputs
        assert data.dataset.digest == parent.data.tags["rlhf.data_md5"]
        assert data.dataset.digest.endswith(".dir")
    assert "evaluation/win_rate" in parents[1].data.metrics
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}


def check_registry(first: PipelineReport, third: PipelineReport) -> None:
    client = MlflowClient(tracking_uri())
    assert len(versions(client)) == len(set(versions(client).values())) == 2
    candidate = client.get_model_version_by_alias("smoke", "candidate")
    assert candidate.run_id == third.stages[-1].run_id
    assert {name: candidate.tags[name] for name in ("recipe", "base", "run")} == {
        "recipe": "smoke",
        "base": "random weights",
        "run": third.run_id,
    }
    assert float(candidate.tags["kl"]) == pytest.approx(third.metrics["evaluation/kl"], rel=1e-3, abs=1e-9)
    assert candidate.description.startswith("**")
    card = Path(client.download_artifacts(third.run_id, "card/README.md")).read_text()
    assert card.startswith("# ")
    assert "card/figures/scores.png" in {file.path for file in client.list_artifacts(third.run_id, "card/figures")}
    rlhf_pipeline(config())
    assert len(versions(client)) == 2
    trial = rlhf_pipeline(config(registered=False))
    assert len(versions(client)) == 2
    assert "rlhf.policy_version" not in client.get_run(trial.run_id).data.tags
    target = find_target(trial.run_id)
    assert target.version is None
    assert verify(target).sound
    assert str(find_policy(trial.run_id).folder) == trial.policy_path
    assert client.get_model_version_by_alias("smoke", "candidate").run_id == first.stages[-1].run_id
    check_gates(client, first)


def check_gates(client: MlflowClient, first: PipelineReport) -> None:
    """A policy that a gate refuses is registered, and is no candidate; card, MLflow and Prefect say why."""
    with pytest.raises(ConfigError, match="there is no figure evaluation/los; the nearest one"):
        rlhf_pipeline(config(gates=[{"figure": "evaluation/los", "at_most": 1}]))
    limits = [{"figure": "evaluation/win_rate", "at_least": 1}, {"figure": "evaluation/kl", "at_most": 1e9}]
    refused = rlhf_pipeline(config(gates=limits))
    assert [gate.held for gate in refused.gates] == [False, True]
    assert refused.refused is not None
    assert "refused by the recipe's gates: evaluation/win_rate of " in refused.refused
    tags = client.get_run(refused.run_id).data.tags
    assert (tags["rlhf.policy_version"], tags["rlhf.refused"]) == ("smoke/3", refused.refused)
    assert "refused by the recipe" in tags["mlflow.note.content"]
    card = Path(refused.model_card).read_text()
    assert "| `evaluation/win_rate` | at least 1 |" in card
    assert "refused by the recipe" in card[: card.index("## Use")]
    assert client.get_model_version_by_alias("smoke", "candidate").run_id == first.stages[-1].run_id


def check_answers(report: PipelineReport) -> None:
    """Those of every held-out evaluation are a table of PPO's page in MLflow."""
    run = next(stage.run_id for stage in report.stages if stage.name == "policy")
    client = MlflowClient(tracking_uri())
    assert '"answers.json"' in client.get_run(run).data.tags["mlflow.loggedArtifacts"]
    table = json.loads(Path(client.download_artifacts(run, "answers.json")).read_text())
    assert table["columns"][:3] == ["update", "prompt", "response"]
    assert {row[0] for row in table["data"]} == {0, 2, 4}
    assert all(row[1].endswith("?") or row[1].endswith(".") for row in table["data"])


def check_stages_alone(report: PipelineReport) -> None:
    """Every stage on the outputs of the pipeline run, named by its id or by the stages' own."""
    run, of = report.run_id, {stage.name: stage.run_id for stage in report.stages}
    alone = [
        stages.data_stage(config()),
        stages.sft_stage(config(), run),
        stages.reward_model_stage(config(), of["data"], of["sft"]),
        stages.reward_audit_stage(config(), run, of["reward_model"]),
        stages.policy_stage(config(), run, run, run),
        stages.evaluation_stage(config(), run, of["sft"], run, of["policy"]),
        stages.model_card_stage(config(), run, run, run, run).stages[-1],
    ]
    assert [stage.run_id for stage in alone] == [of[name] for name in STAGES]
    with pytest.raises(InputError, match="has no output of the stage sft"):
        stages.policy_stage(config(), run, of["data"], run)


def test_data_that_is_not_there_is_one_error(project_root: Path):
    with pytest.raises(DataError, match=r"data\.dvc: the file is missing"):
        rlhf_pipeline(config(**{"data.embedded": None}))
    client = MlflowClient(tracking_uri())
    (parent,) = client.search_runs(["1"])
    assert parent.info.status == "FAILED"
    assert "data.dvc: the file is missing" in parent.data.tags["rlhf.error"]


@pytest.mark.parametrize("by_form", [True, False])
def test_a_run_is_named_in_prefect_and_mlflow_by_what_differs_from_its_recipe(project_root: Path, by_form: bool):
    overrides = "registered=false rl.kl_coef=0.05 compute.num_threads=1 data.embedded=none"
    form = {"recipe": "smoke", "seed": 7, "note": "A try", "overrides": overrides}
    given = {"config": config(seed=7, registered=False, **{"rl.kl_coef": 0.05, "data.embedded": None})}
    with pytest.raises(DataError), noted("" if by_form else "A try"):
        (forms.pipeline if by_form else rlhf_pipeline)(**(form if by_form else given))
    with get_client(sync_client=True) as prefect:
        run = prefect.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]
    assert run.name == "smoke, embedded none, kl_coef 0.05, num_threads 1, seed 7"
    (parent,) = MlflowClient(tracking_uri()).search_runs(["1"])
    assert parent.info.run_name == run.name
    assert parent.data.tags["rlhf.note"] == "A try"
    parameters = json.loads(json.dumps(run.parameters))
    assert (parameters if by_form else parameters["config"])["seed"] == 7
