"""The setup of the Prefect server at the start: work pool, limit on the cores, automations, deployments."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from flows.servers.automations import set_up_automations
from flows.servers.flow_runs import POOL
from flows.servers.prefect_yaml import own_recipes, prefect_yaml
from flows.servers.supervision import ServiceError
from rlhf.config.loading import load_config
from rlhf.config.recipes import recipes
from rlhf.errors import ConfigError
from rlhf.files.atomic import write_file
from rlhf.paths import local_folder, run_environment, source_root
from rlhf.services.schedule import Schedule, read_schedule
from rlhf.text.terminal import say
from tasks.core_slots import CORES

GIB = 2**30
GIB_A_RUN = 1.0
"""Memory per run: a run that waits for cores holds half of it; the run that computes holds more."""
KEPT_FREE_GIB = 6.0
"""For the run that computes, and for all else on the machine."""


async def set_up() -> None:
    """Make, or bring up to date, the work pool, the limit on the cores, and the automations."""
    async with get_client() as client:
        await _set_up_pool(client)
        await client.upsert_global_concurrency_limit_by_name(CORES, os.cpu_count() or 1)
        await set_up_automations(client)


async def pause_pool(*, paused: bool) -> None:
    """Stop, or let, workers take runs."""
    async with get_client() as client:
        await client.update_work_pool(POOL, WorkPoolUpdate(is_paused=paused))


def deploy(*, unchanged: bool = True) -> None:
    """Register all deployments: those of prefect.yaml, and every further recipe of configs/.

    Args:
        unchanged: also where they are as they were when they were registered last.

    Raises:
        ServiceError: Prefect refuses one.
    """
    own, errors = own_recipes()
    for error in errors:
        say(f"not registered: {error}", file=sys.stderr, flush=True)
    file, text = local_folder("services") / "prefect.yaml", prefect_yaml(own, _schedule())
    if not unchanged and file.read_text(encoding="utf-8") == text:
        return
    write_file(file, text)
    program = str(Path(sys.executable).parent / "prefect")
    done = subprocess.run(
        [program, "--no-prompt", "deploy", "--all", "--prefect-file", str(file)],
        cwd=source_root(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join(f"  {line}" for line in f"{done.stdout}{done.stderr}".splitlines()[-20:])
        raise ServiceError(f"{file}: a deployment could not be registered:\n{last}")


def recipe_times() -> dict[Path, int]:
    """The files of configs/, and when each was written last, in nanoseconds."""
    times = {}
    for file in recipes().values():
        with suppress(FileNotFoundError):  # it was removed, or is a link that leads nowhere
            times[file] = file.stat().st_mtime_ns
    return times


def _schedule() -> Schedule | None:
    """The schedule, where its recipe can be used; the services start without it otherwise."""
    try:
        schedule = read_schedule()
        if schedule is not None:
            load_config(Path(schedule.recipe))
    except ConfigError as error:
        say(f"nothing is scheduled: {error}", file=sys.stderr)
        return None
    return schedule


async def _set_up_pool(client: PrefectClient) -> None:
    template = _job_template()
    try:
        await client.read_work_pool(POOL)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    await client.update_work_pool(
        POOL, WorkPoolUpdate(is_paused=False, base_job_template=template, concurrency_limit=runs_at_a_time())
    )


def runs_at_a_time() -> int:
    """The number of runs that the machine's free memory holds; other runs wait, and hold nothing."""
    free = psutil.virtual_memory().available / GIB - KEPT_FREE_GIB
    return max(1, int(free / GIB_A_RUN))


def _job_template() -> dict[str, Any]:
    """The way the worker starts a run. A person who submits a run chooses data and settings, and nothing of this.

    The worker's own template lets a submitter name a command, an environment and a working folder, each of which is a
    way to run anything.
    """
    return {
        "job_configuration": {
            "name": None,
            "command": None,
            "env": run_environment(),
            "labels": {},
            "stream_output": True,
            "working_dir": str(source_root()),
        },
        "variables": {"type": "object", "properties": {}, "additionalProperties": False},
    }
