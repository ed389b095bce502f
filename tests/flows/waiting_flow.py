"""A run whose stage waits for a file: `python waiting_flow.py FILE`. For the tests of runs that are told to stop."""

import sys
import time
from pathlib import Path

from rlhf.paths import configure_environment

configure_environment()

from prefect import flow  # noqa: E402

from flows.servers.temporary import temporary_server  # noqa: E402
from rlhf.cli.main import _terminable  # noqa: E402
from rlhf.config.model import ArchitectureConfig, ModelConfig  # noqa: E402
from rlhf.config.pipeline import PipelineConfig  # noqa: E402
from rlhf.config.supervised import SFTConfig  # noqa: E402
from rlhf.references import ModelRef, StageReport  # noqa: E402
from tasks.pipeline_run import cancel_on_signal, pipeline_run  # noqa: E402
from tasks.stage import Attempt, stage  # noqa: E402


@stage("sft", version="1", module="rlhf.policy.masking")
def wait(attempt: Attempt, config: SFTConfig) -> ModelRef:
    """Wait."""
    resumed = (attempt.workspace.checkpoints / "step_1").exists()
    (attempt.workspace.checkpoints / "step_1").touch()
    print("resumed" if resumed else "waiting", flush=True)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.02)
    (attempt.workspace.output / "weights").write_text("w")
    return attempt.save(ModelRef)


@flow(on_crashed=[cancel_on_signal])
def waiting_flow(config: PipelineConfig) -> StageReport:
    """A pipeline of one stage that waits."""
    with pipeline_run(config) as (run, config):
        wait(config.sft)
        return run.stages[-1]


if __name__ == "__main__":
    with _terminable(), temporary_server():
        model = ModelConfig(architecture=ArchitectureConfig())
        print(waiting_flow(PipelineConfig(model=model)).state, flush=True)
