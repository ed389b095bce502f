"""What all tests share: no network, one thread, and stores of their own: git and DVC, MLflow, Prefect."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import settings
from made_once import made_once
from second_tries import KNOWN

_SESSION = Path(tempfile.mkdtemp(prefix="rlhf-tests-"))
# Where several processes share the tests, the first one's folder is known to those that it starts.
os.environ.setdefault("RLHF_TESTS_FOLDER", str(_SESSION))
os.environ |= {
    "RLHF_ROOT": str(_SESSION / "nowhere"),
    "PREFECT_HOME": str(_SESSION / "prefect"),
    "PREFECT_LOGGING_TO_CONSOLE": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    # Where a test takes two threads, one that waits leaves its core to the other processes of the tests: a run of bf16
    # on two threads took 49 s without it, and 8 s with it.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{f"GIT_{who}_{what}": "tests@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("PREFECT_API_URL", None)

from rlhf.paths import configure_environment  # noqa: E402

configure_environment()
# A shell starts what it puts in the background deaf to Ctrl-C, and so would be all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish() -> None:
    """Remove the stores."""
    shutil.rmtree(_SESSION, ignore_errors=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failure at once: pytest tells at the end alone, and a run that is cut off has none."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        reason = report.longreprtext.splitlines()[-1:]
        print(f"\n{datetime.now():%T} {report.nodeid}, {report.when}: {' '.join(reason)}", flush=True)


# A machine that does other work besides makes any example slow.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A second try is for the tests that are known to need one."""
    for item in items:
        if item.nodeid.partition("[")[0] in KNOWN:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def migrated_mlflow() -> Path:
    """An empty MLflow store. Making one takes seconds, copying it none."""
    return made_once("mlflow", _migrate_mlflow) / "mlflow.db"


def _migrate_mlflow(folder: Path) -> None:
    from mlflow.tracking import MlflowClient

    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()


@pytest.fixture(scope="session")
def empty_repository() -> Path:
    """A git and DVC repository with one commit and no data."""
    return made_once("repository", _start_repository)


def _start_repository(folder: Path) -> None:
    from dvc.repo import Repo

    subprocess.run(["git", "init", "--quiet", "--initial-branch=main"], cwd=folder, check=True)
    Repo.init(str(folder)).close()
    (folder / ".gitignore").write_text("/data\n/mlruns\n/.rlhf\n/.prefect\n")
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "An empty project"], cwd=folder, check=True)


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    """Where the test's project will be."""
    return tmp_path / "project"


@pytest.fixture
def project_root(
    project_folder: Path, migrated_mlflow: Path, empty_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project of the test's own: a git and DVC repository, an MLflow store, and RLHF_ROOT pointing there."""
    root = project_folder
    shutil.copytree(empty_repository, root)
    (root / "mlruns").mkdir()
    shutil.copy(migrated_mlflow, root / "mlruns" / "mlflow.db")
    monkeypatch.setenv("RLHF_ROOT", str(root))
    return root


@pytest.fixture(scope="session")
def embedded_data(empty_repository: Path) -> Path:
    """The embedded data set, and data.dvc that tracks it."""
    from rlhf.data.embedded import generate
    from rlhf.data.versions import resolve as source

    def make(folder: Path) -> None:
        shutil.copytree(empty_repository, folder, dirs_exist_ok=True)
        (folder / "data").mkdir()
        generate("calibrated_arithmetic", folder / "data")
        source.track(folder, {"generator": "calibrated_arithmetic"})

    return made_once("embedded", make)


@pytest.fixture
def embedded_project(project_root: Path, embedded_data: Path) -> Path:
    """A project with the embedded data in place, committed."""
    shutil.copytree(embedded_data / "data", project_root / "data")
    shutil.copy(embedded_data / "data.dvc", project_root)
    subprocess.run(["git", "add", "--all"], cwd=project_root, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "The embedded data"], cwd=project_root, check=True)
    return project_root


@pytest.fixture(scope="session")
def migrated_prefect() -> Path:
    """A Prefect home with an empty database. Making one takes seconds, copying it none."""
    return made_once("migrated-prefect", _migrate_prefect)


def _migrate_prefect(home: Path) -> None:
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    subprocess.run(command, env=os.environ | {"PREFECT_HOME": str(home)}, check=True, capture_output=True)


@pytest.fixture(scope="session")
def registered_prefect(migrated_prefect: Path) -> Path:
    """A Prefect home whose server knows all deployments, so that a start of the services finds them as they are."""
    return made_once("registered-prefect", lambda home: _register_deployments(migrated_prefect, home))


_REGISTER = """
import asyncio
from flows.servers.temporary import temporary_server
with temporary_server():
    from flows.servers import deployments
    asyncio.run(deployments.set_up())
    deployments.deploy(deployments.make_deployments())
"""


def _register_deployments(migrated: Path, home: Path) -> None:
    shutil.copytree(migrated, home, dirs_exist_ok=True)
    with tempfile.TemporaryDirectory() as root:
        environment = os.environ | {"PREFECT_HOME": str(home), "RLHF_ROOT": root}
        subprocess.run([sys.executable, "-c", _REGISTER], env=environment, check=True, cwd=Path(__file__).parents[1])


@pytest.fixture(scope="session")
def prefect_server(migrated_prefect: Path) -> Iterator[str]:
    """A real Prefect server with a database of its own. Yields the URL of its API."""
    from flows.servers.temporary import temporary_server

    shutil.copytree(migrated_prefect, os.environ["PREFECT_HOME"], dirs_exist_ok=True)
    with temporary_server() as url:
        yield url


@pytest.fixture(scope="session")
def client_environment(prefect_server: str) -> dict[str, str]:
    """By which other processes find that server, and are let in."""
    from prefect.settings import get_current_settings

    password = get_current_settings().api.auth_string
    assert password is not None
    return {"PREFECT_API_URL": prefect_server, "PREFECT_API_AUTH_STRING": password.get_secret_value()}


@pytest.fixture
def s3_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a bucket of an S3 server on this machine, which the environment names."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "bucket"
    server.stop()
