"""Pipeline runs as MLflow has them once they are over, made without training anything: a stage takes milliseconds."""

import contextlib
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from rlhf.config.pipeline import PipelineConfig
from rlhf.data.versions import resolve as data_source
from rlhf.data.versions.repository import md5_in, read_dvc_file
from rlhf.paths import root
from rlhf.provenance.capture import begin_record, with_data, with_stage
from rlhf.provenance.code import Patch, git_state
from rlhf.provenance.record import RECORD_FILE, StageRecord, record_bytes
from rlhf.provenance.storage import save_code, save_record
from rlhf.references import DatasetRef, DataSource, Reference
from rlhf.stages import STAGES
from rlhf.tracking import artifacts
from rlhf.tracking.client import client
from rlhf.tracking.models import register_policy
from rlhf.tracking.queries import tags_of
from rlhf.tracking.runs import finish_stage, link_stage, log_metrics, open_pipeline, open_stage, set_tags

# Of a recipe without feedback.
INPUTS = {name: stage.inputs for name, stage in STAGES.items() if name not in ("revision", "feedback")}
METRICS = {"sft": {"sft/validation_loss": 1.5}, "evaluation": {"evaluation/win_rate": 0.6}}


@dataclass(frozen=True)
class Recorded:
    """A pipeline run, and what its stages have left."""

    run_id: str
    outputs: Mapping[str, Reference]

    def file(self, stage: str, name: str) -> Path:
        return artifacts.stored_at(self.outputs[stage]).parent / name  # type: ignore[union-attr]


@dataclass(frozen=True)
class Audited:
    """A project's root, and two runs of which the second has used stages of the first."""

    root: Path
    first: Recorded
    second: Recorded


@contextlib.contextmanager
def new_project(folder: Path, repository: Path, mlflow: Path) -> Iterator[None]:
    """Make a project with data, committed; inside, RLHF_ROOT names it."""
    shutil.copytree(repository, folder)
    (folder / "mlruns").mkdir()
    shutil.copy(mlflow, folder / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_ROOT", str(folder))
        make_data(folder)
        commit(folder)
        yield


def make_data(folder: Path, rows: int = 20) -> str:
    """A small data/ that DVC tracks. Returns its md5."""
    (folder / "data").mkdir(exist_ok=True)
    lines = [f'{{"prompt": "What is {number} + 1 ?", "completion": "{number + 1}"}}\n' for number in range(rows)]
    (folder / "data" / "demonstrations.jsonl").write_text("".join(lines))
    (folder / "data" / "datasheet.md").write_text("# Sums\n")
    return data_source.track(folder)


def commit(folder: Path, message: str = "The data") -> None:
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "--allow-empty", "--message", message], cwd=folder, check=True)


def record_run(
    config: PipelineConfig,
    *,
    cached: Mapping[str, Reference] | None = None,
    stages: int = 7,
    status: str | None = "FINISHED",
    patch: bytes = b"",
    content: str = "",
) -> Recorded:
    """A run of the first stages, of which only retraining has the eighth. Some of them may be cached.

    What the others leave is decided by seed and content.
    """
    git = git_state(root())
    tags = {
        "recipe": config.name,
        "mlflow.source.git.commit": git.commit or "",
        "rlhf.git_dirty": str(git.dirty).lower(),
    }
    run_id = open_pipeline("a run", None, config.model_dump(mode="json"), tags)
    code = Patch(patch, ())
    save_code(run_id, patch)
    data = DataSource(path="data", md5=md5_in(read_dvc_file(root())), tracked=True)
    record = with_data(begin_record(config, git, code), data)
    set_tags(run_id, {"rlhf.data_md5": data.md5, "rlhf.data_path": "data"})
    outputs: dict[str, Reference] = {}
    for stage in list(INPUTS)[:stages]:
        fingerprint = f"{stage}-{config.seed}{content}".ljust(64, "0")
        if cached and stage in cached:
            outputs[stage] = cached[stage]
            fingerprint = tags_of(cached[stage].run_id)["rlhf.fingerprint"]
        else:
            files = _files(stage, f"{config.seed}{content}")
            if stage == "model_card":
                files |= {RECORD_FILE: record_bytes(record).decode(), "README.md": _card(record.digest, run_id)}
            outputs[stage] = _train(run_id, stage, fingerprint, outputs, files, data)
        link_stage(run_id, stage, outputs[stage].run_id, fingerprint, 1.0)
        if stage != "model_card":
            made = StageRecord(fingerprint=fingerprint, sha256=outputs[stage].sha256)
            record = with_stage(record, stage, made)
    save_record(run_id, record)
    if "model_card" in outputs:
        version = register_policy(outputs["model_card"], config.name.partition(" ")[0])
        sha256 = outputs["model_card"].sha256
        set_tags(run_id, {"rlhf.policy_version": version, "rlhf.policy_sha256": sha256})
    if status is not None:
        client().set_terminated(run_id, status)
    return Recorded(run_id, outputs)


def open_attempt(run_id: str, stage: str, fingerprint: str) -> Path:
    """A stage's run that was killed. Returns the folder that it worked in."""
    attempt = open_stage(run_id, stage, fingerprint, {}, {})
    client().set_terminated(attempt, "KILLED")
    folder = root() / ".rlhf" / "stages" / f"{stage}-{fingerprint[:16]}"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "weights").write_bytes(bytes(1000))
    folder.with_name(f"{folder.name}.lock").touch()
    return folder


def age(days: float, *run_ids: str) -> None:
    """Make runs, and those of the stages that they have trained, older."""
    then = int((datetime.now(UTC) - timedelta(days=days)).timestamp() * 1000)
    with contextlib.closing(sqlite3.connect(root() / "mlruns" / "mlflow.db")) as database, database:
        for run_id in run_ids:
            children = "SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?"
            database.execute(
                f"UPDATE runs SET start_time = ?, end_time = CASE WHEN end_time IS NULL THEN NULL ELSE ? END "
                f"WHERE run_uuid = ? OR run_uuid IN ({children})",
                (then, then, run_id, run_id),
            )


def _files(stage: str, content: str) -> dict[str, str]:
    folder = {"policy": "policy/", "sft": "policy/", "reward_model": "reward_model/"}.get(stage, "")
    return {f"{folder}model.safetensors": f"weights of {stage} {content}", f"{folder}config.json": "{}"}


def _card(digest: str, run_id: str) -> str:
    return f"# A policy\n\n| MLflow run | `{run_id}` |\n| Provenance | sha256 `{digest}` |\n"


def _train(
    parent: str,
    stage: str,
    fingerprint: str,
    outputs: Mapping[str, Reference],
    files: Mapping[str, str],
    data: DataSource,
) -> Reference:
    inputs = {name: outputs[name] for name in INPUTS[stage] if name in outputs}
    run_id = open_stage(parent, stage, fingerprint, {"config": {"num_epochs": 2}}, inputs)
    with TemporaryDirectory() as scratch:
        for name, text in files.items():
            path = Path(scratch) / "output" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        report = Path(scratch) / "report"
        report.mkdir()
        if stage == "sft":
            (report / "samples.md").write_text("| sample |\n")
        artifacts.save_report(run_id, report)
        uri, sha256 = artifacts.save_output(run_id, Path(scratch) / "output")
    more = {"source": data} if stage == "data" else {}
    kind = STAGES[stage].output
    reference = kind.model_validate({"run_id": run_id, "uri": uri, "sha256": sha256, **more})
    assert isinstance(reference, DatasetRef) == (stage == "data")
    log_metrics(run_id, {f"{stage}/trained_seconds": 1.0, **METRICS.get(stage, {})})
    finish_stage(run_id, reference)
    return reference
