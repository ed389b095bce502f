"""What libraries and the system raise comes out of a command as one message, and a defect is called one."""

import errno
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets.exceptions
import dvc.exceptions
import dvc_objects.errors
import filelock
import httpx
import huggingface_hub.errors
import jinja2
import mlflow.exceptions
import prefect.exceptions
import psycopg
import pytest
import requests
import safetensors
import scmrepo.exceptions
import sqlalchemy
import torch
import yaml

from rlhf.cli.main import main
from rlhf.errors import InputError
from rlhf.failures import LibraryError, explain, explained

NOT_MOUNTED = "this system lets nobody mount a disk of his own"
NOT_FOUND = httpx.Response(404, request=httpx.Request("GET", "http://127.0.0.1"))
Refused = Callable[..., str]


def of_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nothing of the kind")
    with safetensors.safe_open(folder / "model.safetensors", "pt"):
        pass


def of_jinja2(folder: Path) -> None:
    jinja2.Environment(autoescape=True).from_string("{% for %}")


def of_pyarrow(folder: Path) -> None:
    import pyarrow.parquet

    (folder / "x.parquet").write_bytes(b"PAR1 and no more PAR1")
    pyarrow.parquet.read_table(folder / "x.parquet")


def of_dvc(folder: Path) -> None:
    from dvc.repo import Repo

    Repo(str(folder))


def of_sqlite(folder: Path) -> None:
    (folder / "x.db").write_text("hello, and no database at all" * 100)
    sqlite3.connect(folder / "x.db").execute("SELECT * FROM runs")


def of_sqlalchemy(folder: Path) -> None:
    sqlalchemy.create_engine(f"sqlite:///{folder}/no/x.db").connect()


def of_yaml(folder: Path) -> None:
    yaml.safe_load("a: [")


def of_mlflow(folder: Path) -> None:
    from mlflow.tracking import MlflowClient

    MlflowClient("foo://bar")


def of_psycopg(folder: Path) -> None:
    psycopg.connect("postgresql://127.0.0.1:9/x", connect_timeout=2)


def of_httpx(folder: Path) -> None:
    httpx.get("http://127.0.0.1:9")


def of_requests(folder: Path) -> None:
    requests.get("http://127.0.0.1:9", timeout=1)


def of_git(folder: Path) -> None:
    subprocess.run(["git", "log"], cwd=folder, check=True, capture_output=True, env={**os.environ, "GIT_DIR": "/nope"})


def of_a_program(folder: Path) -> None:
    subprocess.run(["no-such-program"], check=True)


def of_a_folder(folder: Path) -> None:
    folder.read_text()


def of_a_file_below_a_file(folder: Path) -> None:
    (folder / "file").touch()
    (folder / "file" / "below").mkdir()


def of_a_missing_file(folder: Path) -> None:
    (folder / "gone").read_text()


def of_a_long_name(folder: Path) -> None:
    (folder / ("x" * 300)).touch()


def of_a_loop(folder: Path) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "loop").read_text()


def of_a_full_disk(folder: Path) -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x")


def of_a_name(folder: Path) -> None:
    os.fsdecode(b"caf\xe9").encode()


def of_a_text(folder: Path) -> None:
    b"caf\xe9".decode()


REAL = {
    of_safetensors: "a file of weights failed (SafetensorError: .*download or copy",
    of_jinja2: "the chat template failed (TemplateError: .*mend chat_template",
    of_pyarrow: "a Parquet or CSV file failed (ArrowException: .*as JSON Lines",
    of_dvc: "DVC failed (DvcException: .*rlhf data status",
    of_sqlite: "a SQLite file failed (file is not a database)",
    of_sqlalchemy: "a database failed (SQLAlchemyError: .*unable to open database file",
    of_yaml: "a YAML file cannot be read (",
    of_mlflow: "the MLflow store failed (MlflowException: .*unsupported URI 'foo://bar'",
    of_psycopg: "PostgreSQL failed (Error: .*refused",
    of_httpx: "a server failed (HTTPError: .*refused",
    of_requests: "a server failed (RequestException: .*refused",
    of_git: "`git log` ended with exit code 128 and said: fatal: not a git repository",
    of_a_program: "the program no-such-program is not there; install it",
    of_a_folder: "{folder}: is a folder where a file is expected",
    of_a_file_below_a_file: "{folder}/file/below: is a file, or lies below one, where a folder is expected",
    of_a_missing_file: "{folder}/gone: is not there",
    of_a_long_name: "{folder}/xxx.*: is too long a name",
    of_a_loop: "{folder}/loop: is a link that leads to itself",
    of_a_full_disk: "the disk is full (.*make room there (`rlhf gc`",
    of_a_name: r"a file name is not UTF-8: ...caf\udce9...; rename that file",
    of_a_text: "a text is not UTF-8 (byte 3: ",
}
MADE = {
    OSError(errno.EACCES, "Permission denied", "/data/x"): "/data/x: may not be read or written by this user",
    OSError(errno.EROFS, "Read-only file system", "/data/x"): "/data/x: is on a disk that cannot be written",
    OSError(errno.EIO, "Input/output error", "/data/x"): "/data/x: cannot be read or written: the disk reports",
    OSError(errno.ENOTSUP, "Operation not supported", "/data/x"): "/data/x: the system refuses ([Errno",
    MemoryError(): "memory ran out; .*micro_batch_size",
    torch.OutOfMemoryError("CUDA out of memory"): "memory of the device failed .*micro_batch_size",
    dvc.exceptions.CheckoutError([], {}): "DVC failed",
    dvc_objects.errors.ObjectFormatError("damaged"): "DVC's cache failed .*rlhf data pull",
    scmrepo.exceptions.SCMError("bad index"): "the git repository failed .*git fsck",
    prefect.exceptions.ObjectNotFound(Exception("x")): "Prefect failed (PrefectException",
    prefect.exceptions.MissingResult("no result"): "Prefect failed (PrefectException: no result)",
    mlflow.exceptions.MlflowException("two\nlines"): "the MLflow store failed (MlflowException: two lines)",
    datasets.exceptions.DatasetNotFoundError("no x"): "a data set of the hub failed|x is not there|the system refuses",
    huggingface_hub.errors.HfHubHTTPError("no x", response=NOT_FOUND): "the Hugging Face hub failed",
    filelock.Timeout("/x.lock"): "a lock failed|/x.lock",
}


@pytest.fixture
def refused(project_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command in the middle of which something is raised, and return its one line."""

    def run(failing: Callable[[], object], exit_code: int = 2) -> str:
        monkeypatch.setattr("rlhf.cli.data.status", lambda root: failing())
        assert main(["data", "status"]) == exit_code
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "Traceback" not in shown.err
        (line,) = shown.err.splitlines()
        assert line.startswith("rlhf: error: ")
        return line.removeprefix("rlhf: error: ")

    return run


def pattern(words: str, folder: Path) -> str:
    """The words as they stand, but for what is between them."""
    return "|".join(
        ".*".join(map(re.escape, one.split(".*"))) for one in words.replace("{folder}", str(folder)).split("|")
    )


@pytest.mark.parametrize("failing", REAL, ids=lambda failing: failing.__name__)
def test_what_a_library_really_raises(failing: Callable[[Path], None], refused: Refused, tmp_path: Path):
    line = refused(lambda: failing(tmp_path))
    assert re.search(pattern(REAL[failing], tmp_path), line), line
    (kept,) = (tmp_path / "project" / ".rlhf" / "errors").iterdir()
    assert failing.__name__ in kept.read_text()


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_what_is_hard_to_bring_about(error: Exception, refused: Refused, tmp_path: Path):
    def failing() -> None:
        raise error

    line = refused(failing)
    assert re.search(pattern(MADE[error], tmp_path), line), line
    assert line.endswith("then give the command again") or isinstance(error, MemoryError)


@pytest.mark.parametrize(
    "error", [KeyError("x"), AssertionError("no\nway"), TypeError("f() takes 1"), ValueError("odd"), RuntimeError()]
)
def test_a_defect_is_called_one_and_its_traceback_is_kept(error: Exception, refused: Refused, project_root: Path):
    def failing() -> None:
        raise error

    line = refused(failing, exit_code=1)
    assert line.startswith(f"this is a defect of rlhf, and not of what you gave: {type(error).__name__}: ")
    (kept,) = (project_root / ".rlhf" / "errors").iterdir()
    assert line.endswith(f"please report it, with the file {kept}")
    assert "Traceback (most recent call last)" in kept.read_text()


def test_an_error_of_ours_stays_as_it_is():
    with pytest.raises(InputError, match=r"^ours$"), explained():
        raise InputError("ours")
    with pytest.raises(KeyError), explained():
        raise KeyError("x")
    with pytest.raises(LibraryError, match="not there") as raised, explained():
        Path("/no/such/file").read_text()
    assert isinstance(raised.value.__cause__, FileNotFoundError)


def test_libraries_are_not_imported_to_ask_for_their_errors():
    code = (
        "import sys; from rlhf.failures import explain; assert explain(ValueError()) is None; "
        "assert not {'torch', 'mlflow', 'prefect', 'dvc', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not hasattr(os, "setsid"), reason="wants a shell of Unix")
def test_a_reader_that_has_gone_is_no_error(project_root: Path):
    script = f"{sys.executable} -m rlhf.cli run --help all | true; echo ${{PIPESTATUS[0]}}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.stdout.strip() in ("0", "141")


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 99; cd /; shift; exec "$@"'


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["data", "import", "{rows}"], 2, "is on a disk that cannot be written; .*RLHF_ROOT"),
        (["data", "add", "{rows}"], 2, "is on a disk that cannot be written"),
        (["data", "pull"], 0, ""),
        (["stage", "data", "configs/smoke.yaml"], 2, "is on a disk that cannot be written"),
        (["gc"], 2, "knows no run|cannot be written|read-only|readonly"),
        (["ui"], 0, ""),
        (["runs"], 0, ""),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_project_that_cannot_be_written(
    arguments: list[str], code: int, says: str, embedded_project: Path, tmp_path: Path
):
    """By a mount, since permissions do not bind everybody."""
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip(NOT_MOUNTED)
    here = Path(__file__).resolve().parents[2]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Why?", "chosen": "So.", "rejected": "No."}\n')
    words = [one.replace("{rows}", str(rows)).replace("configs", str(here / "configs")) for one in arguments]
    command = [
        "unshare",
        "-Urm",
        "sh",
        "-c",
        READ_ONLY,
        "sh",
        str(embedded_project),
        sys.executable,
        "-m",
        "rlhf.cli",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    done = subprocess.run(
        [*command, *words], env=environment | {"PYTHONPATH": str(here)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code:
        last = done.stderr.splitlines()[-1]
        assert last.startswith("rlhf: error: ")
        assert re.search(pattern(says, tmp_path), last), last


def test_a_library_that_was_never_imported_has_raised_nothing():
    assert explain(LookupError("x")) is None
