"""A recipe with several seeds: real pipelines of the smoke recipe, one of which fails, and a group that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import AwaitingRetry, Crashed
from retraining_runs import flow_run, last_flow_run, shown_in

from flows.methods import compare_methods
from flows.pipeline import rlhf_pipeline
from flows.seeds import run_seeds
from rlhf.config.loading import load_config
from rlhf.config.methods import choose_methods
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError
from rlhf.references import GroupReport
from rlhf.runs.audit.target import find_target
from rlhf.runs.audit.verify import verify
from rlhf.runs.groups import SeedsFailedError
from rlhf.tracking.client import experiment_id, tracking_uri
from rlhf.tracking.files import read_bytes
from rlhf.tracking.queries import metrics_of, tags_of
from rlhf.tracking.runs import log_metrics
from rlhf.tracking.tags import FLOW_RUN_TAG, GROUP_TAG, SEEDS_TAG

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
STAGES = ["data", "sft", "reward_model", "reward_audit", "policy", "evaluation", "model_card"]


def config(**settings: object) -> PipelineConfig:
    return load_config(SMOKE, {"compute.num_threads": 1, **settings})


def runs_of(kind: str) -> list[Run]:
    """The oldest first."""
    client = MlflowClient(tracking_uri())
    condition = f"tags.`rlhf.kind` = '{kind}'"
    return list(client.search_runs([experiment_id()], condition, order_by=["start_time ASC"]))


def trained_by(run_id: str) -> dict[str, str]:
    """The run that trained each stage of a pipeline run."""
    tags = tags_of(run_id)
    return {stage: tags[f"rlhf.run.{stage}"] for stage in STAGES}


@pytest.mark.usefixtures("prefect_server")
def test_a_group_of_two_seeds_of_which_one_fails_later_and_is_mended(embedded_project: Path):
    report = run_seeds(config(), [4, 3])
    check_members(report)
    check_summary(report)
    check_shown(report)

    # Seed 3 alone is what it was in the group, and cached.
    alone = rlhf_pipeline(config(seed=3))
    assert {stage.state for stage in alone.stages} == {"cached"}
    assert GROUP_TAG not in tags_of(alone.run_id)
    assert verify(find_target(report.seeds[1].run_id or "")).sound

    sft = trained_by(report.seeds[1].run_id or "")["sft"]
    output = embedded_project / "mlruns" / "artifacts" / sft / "artifacts" / "output"
    (output / "policy" / "model.safetensors").write_bytes(b"")
    failed = check_failed(report)
    # The same settings and seeds go on with it, in the order that is asked for this time.
    log_metrics(failed, {"group/evaluation/kl_low": 0.5})
    with pytest.raises(SeedsFailedError) as again:
        run_seeds(config(seed=9), [4, 3])
    assert again.value.report.run_id == failed
    assert "group/evaluation/kl_low" not in metrics_of(failed)
    shutil.rmtree(output)
    mended = retry(UUID(tags_of(failed)[FLOW_RUN_TAG]))
    assert mended.run_id == failed
    assert [(seed.seed, seed.error) for seed in mended.seeds] == [(4, None), (3, None)]
    assert mended.statistics["policy/chosen_objective"] == report.statistics["policy/chosen_objective"]
    run = MlflowClient(tracking_uri()).get_run(failed)
    assert (run.info.status, "rlhf.error" in run.data.tags) == ("FINISHED", False)
    assert run.data.metrics["group/num_failed"] == 0.0
    assert len(runs_of("group")) == 2
    check_methods()


def check_methods() -> None:
    """What one method has computed another finds: the data, the SFT policy and the reward models of a seed."""
    report = compare_methods(config(), ["ppo", "rloo"], [4, 3])
    assert [(method.method, method.error) for method in report.methods] == [("ppo", None), ("rloo", None)]
    (run,) = runs_of("methods")
    assert (run.info.run_id, run.info.status) == (report.run_id, "FINISHED")
    groups = [method.group for method in report.methods if method.group is not None]
    assert {tags_of(group.run_id)[GROUP_TAG] for group in groups} == {report.run_id}
    ppo, rloo = ([trained_by(seed.run_id or "") for seed in group.seeds] for group in groups)
    for first, second in zip(ppo, rloo, strict=True):
        shared = ["data", "sft", "reward_model", "reward_audit"]
        assert [stage for stage in STAGES if first[stage] == second[stage]] == shared
    (difference,) = report.differences
    gains = [[seed.metrics["evaluation/gold_gain"] for seed in group.seeds] for group in groups]
    assert difference.mean == pytest.approx(sum(a - b for a, b in zip(*gains, strict=True)) / 2)
    assert difference.low <= difference.mean <= difference.high
    page = (read_bytes(report.run_id, "summary.md") or b"").decode()
    assert "| PPO |" in page
    assert "PPO less RLOO" in page
    assert (read_bytes(report.run_id, "frontiers.png") or b"").startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="rlo is not a method; the nearest known one is rloo"):
        choose_methods(["ppo", "rlo"])
    with pytest.raises(ConfigError, match="a comparison needs two methods or more"):
        choose_methods(["ppo"])


def retry(flow_run_id: UUID) -> GroupReport:
    """What Retry in Prefect's UI comes to, in this process."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, AwaitingRetry(), force=True)
    report = run_flow(run_seeds, flow_run=flow_run(flow_run_id))
    assert isinstance(report, GroupReport)
    return report


def check_members(report: GroupReport) -> None:
    members = {run.info.run_id: run for run in runs_of("pipeline")}
    assert [seed.run_id for seed in report.seeds] == list(members)
    assert [seed.seed for seed in report.seeds] == [4, 3]
    for seed, member in zip(report.seeds, members.values(), strict=True):
        assert member.info.status == "FINISHED"
        assert member.data.tags[GROUP_TAG] == report.run_id
        assert member.data.params["seed"] == str(seed.seed)
        assert Path(seed.policy_path or "").is_dir()
    first, second = (trained_by(seed.run_id or "") for seed in report.seeds)
    assert [stage for stage in STAGES if first[stage] == second[stage]] == ["data"]


def check_summary(report: GroupReport) -> None:
    (run,) = runs_of("group")
    assert run.info.run_id == report.run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags[SEEDS_TAG] == "4,3"
    assert run.data.tags["recipe"] == "smoke"
    assert "seed" not in run.data.params
    assert run.data.params["rl.kl_coef"] == "0.1"
    first, second = (seed.metrics["policy/chosen_objective"] for seed in report.seeds)
    assert first != second
    over = report.statistics["policy/chosen_objective"]
    assert over.mean == pytest.approx((first + second) / 2)
    assert over.high == pytest.approx(over.mean + 12.706205 * abs(first - second) / 2)
    assert run.data.metrics["group/policy/chosen_objective"] == pytest.approx(over.mean)
    assert run.data.metrics["group/policy/chosen_objective_high"] == pytest.approx(over.high)
    assert run.data.metrics["group/num_seeds"] == 2.0
    assert "evaluation/gold_gain_low" in report.seeds[0].metrics
    assert GroupReport.model_validate_json(read_bytes(report.run_id, "summary.json") or b"") == report


def check_shown(report: GroupReport) -> None:
    assert last_flow_run().name == "smoke, num_threads 1, seed 3"
    group = flow_run(UUID(tags_of(report.run_id)[FLOW_RUN_TAG]))
    assert group.name == "smoke, num_threads 1, 2 seeds from 4"
    kept = (read_bytes(report.run_id, "summary.md") or b"").decode()
    assert "| metric | unit | mean | over seeds | sd | seed 4 | seed 3 |" in kept
    assert shown_in(group)["seeds"].split() == kept.split()


def check_failed(report: GroupReport) -> str:
    """The seed whose weights are broken fails, the other runs. Returns the group's run."""
    with pytest.raises(
        SeedsFailedError, match=r"1 of 2 seeds failed, .* \(seed 3: .*model.safetensors: not what"
    ) as end:
        run_seeds(config(), [3, 4])
    failed = end.value.report
    assert end.value.exit_code == 1
    assert [seed.error is None for seed in failed.seeds] == [False, True]
    assert failed.seeds[0].run_id is not None
    assert failed.notes == ("Fewer than two seeds finished, so nothing is said over seeds.",)
    assert failed.statistics["policy/chosen_objective"].low is None
    run = MlflowClient(tracking_uri()).get_run(failed.run_id)
    assert failed.run_id != report.run_id
    assert run.info.status == "FAILED"
    assert run.data.tags["rlhf.error"].startswith("SeedsFailedError: 1 of 2 seeds failed")
    assert run.data.metrics["group/num_failed"] == 1.0
    assert b"| 3 | failed |" in (read_bytes(failed.run_id, "summary.md") or b"")
    return failed.run_id


@pytest.mark.usefixtures("prefect_server")
def test_seeds_that_are_no_group_leave_no_run(project_root: Path):
    with pytest.raises(ConfigError, match="seed 4 is given twice"):
        run_seeds(config(), [4, 4])
    assert last_flow_run().state_name == "Failed"
    assert runs_of("group") == []


@pytest.mark.usefixtures("prefect_server")
def test_a_mistake_that_all_seeds_meet_is_told_of_each(project_root: Path):
    with pytest.raises(SeedsFailedError, match="2 of 2 seeds failed") as end:
        run_seeds(config(**{"data.embedded": None}), num_seeds=2)
    assert end.value.exit_code == 2
    assert all("data.dvc: the file is missing" in (seed.error or "") for seed in end.value.report.seeds)
    assert [run.info.status for run in runs_of("pipeline")] == ["FAILED", "FAILED"]


FLAGS = ("run", str(SMOKE), "--compute.num-threads", "1", "--num-seeds", "2", "--seed", "5", "--json")
COMMAND = [sys.executable, "-m", "rlhf.cli", *FLAGS]


def kill_in_the_second_seed(project: Path) -> Run:
    """Returns the group's run."""
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=project)
    deadline = time.monotonic() + 400
    while len(runs_of("pipeline")) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [run.info.status for run in runs_of("pipeline")] == ["FINISHED", "RUNNING"]
    (group,) = runs_of("group")
    assert group.info.status == "RUNNING"
    return group


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_killed_in_its_second_seed_a_retry_in_prefect_goes_on(
    embedded_project: Path, client_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        for name, value in client_environment.items():
            patch.setenv(name, value)
        group = kill_in_the_second_seed(embedded_project)
    flow_run_id = UUID(group.data.tags[FLOW_RUN_TAG])
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, Crashed(), force=True)
    report = retry(flow_run_id)
    assert report.run_id == group.info.run_id
    assert [(seed.seed, seed.error) for seed in report.seeds] == [(5, None), (6, None)]
    assert {run.info.status for run in [*runs_of("group"), *runs_of("pipeline")]} <= {"FINISHED", "KILLED"}
    assert len(runs_of("group")) == 1


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_killed_in_its_second_seed_the_same_command_goes_on(
    embedded_project: Path, migrated_prefect: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(migrated_prefect, embedded_project / ".prefect")
    monkeypatch.setenv("PREFECT_HOME", str(embedded_project / ".prefect"))
    group = kill_in_the_second_seed(embedded_project)
    again = subprocess.run(COMMAND, capture_output=True, text=True, check=False, timeout=400, cwd=embedded_project)
    assert again.returncode == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["run_id"] == group.info.run_id
    assert [run.info.status for run in runs_of("group")] == ["FINISHED"]
    assert [run.info.status for run in runs_of("pipeline")] == ["FINISHED", "KILLED", "FINISHED", "FINISHED"]
    of_then = trained_by(runs_of("pipeline")[0].info.run_id)
    assert trained_by(report["seeds"][0]["run_id"]) == of_then
    assert set(report["statistics"]["policy/chosen_objective"]) == {"num_seeds", "mean", "std", "low", "high"}
