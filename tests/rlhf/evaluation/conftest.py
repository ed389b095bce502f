import pytest
from known_models import write_world

from rlhf.metrics import check_declared
from rlhf.workspace import Workspace


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Outputs of the stages before an evaluation, of models whose every output is known. Read only."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def logged():
    """What a stage logged: (metrics, step)."""
    return []


@pytest.fixture
def workspace(tmp_path, logged):
    def log(metrics, step):
        check_declared(metrics)
        logged.append((dict(metrics), step))

    folders = [tmp_path / name for name in ("output", "report", "checkpoints")]
    for folder in folders:
        folder.mkdir()
    return Workspace(*folders, log)
