"""One process of a group, on a node of a Ray cluster."""

import asyncio
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig

from rlhf.cluster.nodes import NodeFacts, check_alike, facts, interface_of
from rlhf.cluster.plan import Plan
from rlhf.config.rl import RLConfig
from rlhf.files.checkpoint_mirror import last_step, mirrored
from rlhf.files.locks import locked
from rlhf.files.mirror import Mirror, list_files
from rlhf.paths import configure_environment, local_folder
from rlhf.policy import distributed as processes
from rlhf.policy.distributed import LostProcessError
from rlhf.progress import watching
from rlhf.rl.launch import process_name
from rlhf.rl.request import RLRequest
from rlhf.rl.stage import train_from_rollouts
from rlhf.rl.worker import described_error
from rlhf.workspace import Workspace

_RESULTS = ("output", "report")


class Mailbox:
    """Messages of the group on their way to the driver, in an actor on the driver's node."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[None]]] = asyncio.Queue()
        self._given: asyncio.Future[None] | None = None

    async def send(self, message: dict[str, Any]) -> None:
        """Leave a message, and wait until the driver has dealt with it."""
        taken = asyncio.get_running_loop().create_future()
        self._messages.put_nowait((message, taken))
        await taken

    async def take(self) -> dict[str, Any]:
        """The next message; the one before has been dealt with."""
        if self._given is not None and not self._given.done():
            self._given.set_result(None)
        message, self._given = await self._messages.get()
        return message


class Sender:
    """The end of a process that sends messages to the driver."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def begin(self, kind: str, **content: Any) -> Any:
        """Send a message, and do not wait."""
        return self._mailbox.send.remote({"kind": kind, **content})

    def send(self, kind: str, **content: Any) -> None:
        """Send a message, and wait until the driver has dealt with it."""
        ray.get(self.begin(kind, **content))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Hand metrics over, so that no checkpoint is ahead of them."""
        self.send("metrics", metrics=dict(metrics), step=step)

    def report_progress(self, stage: str, done: int, total: int) -> None:
        """A watcher for `rlhf.progress`."""
        self.begin("progress", stage=stage, done=done, total=total)


class LogLines(logging.Handler):
    """Sends log lines to the driver."""

    def __init__(self, sender: Sender) -> None:
        super().__init__()
        self.sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        self.sender.begin("log", logger=record.name, level=record.levelno, message=self.format(record))


class GroupConfig(TorchConfig):  # type: ignore[misc]
    """Ray's setup of torch's process group, by an interface that each node chooses.

    Args:
        backend: gloo or nccl.
        interface: `cluster.network_interface`.
    """

    def __init__(self, backend: str, interface: str | None) -> None:
        super().__init__(backend=backend, timeout_s=int(processes.TIMEOUT.total_seconds()))
        self.interface = interface

    @property
    def backend_cls(self) -> type:
        """Ray calls it at the start of each group."""
        return GroupBackend


class GroupBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """See `GroupConfig`."""

    def on_start(self, worker_group: Any, backend_config: GroupConfig) -> None:
        """Choose the interface before torch looks for one."""
        worker_group.execute(choose_interface, backend_config.interface)
        super().on_start(worker_group, backend_config)


def choose_interface(named: str | None) -> None:
    """Have gloo and NCCL talk by an interface; of themselves they take that of the host's name, often a loopback."""
    interface = interface_of(ray.util.get_node_ip_address(), named)
    os.environ |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


def loop(task: Mapping[str, Any]) -> None:
    """What Ray Train runs in each process. An error is sent to the driver, which ends the group.

    Args:
        task: `plan` as JSON, the `host` of the stage and the driver's `mailbox`.

    Raises:
        LostProcessError: another process is gone. Ray begins again then, as after a loss of this one.
    """
    configure_environment()
    plan, sender = Plan.model_validate_json(task["plan"]), Sender(task["mailbox"])
    rank, node = ray.train.get_context().get_world_rank(), ray.util.get_node_ip_address()
    try:
        with _heard(sender, is_first=rank == 0):
            _work(plan, task["host"], sender, node)
    except LostProcessError:
        raise
    except BaseException as error:  # noqa: BLE001  # the stage raises it
        who = f"{process_name(rank, plan.compute.num_processes)}, on the node {node},"
        sender.send("error", who=who, **described_error(error))


@contextmanager
def _heard(sender: Sender, *, is_first: bool) -> Iterator[None]:
    """Within the block the first process's progress and log lines are sent to the driver."""
    library, handler = logging.getLogger("rlhf"), LogLines(sender)
    library.setLevel(logging.INFO if is_first else logging.CRITICAL + 1)
    if not is_first:
        yield
        return
    library.addHandler(handler)
    try:
        with watching(sender.report_progress):
            yield
    finally:
        library.removeHandler(handler)


def _work(plan: Plan, host: NodeFacts, sender: Sender, node: str) -> None:
    check_alike(facts(node), host)
    processes.wait_for_all()
    if processes.is_first():
        sender.send("began")
    assert plan.request is not None, "the group has work"
    if plan.copy_address is None:
        _train(plan.request, sender)
        return
    folder = local_folder("stages") / plan.name / "nodes" / ray.get_runtime_context().get_node_id()[:16]
    request = _brought(plan, folder)
    _agree_on_checkpoints(plan.copy_address, folder)
    with mirrored(request.checkpoints, plan.copy_address if processes.is_first() else None):
        _train(request, sender)
    if processes.is_first():
        for name in _RESULTS:
            _copy_of(plan, name).push(folder / name, list_files(folder / name))
    processes.wait_for_all()
    shutil.rmtree(folder, ignore_errors=True)


def _train(request: RLRequest, sender: Sender) -> None:
    workspace = Workspace(request.output, request.report, request.checkpoints, sender.log_metrics)
    for folder in (workspace.output, workspace.report, workspace.checkpoints):
        folder.mkdir(parents=True, exist_ok=True)
    train_from_rollouts(
        request.method, request.rl, request.setup, request.data, request.start, request.reward_models, workspace
    )


def send_inputs(plan: Plan) -> None:
    """Copy what the group reads, from the host of the stage, and checkpoints where its own are the newest."""
    assert plan.copy_address is not None, "nodes read from each other"
    assert plan.request is not None, "the group has work"
    for name, folder in plan.folders.items():
        _copy_of(plan, name).push(folder, list_files(folder))
    _send_checkpoints(plan.copy_address, plan.request.checkpoints)


def bring_results(plan: Plan, workspace: Workspace) -> None:
    """Bring what the group has made to the host of the stage."""
    for name, folder in zip(_RESULTS, (workspace.output, workspace.report), strict=True):
        _copy_of(plan, name).fetch(folder)


def _copy_of(plan: Plan, name: str) -> Mirror:
    return Mirror(f"{plan.copy_address}/group/{name}")


def _brought(plan: Plan, folder: Path) -> RLRequest:
    """The request with folders of this node, which has the inputs then; they are brought once for all its processes."""
    assert plan.request is not None, "the group has work"
    inputs = {name: folder / "inputs" / name for name in plan.folders}
    with locked(folder.with_name(f"{folder.name}.lock")):
        for name, path in inputs.items():
            if not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                _copy_of(plan, name).fetch(path)
    given = {name: inputs[name] for name in ("data", "start", "reward_models")}
    own = {name: folder / name for name in (*_RESULTS, "checkpoints")}
    return plan.request.model_copy(update={**given, **own, "rl": _with_rewards(plan.request.rl, inputs)})


def _with_rewards(config: RLConfig, inputs: Mapping[str, Path]) -> RLConfig:
    rewards = tuple(
        source.model_copy(update={"path": str(inputs[f"reward_{number}"])}) if f"reward_{number}" in inputs else source
        for number, source in enumerate(config.rewards)
    )
    return config.model_copy(update={"rewards": rewards})


def _agree_on_checkpoints(address: str, folder: Path) -> None:
    """Give each node the checkpoints of the copy, after the first process's node has added its own."""
    checkpoints = folder / "checkpoints"
    if processes.is_first():
        _send_checkpoints(address, checkpoints)
    processes.wait_for_all()
    with locked(folder.with_name(f"{folder.name}.lock")):
        mirror = Mirror(address)
        if _step_of(checkpoints) != last_step(mirror.names()):
            mirror.fetch(checkpoints)
    processes.wait_for_all()


def _send_checkpoints(address: str, checkpoints: Path) -> None:
    mirror = Mirror(address)
    if _step_of(checkpoints) > last_step(mirror.names()):
        mirror.push(checkpoints, list_files(checkpoints))


def _step_of(checkpoints: Path) -> int:
    return last_step(list_files(checkpoints).stamps) if checkpoints.is_dir() else -1
