"""What can go, what stays, and that a kill on the way does no harm to what stays."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from recorded_runs import Recorded, age, commit, make_data, new_project, open_attempt, record_run

from rlhf.cli import gc
from rlhf.cli.main import main
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import InputError
from rlhf.references import ModelRef, PolicyRef
from rlhf.runs.audit.target import find_target
from rlhf.runs.audit.verify import verify
from rlhf.runs.gc.items import Removable
from rlhf.runs.gc.plan import Plan, make_plan, shown_bytes
from rlhf.runs.gc.removal import carry_out
from rlhf.stages import STAGES as STAGE_TABLE
from rlhf.tracking import artifacts, registry
from rlhf.tracking.client import client, experiment_id
from rlhf.tracking.groups import open_group
from rlhf.tracking.queries import tags_of
from rlhf.tracking.run_locks import hold_run_lock
from rlhf.tracking.runs import close_run, open_pipeline, open_run, set_tags
from rlhf.tracking.tags import GROUP_TAG

CLEARING_UP = Path(__file__).parents[2] / "clearing_up.py"
REUSED = ("data", "sft", "reward_model", "reward_audit")


@pytest.fixture(scope="session")
def four_runs(
    migrated_mlflow: Path, empty_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Recorded]]:
    """Of old runs the champion has used stages of `first`, and nothing needs `lost` and the rest of `first`."""
    root = tmp_path_factory.mktemp("kept") / "project"
    with new_project(root, empty_repository, migrated_mlflow):
        first = record_run(PipelineConfig())
        cached = {stage: first.outputs[stage] for stage in REUSED}
        champion = record_run(PipelineConfig(seed=1), cached=cached)
        client().set_registered_model_alias("demo", registry.CHAMPION, "2")
        lost = record_run(PipelineConfig(seed=2))
        recent = record_run(PipelineConfig(seed=3))
        age(100, first.run_id, champion.run_id, lost.run_id)
    return root, {"first": first, "champion": champion, "lost": lost, "recent": recent}


@pytest.fixture
def root(four_runs: tuple[Path, dict[str, Recorded]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may change."""
    shutil.copytree(four_runs[0], tmp_path / "project", symlinks=True)
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "project"))
    experiment_id()  # sees that the store was moved
    return tmp_path / "project"


@pytest.fixture
def runs(root: Path, four_runs: tuple[Path, dict[str, Recorded]]) -> dict[str, Recorded]:
    return four_runs[1]


@pytest.fixture
def empty_root(project_root: Path) -> Path:
    """A project with data and no run."""
    make_data(project_root)
    commit(project_root)
    return project_root


def outputs_of(plan: Plan) -> set[str]:
    return {str(item.run_id) for item in plan.items if item.run_id}


def of_kind(plan: Plan, kind: str) -> list[Removable]:
    return [item for item in plan.items if item.kind == kind]


def is_sound(run: Recorded) -> bool:
    return verify(find_target(run.run_id)).sound


def test_outputs_that_no_kept_run_came_from(runs: dict[str, Recorded]):
    first, champion, lost, recent = (runs[name] for name in ("first", "champion", "lost", "recent"))
    plan = make_plan(30)
    going = {one.run_id for stage, one in first.outputs.items() if stage not in REUSED}
    assert outputs_of(plan) == going | {one.run_id for one in lost.outputs.values()}
    assert dict(plan.needs.kept) == {
        champion.run_id: "with an alias in the registry",
        recent.run_id: "with an alias in the registry",  # the candidate
    }
    assert plan.num_bytes == sum(item.num_bytes for item in plan.items) > 0
    before = sorted(path for path in (Path(os.environ["RLHF_ROOT"]) / "mlruns").rglob("*") if path.is_file())
    assert carry_out(plan) == []
    after = sorted(path for path in (Path(os.environ["RLHF_ROOT"]) / "mlruns").rglob("*") if path.is_file())
    assert len(after) < len(before)
    assert outputs_of(make_plan(30)) == set()
    assert is_sound(champion)
    assert is_sound(recent)
    # The cache does not offer what is gone, and whoever names it is told the way back.
    tags = tags_of(lost.outputs["sft"].run_id)
    assert artifacts.OUTPUT_REMOVED_TAG in tags
    assert artifacts.find_output("sft", tags["rlhf.fingerprint"], ModelRef) is None
    with pytest.raises(InputError, match=f"rlhf reproduce {lost.run_id}"):
        artifacts.output_of(lost.run_id, "policy", PolicyRef)
    kept = tags_of(first.outputs["sft"].run_id)["rlhf.fingerprint"]
    assert artifacts.find_output("sft", kept, ModelRef) == first.outputs["sft"]


def test_what_keeps_a_run(runs: dict[str, Recorded]):
    lost = runs["lost"].run_id
    ppo = runs["lost"].outputs["policy"].run_id
    assert ppo in outputs_of(make_plan(30))
    assert ppo not in outputs_of(make_plan(101))
    client().set_registered_model_alias("demo", "of-last-year", "3")
    assert ppo not in outputs_of(make_plan(30))
    client().delete_registered_model_alias("demo", "of-last-year")
    for status in ("RUNNING", "SCHEDULED"):
        client().update_run(lost, status=status)
        assert ppo not in outputs_of(make_plan(30))
    client().update_run(lost, status="FINISHED")
    assert ppo in outputs_of(make_plan(30))
    again = open_run("again", "reproduction", {"rlhf.reproduces": lost})
    assert ppo not in outputs_of(make_plan(0))
    close_run(again, "FINISHED")
    assert ppo in outputs_of(make_plan(0))


def test_what_a_group_keeps(runs: dict[str, Recorded]):
    lost = runs["lost"]
    going = {one.run_id for one in lost.outputs.values()}
    assert going <= outputs_of(make_plan(30))
    group, _ = open_group("two seeds", "key", "flow of the group", {}, {})
    set_tags(lost.run_id, {GROUP_TAG: group})
    assert not going & outputs_of(make_plan(0))
    assert make_plan(0).needs.kept[lost.run_id] == "of a group that is in flight"
    # Between two seeds no pipeline run is under way, and the next one may ask for any output.
    with hold_run_lock("flow of the group"):
        plan = make_plan(0)
    assert outputs_of(plan) == set()
    assert any(f"run {group[:12]} is under way" in note for note in plan.notes)
    close_run(group, "FINISHED")
    assert not going & outputs_of(make_plan(30))
    assert going <= outputs_of(make_plan(0))


def test_a_run_that_has_trained_nothing_itself(runs: dict[str, Recorded]):
    """All its stages were cached, and it came to no policy."""
    lost = runs["lost"].outputs
    record_run(PipelineConfig(seed=2), cached=lost, stages=6)
    assert outputs_of(make_plan(30)) & {one.run_id for one in lost.values()} == {lost["model_card"].run_id}


def test_a_promotion_that_is_under_way(runs: dict[str, Recorded]):
    pending = registry.Promotion(state="pending", champion="demo/2", to="demo/3", flow_run_id="flow", at="now")
    client().set_registered_model_tag("demo", "promotion", pending.model_dump_json(by_alias=True))
    assert runs["lost"].outputs["policy"].run_id not in outputs_of(make_plan(30))


def test_while_a_run_is_under_way(root: Path, runs: dict[str, Recorded], capsys: pytest.CaptureFixture[str]):
    """It may be offered any output at any moment, so none goes; checkpoints of others do."""
    run_id = open_pipeline("under way", "the-flow-run", {}, {})
    folder = open_attempt(runs["lost"].run_id, "policy", "5" * 64)
    age(100, runs["lost"].run_id)
    with hold_run_lock("the-flow-run"):
        plan = make_plan(30)
        assert outputs_of(plan) == set()
        assert any(run_id[:12] in note for note in plan.notes)
        assert [item.path for item in of_kind(plan, "checkpoints")] == [folder]
        assert main(["gc"]) == 0
        assert "under way" in capsys.readouterr().out
    assert outputs_of(make_plan(30))


def test_a_run_that_begins_in_between(runs: dict[str, Recorded]):
    plan = make_plan(30)
    open_pipeline("begins", None, {}, {})
    left = carry_out(plan)
    assert len(left) == len(outputs_of(plan))
    assert "has started meanwhile" in left[0].why
    assert is_sound(runs["lost"])


@pytest.mark.parametrize("is_over", [False, True])
def test_a_reproduction_that_begins_in_between(root: Path, runs: dict[str, Recorded], is_over: bool):
    """Nothing goes that it may read: outputs, environments, trees, versions of the data."""
    environment = root / ".rlhf" / "environments" / f"{'b' * 16}-python3.11"
    environment.mkdir(parents=True)
    folder = open_attempt(runs["lost"].run_id, "policy", "1" * 64)
    age(100, runs["lost"].run_id)
    plan = make_plan(30)
    again = open_run("again", "reproduction", {"rlhf.reproduces": runs["lost"].run_id})
    if is_over:
        close_run(again, "FINISHED")
    left = carry_out(plan)
    assert environment.exists()
    assert is_sound(runs["lost"])
    assert not folder.exists()
    assert len(left) == len(plan.items) - 1


def test_checkpoints(root: Path, runs: dict[str, Recorded]):
    old = open_attempt(runs["lost"].run_id, "policy", "1" * 64)
    recent = open_attempt(runs["recent"].run_id, "policy", "2" * 64)
    locked = open_attempt(runs["lost"].run_id, "sft", "3" * 64)
    over = open_attempt(runs["recent"].run_id, "sft", tags_of(runs["recent"].outputs["sft"].run_id)["rlhf.fingerprint"])
    record_run(PipelineConfig(seed=3), stages=2)  # has brought it to its end
    unknown = root / ".rlhf" / "stages" / "policy-4444444444444444"
    unknown.mkdir()
    age(100, runs["lost"].run_id)
    with FileLock(locked.with_name(f"{locked.name}.lock")):
        plan = make_plan(30)
        assert {item.path for item in of_kind(plan, "checkpoints")} == {old, over}
        carry_out(plan)
    assert not old.exists()
    assert recent.exists()
    assert locked.exists()
    assert unknown.exists()
    os.utime(unknown, (0, 0))
    assert unknown in {item.path for item in of_kind(make_plan(30), "checkpoints")}


def test_a_checkpoint_that_is_worked_on_by_now(runs: dict[str, Recorded]):
    folder = open_attempt(runs["lost"].run_id, "policy", "1" * 64)
    age(100, runs["lost"].run_id)
    plan = make_plan(30)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        assert any("a process works in it" in one.why for one in carry_out(plan))
    assert (folder / "checkpoints" / "weights").exists()


def test_an_attempt_of_a_stage_that_an_earlier_run_has_finished(runs: dict[str, Recorded]):
    fingerprint = tags_of(runs["lost"].outputs["sft"].run_id)["rlhf.fingerprint"]
    folder = open_attempt(runs["recent"].run_id, "sft", fingerprint)
    assert of_kind(make_plan(30), "checkpoints") == []
    since = record_run(PipelineConfig(seed=2), stages=2).outputs["sft"].run_id
    assert [item.path for item in of_kind(make_plan(30), "checkpoints")] == [folder]
    artifacts.remove_output(since)
    assert of_kind(make_plan(30), "checkpoints") == []


def test_copies_results_trees_and_environments(root: Path, runs: dict[str, Recorded]):
    own = root / ".rlhf"
    over = open_run("over", "reproduction", {"rlhf.reproduces": runs["lost"].run_id})
    close_run(over, "FINISHED")
    age(100, over)
    running = open_run("running", "reproduction", {"rlhf.reproduces": runs["recent"].run_id})
    set_tags(runs["recent"].run_id, {"rlhf.lock_sha256": "a" * 64})
    kept = runs["champion"].outputs["policy"]
    md5 = tags_of(runs["champion"].run_id)["rlhf.data_md5"].removesuffix(".dir")
    going = [own / "artifacts" / ("0" * 64), own / "data" / "other", own / "environments" / f"{'b' * 16}-python3.11"]
    going += [own / "reproductions" / f"12345678-20260101-000000-{over[:6]}", own / "data" / ".removed-x"]
    begins = own / "data" / "of-a-run-that-is-about-to-begin"
    staying = [own / "artifacts" / kept.sha256, own / "data" / md5, own / "environments" / f"{'a' * 16}-python3.11"]
    staying += [own / "reproductions" / f"12345678-20260101-000000-{running[:6]}", own / "artifacts" / "tmpnew"]
    staying.append(begins)
    for folder in (*going, *staying):
        folder.mkdir(parents=True)
        (folder / "file").write_text("content")
    os.utime(own / "data" / "other", (0, 0))
    (own / "results").mkdir()
    for name, run_id in (("kept", kept.run_id), ("lost", runs["lost"].outputs["policy"].run_id)):
        text = json.dumps({"result": json.dumps({"uri": f"runs:/{run_id}/output"})})
        (own / "results" / name).write_text(text)
    plan = make_plan(30)
    assert {item.path for item in plan.items if item.path} == {*going, own / "results" / "lost"}
    carry_out(plan)
    assert [path for path in going if path.exists()] == []
    assert [path for path in staying if not path.exists()] == []
    assert (own / "results" / "kept").exists()


def test_what_stayed_was_not_removed(runs: dict[str, Recorded], capsys: pytest.CaptureFixture[str]):
    folder = open_attempt(runs["lost"].run_id, "policy", "1" * 64)
    age(100, runs["lost"].run_id)
    plan = make_plan(30)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        left = carry_out(plan)
    assert [one.num_bytes for one in left] == [1000]
    gc._print(plan, left, removed=True)
    assert f"Removed {shown_bytes(plan.num_bytes - 1000)}." in capsys.readouterr().out


@contextlib.contextmanager
def remote(root: Path, folder: Path) -> Iterator[None]:
    for command in (["remote", "add", "--default", "there", str(folder)], ["push", "--quiet"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=root, check=True)
    yield


def cached(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def test_versions_of_the_data(empty_root: Path, tmp_path: Path):
    """Those of a branch, of a kept run and of data/ stay; one that nobody has written down goes, with its own files."""
    root = empty_root
    subprocess.run(["git", "branch", "earlier"], cwd=root, check=True)
    read = make_data(root, 30)
    run = record_run(PipelineConfig())
    make_data(root, 40)
    with remote(root, tmp_path / "remote"):
        make_data(root, 50)
    cache = root / ".dvc" / "cache" / "files"
    assert cached(cache) == 4 * 2 + 1  # a list and a file of rows each, and one data sheet
    plan = make_plan(30)
    (going,) = of_kind(plan, "data versions")
    assert len(going.objects) == 2
    carry_out(plan)
    assert cached(cache) == 3 * 2 + 1
    assert cached(tmp_path / "remote") == 3
    assert of_kind(make_plan(30), "data versions") == []
    for rows in (20, 30, 50):
        before = cached(cache)
        make_data(root, rows)
        assert cached(cache) == before  # it was there
    make_data(root, 30)
    assert is_sound(run)
    assert read == tags_of(run.run_id)["rlhf.data_md5"]
    # The run is forgotten: so is its version, unless data/ is at it.
    client().delete_run(run.run_id)
    client().delete_registered_model_alias("demo", "candidate")
    make_data(root, 50)
    assert [item.name for item in of_kind(make_plan(30), "data versions")] == [f"version {read}"]
    (there,) = [item for item in make_plan(30, "there").items if item.remote]
    carry_out(make_plan(30, "there"))
    assert there.num_bytes > 0
    assert cached(tmp_path / "remote") == 1  # the data sheet, which is needed
    with pytest.raises(InputError, match="those that there are: there"):
        make_plan(30, "nowhere")


def test_without_a_store(empty_root: Path):
    """None is made, and nothing is taken to be needless."""
    database = empty_root / "mlruns" / "mlflow.db"
    database.unlink()
    with pytest.raises(InputError, match="there is no such store"):
        make_plan(30)
    assert not database.exists()


def test_a_store_that_knows_no_run(empty_root: Path):
    make_data(empty_root, 30)
    make_data(empty_root, 40)
    assert main(["gc", "--yes"]) == 2
    with pytest.raises(InputError, match="knows no run, so what is needed is not known"):
        make_plan(30)
    assert cached(empty_root / ".dvc" / "cache" / "files") == 3 * 2 + 1


def test_runs_in_two_stores(
    runs: dict[str, Recorded], migrated_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whichever is asked, it does not know what runs in the other one need."""
    shutil.copy(migrated_mlflow, tmp_path / "other.db")
    own = Path(os.environ["RLHF_ROOT"]) / ".rlhf" / "stores"
    shutil.rmtree(own)  # these runs were made before stores were noted
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    open_pipeline("elsewhere", None, {}, {})
    with pytest.raises(InputError, match=r"mlflow\.db has \d+ runs that sqlite:.*other\.db does not know"):
        make_plan(30)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(InputError, match=r"in another store too, noted as sqlite:.*other\.db.*delete ") as refusal:
        make_plan(30)
    (note,) = own.iterdir()
    assert str(note) in str(refusal.value)
    note.unlink()
    assert make_plan(30).items


def test_a_cache_that_others_share(empty_root: Path, tmp_path: Path):
    root = empty_root
    subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir", "--local", str(tmp_path / "shared")], cwd=root, check=True
    )
    make_data(root, 30)
    make_data(root, 40)
    record_run(PipelineConfig(), stages=1)
    plan = make_plan(30)
    assert of_kind(plan, "data versions") == []
    assert "outside the project" in plan.notes[0]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_killed_on_the_way(root: Path, runs: dict[str, Recorded], step: int):
    open_attempt(runs["lost"].run_id, "policy", "1" * 64)
    age(100, runs["lost"].run_id)
    command = [sys.executable, str(CLEARING_UP), str(step)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    assert is_sound(runs["champion"])
    assert is_sound(runs["recent"])
    # Of what was cut off nothing is offered, whole or torn.
    for run in (runs["lost"], runs["first"]):
        for stage, reference in run.outputs.items():
            tags = tags_of(reference.run_id)
            found = artifacts.find_output(stage, tags["rlhf.fingerprint"], STAGE_TABLE[stage].output)
            assert found == (None if artifacts.OUTPUT_REMOVED_TAG in tags else reference)
    # The next time brings it to its end.
    assert main(["gc", "--yes"]) == 0
    assert make_plan(30).items == ()
    assert is_sound(runs["champion"])


def test_on_the_command_line(root: Path, runs: dict[str, Recorded], capsys: pytest.CaptureFixture[str]):
    for flags in ([], ["--dry-run"]):
        assert main(["gc", *flags]) == 0
        printed = capsys.readouterr().out
        assert "can go; `rlhf gc --yes` removes it" in printed
        assert runs["lost"].outputs["policy"].run_id in printed
    assert is_sound(runs["lost"])
    assert main(["gc", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == sum(item["num_bytes"] for item in told["items"])
    assert not told["removed"]
    assert main(["gc", "--yes", "--keep-days", "200"]) == 0
    assert is_sound(runs["lost"])
    assert main(["gc", "--yes"]) == 0
    assert "Removed" in capsys.readouterr().out
    assert not is_sound(runs["lost"])
    for days in ("-1", "1000000"):
        assert main(["gc", "--keep-days", days]) == 2
        assert "give a number of days from 0 to 36500" in capsys.readouterr().err
    with FileLock(root / ".rlhf" / "gc.lock"):
        shutil.copytree(root / ".dvc" / "tmp", root / ".rlhf" / "data" / "copy")
        assert main(["gc", "--yes"]) == 2
