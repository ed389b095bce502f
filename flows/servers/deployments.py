"""What the Prefect server is told at the start: work pool, limit on the cores, automations, deployments."""

import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.servers.automations import set_up_automations
from flows.servers.runs import POOL
from flows.servers.supervision import ServiceError
from rlhf.project import source_root
from tasks.slots import CORES


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


def deploy() -> None:
    """Register all deployments of prefect.yaml.

    Raises:
        ServiceError: the file is gone, or Prefect refuses it.
    """
    file = source_root() / "prefect.yaml"
    if not file.is_file():
        raise ServiceError(f"{file}: there is no such file; run from a checkout of the project")
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


async def _set_up_pool(client: PrefectClient) -> None:
    try:
        await client.read_work_pool(POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    await client.update_work_pool(POOL, WorkPoolUpdate(is_paused=False))
