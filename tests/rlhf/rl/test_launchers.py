"""What torchrun, accelerate and MPI leave in an environment does not reach a run."""

import logging
import os

import pytest

from rlhf.rl.launchers import drop_launcher_variables

LEFT_OVER = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29512",
    "TORCHELASTIC_RUN_ID": "none",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_SIZE": "4",
    "FSDP_VERSION": "2",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in LEFT_OVER:
            monkeypatch.delenv(name)


def test_they_are_dropped_and_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, "rlhf"):
        assert drop_launcher_variables() == sorted(LEFT_OVER)
        assert drop_launcher_variables() == []
    assert LEFT_OVER.keys().isdisjoint(os.environ)
    (record,) = caplog.records
    assert all(name in record.getMessage() for name in LEFT_OVER)


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "SLURM_JOB_ID", "RANKING"])
def test_others_stay(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "1")
    assert name not in drop_launcher_variables()
    assert os.environ[name] == "1"
