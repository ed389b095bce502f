"""A disk that is full: one line that says where and what to do, nothing half-written, and no run that stays open."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow.exceptions
import pytest
import sqlalchemy
from small_disk import small_disk

from rlhf import failures
from rlhf.cli.main import main
from rlhf.failures import LibraryError, explained
from rlhf.files.disk import full_disk, is_full
from rlhf.tracking import run_locks as living
from rlhf.tracking.client import UnusableStoreError
from rlhf.tracking.metric_buffer import MetricPoint, write_points
from rlhf.tracking.runs import close_killed_runs, close_run, closing_run, metric_log, open_pipeline
from rlhf.tracking.stores import open_store

POINTS = [MetricPoint("sft/loss", 1.0, 0, step) for step in range(1000)]


def of_the_system(folder: Path) -> None:
    """A real one, of a device that is always full. The error names no file."""
    with Path("/dev/full").open("w") as file:
        file.write("x" * 100_000)


def of_a_quota(folder: Path) -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded", str(folder / "not there" / "x"))


def of_sqlite(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "x.db")) as database:
        database.execute("CREATE TABLE IF NOT EXISTS t (x)")
        database.execute("PRAGMA max_page_count = 3")
        database.execute("INSERT INTO t VALUES (?)", ("x" * 100_000,))


def of_sqlalchemy(folder: Path) -> None:
    with sqlalchemy.create_engine(f"sqlite:///{folder / 'y.db'}").connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE IF NOT EXISTS t (x)"))
        connection.execute(sqlalchemy.text("PRAGMA max_page_count = 3"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (:x)"), {"x": "x" * 100_000})


def of_mlflow(folder: Path) -> None:
    raise mlflow.exceptions.MlflowException("(sqlite3.OperationalError) database or disk is full [SQL: INSERT]")


def of_weights(folder: Path) -> None:
    """Libraries that are written in Rust say it in words."""
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def behind_another(folder: Path) -> None:
    """What is cleared up afterwards fails as well, and says nothing of the disk."""
    try:
        of_the_system(folder)
    finally:
        (folder / "not there").read_text()


def before_another(folder: Path) -> None:
    try:
        of_sqlite(folder)
    except sqlite3.Error as error:
        raise ValueError("the store is odd") from error


FULL = [of_the_system, of_a_quota, of_sqlite, of_sqlalchemy, of_mlflow, of_weights, behind_another, before_another]


@pytest.mark.parametrize("failing", FULL, ids=lambda failing: failing.__name__)
def test_it_is_one_line(
    failing: Callable[[Path], None],
    project_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Row 11: it was a traceback of 60 to 140 lines, or a line about something else."""
    monkeypatch.setattr("rlhf.cli.data.status", lambda root: failing(tmp_path))
    assert main(["data", "status"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    where = tmp_path if failing is of_a_quota else project_root
    assert said.startswith(f"rlhf: error: {where}: the disk is full (")
    assert "`rlhf gc` lists what can go" in said
    with pytest.raises(LibraryError, match="the disk is full"), explained():
        failing(tmp_path)


def test_other_errors_stay_what_they_are(project_root: Path):
    """Row 11: only a disk without room is called full."""
    for error in (OSError(errno.EIO, "no"), sqlite3.OperationalError("locked"), ValueError("x"), MemoryError()):
        assert not is_full(error)
        assert full_disk(error) is None


def test_on_a_disk_without_room_the_disk_is_named_beside_any_error(
    project_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Row 11: a server whose disk is full answers with an error of its own, or not at all."""
    usage = type("Usage", (), {"free": 4096})
    monkeypatch.setattr("rlhf.files.disk.shutil.disk_usage", lambda folder: usage)
    assert main(["runs", "--limit", "0"]) == 2
    said = capsys.readouterr().err
    assert "error: --limit 0: expected a whole number at least 1; also, " in said
    assert "the disk is full (0.0 MiB are free)" in said


def test_the_traceback_that_can_be_kept_nowhere(monkeypatch: pytest.MonkeyPatch):
    """Row 11: an error while the first error was written down hid the first."""
    monkeypatch.setenv("RLHF_ROOT", "/proc/nowhere")
    monkeypatch.setattr(failures.tempfile, "gettempdir", lambda: "/proc/nowhere/else")
    assert failures.keep_traceback(ValueError("x")) is None
    assert "please report it, with what you did" in failures.report_defect(ValueError("x"))


def test_metrics_that_could_not_be_sent_are_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Row 11: the file of unsent metrics was cut off, and the next run could not read it."""
    monkeypatch.setattr("rlhf.files.atomic.secrets.token_hex", lambda _: "0")
    (tmp_path / ".0.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_points(tmp_path / "run.jsonl", POINTS)
    assert list(tmp_path.iterdir()) == []


def test_what_ended_a_stage_is_told_and_not_that_its_metrics_are_lost(
    project_root: Path, monkeypatch: pytest.MonkeyPatch
):
    """Row 11: the first error was hidden by that of the unsent metrics, which go to the same disk."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run_id = open_pipeline("a run", None, {}, {})
    monkeypatch.setattr("rlhf.tracking.metric_buffer.Spool.unsent", lambda self: POINTS)
    monkeypatch.setattr("rlhf.tracking.metric_buffer.Spool._send_all", lambda self: False)
    monkeypatch.setattr("rlhf.tracking.runs.write_points", full)
    with pytest.raises(ValueError, match=r"^the first$"), metric_log(run_id):
        raise ValueError("the first")


@contextmanager
def full_store(root: Path) -> Iterator[None]:
    """MLflow's own database takes no ends of runs, as on a full disk."""
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as database:
        database.execute(
            "CREATE TRIGGER no_room BEFORE UPDATE ON runs BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
        )
        yield
        database.execute("DROP TRIGGER no_room")


def test_a_full_store_is_not_asked_again_for_two_minutes(project_root: Path):
    """Row 11: waiting makes no room."""
    run_id = open_pipeline("a run", None, {}, {})
    begun = time.monotonic()
    with full_store(project_root), pytest.raises(UnusableStoreError, match="disk is full"):
        close_run(run_id, "FINISHED")
    assert time.monotonic() - begun < 10


def test_runs_whose_end_could_not_be_written_are_closed_by_the_next_command(project_root: Path):
    """Row 4: after a full disk MLflow runs stayed RUNNING for ever, and kept `rlhf gc` from making room."""
    with (
        full_store(project_root),
        pytest.raises(OSError, match="No space left"),
        living.hold_run_lock("flow-1"),
        closing_run(open_pipeline("a run", "flow-1", {}, {})),
    ):
        of_the_system(project_root)
    (run,) = open_store().search([], 10)
    assert run.status == "RUNNING"
    with full_store(project_root):
        assert main(["gc"]) == 0
    assert not living.is_alive("flow-1")
    assert main(["gc"]) == 0
    (run,) = open_store().search([], 10)
    assert run.status == "KILLED"
    assert close_killed_runs() == []


def test_a_run_that_is_half_made_is_closed_too(project_root: Path, monkeypatch: pytest.MonkeyPatch):
    """Row 4: a run was made, and then its settings did not fit, before anything was there to close it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rlhf.tracking.runs.log_settings", full)
        with pytest.raises(OSError, match="No space"), living.hold_run_lock("flow-2"):
            open_pipeline("a run", "flow-2", {}, {})
    assert close_killed_runs() == ["flow-2"]
    (run,) = open_store().search([], 10)
    assert run.status == "KILLED"


@pytest.mark.parametrize(
    ("room", "arguments"),
    [
        (20_000, ["data", "import", "{rows}", "--replace"]),
        (400_000, ["data", "import", "{rows}", "--replace"]),
        (3_000_000, ["stage", "data", "configs/smoke.yaml"]),
    ],
    ids=["import", "import with some room", "stage"],
)
def test_on_a_real_disk(room: int, arguments: list[str], embedded_project: Path, tmp_path: Path):
    """Row 11: on a small disk that is full, then with room again."""
    here = Path(__file__).resolve().parents[2]
    rows = tmp_path / "rows.jsonl"
    texts = [{"prompt": f"{n} {'why ' * 100}?", "chosen": "So.", "rejected": "No."} for n in range(5000)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in texts))
    words = [one.replace("{rows}", str(rows)).replace("configs", str(here / "configs")) for one in arguments]

    def rlhf() -> tuple[int, str]:
        environment = os.environ | {"RLHF_ROOT": str(disk.folder), "PREFECT_HOME": str(disk.folder / ".prefect")}
        command = [sys.executable, "-m", "rlhf.cli", *words]
        done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    with small_disk(tmp_path / "disk", 64) as disk:
        shutil.copytree(embedded_project, disk.folder, dirs_exist_ok=True)
        disk.fill(room)
        code, said = rlhf()
        assert code == 2, said
        assert "Traceback" not in said
        assert f"{disk.folder}: the disk is full" in said
        assert said.count("rlhf: error: ") == 1
        assert not [*disk.folder.rglob("*.partial"), *disk.folder.rglob(".rlhf-new-data-*")]
        disk.make_room()
        code, said = rlhf()
        assert code == 0, said
