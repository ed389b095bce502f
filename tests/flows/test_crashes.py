"""Crashes for real: a process, a server or the whole machine is killed in a stage, and the run ends with the same bits.

`make soak` kills each kind in every stage at three moments, which are others at every call; their seed is printed, and
RLHF_CRASH_SEED sets it. A server that hangs does so for 20 seconds, in the soak for five minutes.
test_services has a few kinds, in a stage and at a moment that are always the same.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from crashing import KINDS, KNOBS, NUM_MOMENTS, crash, seconds_into, undisturbed
from started_services import Up, make_project


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory, migrated_mlflow: Path, registered_prefect: Path, embedded_data: Path
) -> Iterator[Up]:
    folder = make_project(
        tmp_path_factory.mktemp("crashes") / "project", embedded_data, migrated_mlflow, registered_prefect
    )
    started = Up(folder)
    started.start()
    yield started
    started.end()


@pytest.fixture(scope="module")
def expected(up: Up) -> str:
    return undisturbed(up)


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("moment", range(NUM_MOMENTS))
@pytest.mark.parametrize("stage", KNOBS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_of_each_kind_in_every_stage(up: Up, expected: str, kind: str, stage: str, moment: int):
    number = 100 + ([*KINDS].index(kind) * len(KNOBS) + [*KNOBS].index(stage)) * NUM_MOMENTS + moment
    crash(up, KINDS[kind], stage, number, seconds_into(stage, moment, number), expected)
