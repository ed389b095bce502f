"""`rlhf worker`: this host computes what the recipes of another host's `rlhf up` send to a work pool."""

import asyncio
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import httpx
import psutil
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows.pools import stage_in_pool
from flows.servers.deployments import CODE_VARIABLE, Joined, job_template, runs_at_a_time
from flows.servers.flow_runs import POOL, cancel_in_flight, crash_in_flight
from flows.servers.given import check_answers
from rlhf.addresses import public_address, with_public_addresses
from rlhf.errors import ConfigError
from rlhf.paths import root, run_environment, source_root
from rlhf.provenance.same_code import check_same
from rlhf.text.terminal import say
from rlhf.tracking.artifact_checks import check_artifacts
from rlhf.tracking.client import check_reachable, tracking_uri
from rlhf.tracking.known_stores import store_identity
from rlhf.tracking.run_locks import is_alive
from rlhf.tracking.runs import close_killed_runs
from tasks.core_slots import CORES, CORES_VARIABLE
from tasks.pools import deployment_of

_STOP_SECONDS = 10.0


def work(pool: str, on_ready: Callable[[], None] = lambda: None) -> None:
    """Join a pool, and compute what is sent to it until Ctrl-C or SIGTERM.

    Args:
        pool: its name; it is made where it is new.
        on_ready: called once the worker has been started.

    Raises:
        ConfigError: a server does not answer, or is of another version; the code of this host is not that of the host
            of the servers.
        UnusableStoreError: runs or artifacts cannot be written from here.
    """
    if pool == POOL:
        raise ConfigError(f"--pool {pool}: that is the pool of the host of `rlhf up` itself; choose another name")
    api = os.environ["PREFECT_API_URL"]
    check_answers(api)
    check_reachable()
    check_artifacts()
    asyncio.run(_join(pool, api))
    close_killed_runs()
    process = subprocess.Popen(_command(pool), env=os.environ | _environment(), start_new_session=True)
    try:
        say(f"This host, {platform.node()}, works for the pool {pool} of {public_address(api)}")
        say("Ctrl-C ends it, and cancels the runs that are under way; they keep their checkpoints", flush=True)
        on_ready()
        if code := process.wait():
            raise ConfigError(f"the worker has ended by itself, with exit code {code}; what it said is above")
    except KeyboardInterrupt:
        say()
    finally:
        _stop(process, pool)


async def _join(pool: str, api: str) -> None:
    """Hold this host against that of the servers, and make pool, limit and deployment."""
    async with get_client() as client:
        await _check(client, api)
        template = job_template(None)
        try:
            await client.read_work_pool(pool)
        except ObjectNotFound:
            await client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
        await client.update_work_pool(pool, WorkPoolUpdate(is_paused=False, base_job_template=template))
        await client.upsert_global_concurrency_limit_by_name(cores_limit(), os.cpu_count() or 1)
        flow_id: UUID = await client.create_flow_from_name(stage_in_pool.name)
        await client.create_deployment(
            flow_id,
            name=deployment_of(pool),
            description=f"One stage of a run, on a host of the pool {pool}. Runs send it; `rlhf worker` joins a host.",
            entrypoint="flows.pools.stage_in_pool",
            work_pool_name=pool,
            tags=["stage"],
            parameter_openapi_schema=parameter_schema(stage_in_pool).model_dump(exclude_unset=True),
            enforce_parameter_schema=False,
        )


async def _check(client: PrefectClient, api: str) -> None:
    """Refuse servers of another version, or of another store.

    Raises:
        ConfigError: says which.
    """
    variable = await client.read_variable_by_name(CODE_VARIABLE)
    try:
        theirs = Joined.model_validate(None if variable is None else variable.value)
    except ValidationError:
        raise ConfigError(
            f"PREFECT_API_URL is {public_address(api)}, a server that does not say which code its `rlhf up` has; start "
            "`rlhf up` of this version there"
        ) from None
    check_same(theirs.code, "the host of `rlhf up`")
    if theirs.store != store_identity():
        raise ConfigError(
            f"MLFLOW_TRACKING_URI is {public_address(tracking_uri())}, which is not the store that the `rlhf up` of "
            f"{public_address(api)} has its runs in; set both to the addresses that it prints"
        )


def cores_limit() -> str:
    """The name of the limit on this host's cores."""
    return f"{CORES}-{re.sub(r'[^A-Za-z0-9.-]', '-', platform.node()) or 'host'}"


def _command(pool: str) -> list[str]:
    prefect = str(Path(sys.executable).parent / "prefect")
    named = ["--pool", pool, "--type", "process", "--name", platform.node() or "worker"]
    return [prefect, "worker", "start", *named, "--limit", str(runs_at_a_time())]


def _environment() -> dict[str, str]:
    """The environment of the worker and of the runs that it starts."""
    paths = [str(source_root()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return run_environment() | {
        "PYTHONPATH": os.pathsep.join(paths),
        "RLHF_ROOT": str(root()),
        CORES_VARIABLE: cores_limit(),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
    }


def _stop(process: "subprocess.Popen[bytes]", pool: str) -> None:
    """Cancel the runs of this host, wait for them, and end the worker with what is left."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    pids = {str(child.pid) for child in children}

    def is_ours(run: FlowRun) -> bool:
        return is_alive(str(run.id)) or run.infrastructure_pid in pids

    try:
        cancel_in_flight(pool, is_ours)
    except httpx.HTTPError as error:
        say(f"Prefect does not answer, so runs are marked as Crashed later: {with_public_addresses(repr(error))}")
    process.terminate()  # it tells Prefect that it goes, and waits for runs that did not end
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for child in children:
        if child.is_running():
            child.kill()
    process.kill()
    process.wait()
    psutil.wait_procs(children, timeout=_STOP_SECONDS)
    with suppress(httpx.HTTPError):  # said above; the heartbeat tells
        crash_in_flight(pool, lambda run: run.infrastructure_pid in pids)
