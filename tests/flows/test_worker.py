"""`rlhf worker`: what a second host refuses before it takes any work."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from tracking_server import Server

from flows.servers import worker
from flows.servers.deployments import CODE_VARIABLE, Joined, note_code
from rlhf.cli.main import main
from rlhf.errors import ConfigError
from rlhf.provenance.same_code import this_code
from rlhf.tracking.known_stores import store_identity


@pytest.fixture
def servers(project_root: Path, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both servers of another host, named by the environment."""
    server = Server(tmp_path, project_root / "mlruns" / "mlflow.db")
    server.start()
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "second"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    yield prefect_server
    server.stop()


async def note(value: Joined | None) -> None:
    async with get_client() as client:
        await note_code(client)
        if value is None:
            await client.delete_variable_by_name(CODE_VARIABLE)
        else:
            from prefect.client.schemas.actions import VariableUpdate

            await client.update_variable(VariableUpdate(name=CODE_VARIABLE, value=value.model_dump(mode="json")))


@pytest.mark.parametrize(
    ("variables", "pool", "message"),
    [
        ({}, "gpu", "PREFECT_API_URL names no server"),
        ({"PREFECT_API_URL": "http://127.0.0.1:1/api"}, "gpu", "MLFLOW_TRACKING_URI names no server"),
        (
            {"PREFECT_API_URL": "http://127.0.0.1:1/api", "MLFLOW_TRACKING_URI": "sqlite:////shared/mlflow.db"},
            "gpu",
            "MLFLOW_TRACKING_URI names no server",
        ),
        (
            {"PREFECT_API_URL": "http://127.0.0.1:1/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"},
            "The GPU",
            "--pool The GPU: expected lower-case letters",
        ),
    ],
)
def test_the_command_needs_servers(
    variables: dict[str, str],
    pool: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["worker", "--pool", pool]) == 2
    assert message in capsys.readouterr().err


def test_servers_of_another_version_or_store(servers: str):
    with pytest.raises(ConfigError, match="the pool of the host of `rlhf up` itself"):
        worker.work("rlhf")
    same = Joined(code=this_code(), store=store_identity())
    other = this_code().model_copy(update={"sources": "f" * 64})
    for value, message in (
        (None, "does not say which code its `rlhf up` has"),
        (same.model_copy(update={"code": other}), "this host has not the code of the host of `rlhf up`: sources"),
        (same.model_copy(update={"store": "1-1"}), "which is not the store that the `rlhf up` of"),
    ):
        asyncio.run(note(value))
        with pytest.raises(ConfigError, match=message):
            worker.work("gpu")
