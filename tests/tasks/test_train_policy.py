"""The task of PPO: what of a run is seen in MLflow, with a real store, a real Prefect server and a tiny real run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow.tracking import MlflowClient
from prefect import flow

from rlhf.config.best_of_n import BestOfNConfig
from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import ConfigError, ModelError, StartError
from rlhf.provenance.storage import read_record
from rlhf.references import DatasetRef, DataSource, ModelRef, Reference, RewardModelsRef, StageReport
from rlhf.runs.audit.findings import Ledger
from rlhf.runs.audit.lineage import trace
from rlhf.runs.audit.target import Target
from rlhf.runs.audit.verify import check_stages
from rlhf.runs.reproduction.results import results_of
from rlhf.stages import attempt_names
from rlhf.tracking import artifacts
from rlhf.tracking.client import EXPERIMENT, tracking_uri
from rlhf.tracking.run_details import get_run
from rlhf.tracking.runs import close_run, open_stage
from rlhf.tracking.tags import stage_runs
from tasks.pipeline_run import current, pipeline_run
from tasks.stages import STAGE_TASKS, Outputs
from tasks.train_policy import train_policy

pytestmark = pytest.mark.usefixtures("project_root", "prefect_server")
ARCHITECTURE = ArchitectureConfig(hidden_size=16, num_layers=1, num_heads=2, feed_forward_size=16)
SMALL = {
    "num_updates": 4,
    "rollout_size": 16,
    "num_minibatches": 2,
    "num_critic_warmup_updates": 1,
    "max_response_tokens": 6,
    "evaluate_every": 4,
    "kl_budget": 1e6,
}
MODEL = ModelConfig(architecture=ARCHITECTURE, max_length=24)
COMPUTE = ComputeConfig(num_threads=1, dtype="fp32")
INPUTS = Path()


@flow
def only_policy(config: PipelineConfig) -> StageReport:
    """The policy's stage on inputs that are in the store."""
    with pipeline_run(config) as (run, config):
        source = DataSource(path="data", md5="1", tracked=True)
        data = stored("data", DatasetRef, source=source)
        inputs = {"start": stored("sft", ModelRef), "reward_models": stored("reward_models", RewardModelsRef)}
        train_policy(config.method, config.policy, config.setup, data, **inputs)
        return run.stages[-1]


@flow
def only_rounds(config: PipelineConfig) -> tuple[str, list[StageReport]]:
    """The policy's stage with the rounds before it, as a pipeline has it."""
    with pipeline_run(config) as (run, config):
        made = Outputs(attempt_names(config))
        made.add(stored("data", DatasetRef, source=DataSource(path="data", md5="1", tracked=True)))
        made.add(stored("sft", ModelRef))
        made.add(stored("reward_models", RewardModelsRef))
        STAGE_TASKS["policy"](config, made)
        return run.run_id, run.stages


def stored(name: str, kind: type[Reference], **more: object) -> Any:
    """An input as an earlier stage would have left it."""
    run_id = open_stage(current().run_id, name, "f", {}, {})
    uri, sha256 = artifacts.save_output(run_id, INPUTS / name)
    close_run(run_id, "FINISHED")
    return kind.model_validate({"run_id": run_id, "uri": uri, "sha256": sha256, **more})


@pytest.fixture(autouse=True)
def inputs(tmp_path: Path) -> Path:
    """Prompts, an SFT policy, two reward models."""
    from transformers import LlamaForSequenceClassification

    from rlhf.modeling.models import save_model, start_policy
    from rlhf.modeling.tokenizer import prepare_tokenizer

    global INPUTS
    INPUTS = tmp_path / "inputs"
    setup = PipelineConfig(model=MODEL, compute=COMPUTE).setup
    tokenizer, _ = prepare_tokenizer(MODEL, ["What is 1 + 2 ?", "It is 3 ."])
    policy = start_policy(setup, tokenizer)
    save_model(policy, tokenizer, INPUTS / "sft" / "policy")
    for seed, name in enumerate(("reward_model", "selection_reward_model")):
        torch.manual_seed(seed)
        policy.config.num_labels = 1
        save_model(LlamaForSequenceClassification(policy.config), tokenizer, INPUTS / "reward_models" / name)
    for name in ("train", "validation"):
        path = INPUTS / "data" / "prompts" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"prompt": [{"role": "user", "content": "What is 1 + 2 ?"}]}
        path.write_text(f"{json.dumps(row)}\n" * 4)
    return INPUTS


def run_ppo(**settings: object) -> StageReport:
    ppo = RLConfig.model_validate(SMALL | settings)
    return only_policy(PipelineConfig(model=MODEL, compute=COMPUTE, rl=ppo))


def runs(kind: str) -> list[Any]:
    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.`rlhf.kind` = '{kind}'") if experiment else []
    return list(found)


def tags_of_ppo() -> list[dict[str, str]]:
    return [run.data.tags for run in runs("stage") if run.data.tags["rlhf.stage"] == "policy"]


def test_alarms_are_tags_of_the_stage_and_of_every_pipeline_that_uses_it() -> None:
    loud = {"learning_rate": 0.3, "kl_coef": 0.0, "learning_rate_schedule": "constant", "num_updates": 8}
    alarms = {"patience": 1, "fatal": ["entropy_collapse"]}
    first, second = run_ppo(**loud, alarms=alarms), run_ppo(**loud, alarms=alarms)
    assert (first.state, second.state) == ("trained", "cached")
    (stage,), (one, two) = tags_of_ppo(), [run.data.tags for run in runs("pipeline")]
    assert "entropy_collapse" in stage["alarms"].split(",")
    assert one["alarms"] == two["alarms"] == stage["alarms"]
    folder = artifacts.stored_at(artifacts.output_of(first.run_id, "policy", ModelRef)[0])
    assert folder is not None
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stopped_because"] == "entropy_collapse"
    assert stage["alarms"] == ",".join(dict.fromkeys(alarm["name"] for alarm in summary["alarms"]))
    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id], "tags.alarms LIKE '%entropy_collapse%'")) == 3


def test_a_sound_run_has_no_such_tag() -> None:
    run_ppo(alarms={"explained_variance": None})
    assert all("alarms" not in run.data.tags for run in [*runs("stage"), *runs("pipeline")])


def test_a_run_that_does_not_start_right_is_tagged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf.rl import optimization as update

    logits = update.response_logits
    monkeypatch.setattr(update, "response_logits", lambda *arguments: 1.1 * logits(*arguments))
    with pytest.raises(StartError):
        run_ppo()
    (stage,), (parent,) = tags_of_ppo(), [run.data.tags for run in runs("pipeline")]
    assert stage["alarms"] == parent["alarms"] == "start_ratio"
    assert stage["rlhf.error"].startswith("StartError: the probability ratio is not 1")


def test_a_reward_model_is_found_from_the_projects_root(
    project_root: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (inputs / "reward_models" / "reward_model").rename(project_root / "safety")
    monkeypatch.chdir(tmp_path)
    rewards = [{"kind": "model", "name": "safety", "path": "safety"}]
    assert run_ppo(rewards=rewards).state == "trained"
    assert run_ppo(rewards=rewards).state == "cached"
    config = project_root / "safety" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert run_ppo(rewards=rewards).state == "trained", "a reward model is known by its content"


def test_a_reward_model_that_is_not_there_is_refused_before_anything_is_done() -> None:
    with pytest.raises(ModelError, match=r"\./safty: no such model folder"):
        run_ppo(rewards=[{"kind": "model", "name": "safety", "path": "./safty"}])
    assert runs("pipeline") == []


def test_a_function_that_is_not_installed_is_refused_before_anything_is_done() -> None:
    with pytest.raises(ConfigError, match="no installed package offers a reward function 'brevity'"):
        run_ppo(rewards=[{"kind": "function", "name": "brevity"}])
    assert runs("pipeline") == []


def test_another_method_is_another_function_with_the_same_output() -> None:
    own = {"num_samples": 2, "batch_size": 4, "max_response_tokens": 6, "evaluate_every": 1, "kl_budget": 1e6}
    config = PipelineConfig(model=MODEL, compute=COMPUTE, method="best_of_n", best_of_n=BestOfNConfig(**own))
    report = only_policy(config)
    folder = artifacts.stored_at(artifacts.output_of(report.run_id, "policy", ModelRef)[0])
    assert folder is not None
    shared = {"policy", "evaluations.jsonl", "generations", "summary.json"}
    assert {path.name for path in folder.iterdir()} == {*shared, "best.jsonl"}
    assert only_policy(config).state == "cached"


def test_each_round_is_an_attempt_of_its_own_cached_and_linked() -> None:
    own = {"num_samples": 2, "batch_size": 4, "max_response_tokens": 6, "evaluate_every": 1, "kl_budget": 1e6}
    sampled = {"method": "best_of_n", "best_of_n": own}
    last: dict[str, Any] = {"rl": SMALL, "start": "previous", "model": MODEL, "compute": COMPUTE}
    config = PipelineConfig.model_validate({**last, "rounds": [sampled, sampled]})
    run_id, reports = only_rounds(config)
    assert [report.name for report in reports] == ["policy.1", "policy.2", "policy"]
    client = MlflowClient(tracking_uri())
    first, second, policy = (client.get_run(report.run_id) for report in reports)
    assert all(run.data.tags["mlflow.parentRunId"] == run_id for run in (first, second, policy))
    inputs = [
        {given.dataset.name: given.dataset.source for given in run.inputs.dataset_inputs} for run in (second, policy)
    ]
    assert reports[0].run_id in inputs[0]["earlier.1"]
    assert reports[1].run_id in inputs[1]["start"]
    assert reports[0].run_id not in inputs[0]["start"]  # it fine-tunes the SFT policy
    parent = client.get_run(run_id)
    assert stage_runs(parent.data.tags) == {report.name: report.run_id for report in reports}
    assert parent.data.metrics["policy/chosen_update"] == policy.data.metrics["policy/chosen_update"]
    assert "policy/best_of_n_kl_bound" not in parent.data.metrics
    record = read_record(run_id)
    assert list(record.stages) == ["policy.1", "policy.2", "policy"]

    ledger = Ledger()
    view = get_run(run_id)
    assert view is not None
    assert set(check_stages(ledger, view, record)) == {"policy.1", "policy.2", "policy"}
    assert ledger.sound, ledger.findings
    lineage = trace(Target(run_id))
    titles = {node.title for node in lineage.nodes.values()}
    assert {"policy", "policy, round 1", "policy, round 2"} <= titles
    assert lineage.nodes[reports[1].run_id].made_from != lineage.nodes[reports[2].run_id].made_from
    assert reports[1].run_id in lineage.nodes[reports[2].run_id].made_from
    assert results_of(run_id)["policy.1"].seconds > 0

    assert {report.state for report in only_rounds(config)[1]} == {"cached"}
    other = PipelineConfig.model_validate({**last, "rl": {**SMALL, "kl_coef": 0.5}, "rounds": [sampled, sampled]})
    assert [report.state for report in only_rounds(other)[1]] == ["cached", "cached", "trained"]
    alone = PipelineConfig.model_validate({"method": "best_of_n", **sampled, "model": MODEL, "compute": COMPUTE})
    assert [report.state for report in only_rounds(alone)[1]] == ["cached"]  # a first round is the method alone
