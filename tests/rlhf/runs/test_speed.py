"""A thousand pipeline runs in the store: whole processes, imports included."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.made_runs import STAGES
from benchmarks.tracking_store import make_project, timed
from rlhf.tracking.queries import ClientStore
from rlhf.tracking.records import IS_PIPELINE, RunStore
from rlhf.tracking.sqlite_store import DatabaseStore

LIMIT_S = 3.0


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory, migrated_mlflow: Path) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("crowded")
    return root, make_project(root, 1000, migrated_mlflow)


@pytest.mark.slow
def test_a_thousand_runs_are_listed_and_compared_in_seconds(crowded: tuple[Path, list[str]]):
    root, ids = crowded
    for command in (["runs"], ["compare", *ids[:2]]):
        assert min(timed(root, command) for _ in range(3)) <= LIMIT_S


def test_the_made_store_is_one_to_mlflow(
    tmp_path: Path, migrated_mlflow: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ids = make_project(tmp_path, 4, migrated_mlflow)
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
    stores: list[RunStore] = [ClientStore(), DatabaseStore(tmp_path / "mlruns" / "mlflow.db")]
    for store in stores:
        assert [run.run_id for run in store.search([IS_PIPELINE], 100)] == ids
        assert store.count([]) == 4 * (len(STAGES) + 1)
    assert stores[0].search([], 100) == stores[1].search([], 100)
    made = {"gpu@champion": "gpu/3", "demo@candidate": "demo/4"}
    assert stores[0].aliases() == stores[1].aliases() == made


def test_the_commands_import_nothing_heavy(tmp_path: Path, migrated_mlflow: Path, monkeypatch: pytest.MonkeyPatch):
    ids = make_project(tmp_path, 2, migrated_mlflow)
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
    script = (
        "import contextlib, io, json, sys\n"
        "from rlhf.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main(sys.argv[1:])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    for command in (["runs"], ["compare", *ids]):
        done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
        heavy = {"mlflow", "torch", "transformers", "dvc", "prefect", "matplotlib", "scipy", "pandas"}
        assert heavy.isdisjoint(json.loads(done.stdout))
