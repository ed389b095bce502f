"""Pipeline runs in a real MLflow store, without the training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from compared_runs import CONFIG, TAGS, MakeRun

from rlhf.paths import tracking_database
from rlhf.references import Reference
from rlhf.runs.comparison.run_view import RunView, read_sides
from rlhf.tracking import artifacts
from rlhf.tracking.records import RunStore
from rlhf.tracking.runs import close_run, finish_stage, link_stage, metric_log, open_pipeline, open_stage
from rlhf.tracking.sqlite_store import DatabaseStore


@pytest.fixture
def make_run(project_root: Path, tmp_path: Path) -> MakeRun:
    """Makes a finished pipeline run whose stages have stored what is given, and returns its id."""
    made: list[int] = []

    def make(
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        stages: Mapping[str, Mapping[str, Any]] | None = None,
        name: str = "demo, seed 0",
    ) -> str:
        pipeline = open_pipeline(name, None, config or CONFIG, TAGS | dict(tags or {}))
        for stage, given in (stages or {}).items():
            folder = tmp_path / f"made-{len(made)}"
            made.append(1)
            folder.mkdir()
            (folder / "made").write_text(given.get("made", stage))
            for name, content in given.get("files", {}).items():
                (folder / name).write_text(content)
            settings, inputs = given.get("settings", {}), given.get("inputs", {})
            fingerprint = given.get("fingerprint", f"print of {stage}")
            run_id = open_stage(pipeline, stage, fingerprint, settings, inputs)
            with metric_log(run_id) as log:
                log(given.get("metrics", {}), None)
                for name, curve in given.get("curves", {}).items():
                    for step, value in curve:
                        log({name: value}, step)
            uri, sha256 = artifacts.save_output(run_id, folder)
            finish_stage(run_id, Reference(run_id=run_id, uri=uri, sha256=sha256))
            link_stage(pipeline, stage, run_id, fingerprint, 1.0)
        close_run(pipeline, "FINISHED")
        return pipeline

    return make


@pytest.fixture
def store(project_root: Path) -> RunStore:
    return DatabaseStore(tracking_database())


@pytest.fixture
def sides(store: RunStore) -> Callable[..., list[RunView]]:
    return lambda *run_ids: read_sides(store, run_ids, ["policy/kl_mean"])
