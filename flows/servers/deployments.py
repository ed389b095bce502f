"""The setup of the Prefect server at the start: work pool, limit on the cores, automations, deployments."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    VariableCreate,
    VariableUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel
from pydantic_core import to_json

from flows.servers.automations import set_up_automations
from flows.servers.flow_runs import POOL
from flows.servers.prefect_yaml import own_recipes, prefect_yaml
from flows.servers.supervision import ServiceError
from rlhf.config.loading import load_config
from rlhf.config.recipes import recipes
from rlhf.errors import ConfigError, one_line
from rlhf.files.atomic import write_file
from rlhf.paths import local_folder, run_environment, source_root
from rlhf.provenance.same_code import Code, this_code
from rlhf.services.schedule import Schedule, read_schedule
from rlhf.text.terminal import say
from rlhf.tracking.known_stores import store_identity
from tasks.core_slots import CORES
from tasks.lease import PREFIX

CODE_VARIABLE = "rlhf_code"
"""Prefect's variable that says what `rlhf up` has registered."""
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
        await note_code(client)
        await _remove_free_leases(client)


async def pause_pool(*, paused: bool) -> None:
    """Stop, or let, workers take runs."""
    async with get_client() as client:
        await client.update_work_pool(POOL, WorkPoolUpdate(is_paused=paused))


class Joined(BaseModel):
    """What hosts must have in common with that of the servers.

    Attributes:
        code: of the host.
        store: identity of its store of runs.
    """

    code: Code
    store: str


@dataclass(frozen=True)
class Deployments:
    """Deployments as Prefect is told of them.

    Attributes:
        text: of the file that `prefect deploy --all` would register the same from.
        requests: arguments of Prefect's client, one for each, with the name of its flow.
    """

    text: str
    requests: Sequence[tuple[str, Mapping[str, Any]]]


def make_deployments() -> Deployments:
    """The deployments of prefect.yaml, and one for every further recipe of configs/."""
    own, errors = own_recipes()
    for error in errors:
        say(f"not registered: {error}", file=sys.stderr, flush=True)
    text = prefect_yaml(own, _schedule())
    describe = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=source_root(), capture_output=True, text=True, check=False
    )
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(source_root())}}]
    schemas: dict[str, dict[str, Any]] = {}
    requests = []
    for deployment in yaml.safe_load(text)["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        if flow.name not in schemas:  # of two hundred settings each, and many deployments have one flow
            schemas[flow.name] = parameter_schema(flow).model_dump(exclude_unset=True)
        limit = deployment.get("concurrency_limit", {})
        request = {
            **{field: deployment[field] for field in ("name", "description", "entrypoint", "tags", "parameters")},
            "version": describe.stdout.strip(),
            "work_pool_name": deployment["work_pool"]["name"],
            "schedules": list(map(_schedule_of, deployment.get("schedules", []))),
            "concurrency_limit": limit.get("limit"),
            "concurrency_options": {"collision_strategy": limit["collision_strategy"]} if limit else None,
            "parameter_openapi_schema": schemas[flow.name],
            "enforce_parameter_schema": True,
            "pull_steps": pull,
        }
        requests.append((flow.name, request))
    return Deployments(text, requests)


def _schedule_of(given: Mapping[str, Any]) -> DeploymentScheduleCreate:
    schedule = CronSchedule(cron=given["cron"], timezone=given["timezone"])
    return DeploymentScheduleCreate(schedule=schedule, active=given["active"])


def deploy(deployments: Deployments, *, unchanged: bool = True) -> None:
    """Register all deployments, as `prefect deploy --all` does in several times the time.

    Args:
        deployments: those there are.
        unchanged: also where they are as they were when they were registered last.

    Raises:
        ServiceError: Prefect refuses one.
    """
    file = local_folder("services") / "prefect.yaml"
    if not unchanged and file.read_text(encoding="utf-8") == deployments.text:
        return
    asyncio.run(register(deployments))
    write_file(file, deployments.text)


async def register(deployments: Deployments) -> None:
    """Register those that are not there, or are otherwise: each takes the server a third of a second."""
    flow_ids: dict[str, UUID] = {}
    async with get_client() as client:
        there = {deployment.name: deployment for deployment in await client.read_deployments(limit=200)}
        for flow, request in deployments.requests:
            if request["name"] in there and is_as_asked(there[request["name"]], request):
                continue
            try:
                if flow not in flow_ids:
                    flow_ids[flow] = await client.create_flow_from_name(flow)
                await client.create_deployment(flow_ids[flow], **request)
            except (httpx.HTTPError, PrefectException) as error:
                raise ServiceError(
                    f"the deployment {request['name']} could not be registered: {one_line(error)}"
                ) from error


def is_as_asked(there: DeploymentResponse, request: Mapping[str, Any]) -> bool:
    """Whether a deployment that Prefect has is what `make_deployments` asks for."""
    limit = there.global_concurrency_limit
    options = there.concurrency_options
    set_apart = {"schedules", "concurrency_limit", "concurrency_options"}
    has = {field: getattr(there, field) for field in request.keys() - set_apart} | {
        "schedules": [(one.schedule, one.active) for one in there.schedules],
        "concurrency_limit": limit.limit if limit else None,
        "concurrency_options": options.model_dump(mode="json", include={"collision_strategy"}) if options else None,
    }
    wanted = {**request, "schedules": [(one.schedule, one.active) for one in request["schedules"]]}
    # As JSON has it: a tuple has become a list.
    return bool(_through_json(has) == _through_json(wanted))


def _through_json(value: Any) -> Any:
    return json.loads(to_json(value))


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
    template = job_template(source_root())
    try:
        await client.read_work_pool(POOL)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    await client.update_work_pool(
        POOL, WorkPoolUpdate(is_paused=False, base_job_template=template, concurrency_limit=runs_at_a_time())
    )


async def _remove_free_leases(client: PrefectClient) -> None:
    """Each fingerprint that was ever computed has left a limit."""
    page, offset = 200, 0
    while limits := await client.read_global_concurrency_limits(limit=page, offset=offset):
        free = [limit for limit in limits if limit.name.startswith(PREFIX) and not limit.active_slots]
        for limit in free:
            await client.delete_global_concurrency_limit_by_name(limit.name)
        offset += len(limits) - len(free)


async def note_code(client: PrefectClient) -> None:
    """Write down the code of this host and its store of runs, for hosts that join it."""
    note = Joined(code=this_code(), store=store_identity()).model_dump(mode="json")
    if await client.read_variable_by_name(CODE_VARIABLE) is None:
        await client.create_variable(VariableCreate(name=CODE_VARIABLE, value=note))
    else:
        await client.update_variable(VariableUpdate(name=CODE_VARIABLE, value=note))


def runs_at_a_time() -> int:
    """The number of runs that the machine's free memory holds; other runs wait, and hold nothing."""
    free = psutil.virtual_memory().available / GIB - KEPT_FREE_GIB
    return max(1, int(free / GIB_A_RUN))


def job_template(folder: Path | None) -> dict[str, Any]:
    """The way a worker starts a run. A person who submits a run chooses data and settings, and nothing of this.

    The worker's own template lets a submitter name a command, an environment and a working folder, each of which is a
    way to run anything.

    Args:
        folder: that a run is started in; None for an empty one of its own.
    """
    return {
        "job_configuration": {
            "name": None,
            "command": None,
            "env": run_environment(),
            "labels": {},
            "stream_output": True,
            "working_dir": None if folder is None else str(folder),
        },
        "variables": {"type": "object", "properties": {}, "additionalProperties": False},
    }
