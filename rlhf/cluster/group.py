"""Groups of processes on a Ray cluster, beside those of one host (`rlhf.rl.launch`).

Ray is spoken to by a process of its own, the driver. It ends with the stage that has started it, and the group with it.
"""

import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path

from rlhf.cluster.plan import Plan
from rlhf.config.cluster import ClusterConfig
from rlhf.config.model import ComputeConfig
from rlhf.errors import ConfigError, one_line
from rlhf.rl.launch import follow, importing_environment, start_worker
from rlhf.rl.request import RLRequest
from rlhf.workspace import MetricLog, Workspace

_CONNECT_SECONDS = 5.0
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


def check_group(cluster: ClusterConfig, compute: ComputeConfig) -> None:
    """Refuse a Ray cluster that the group of a run could not work on, before anything is computed.

    Raises:
        ConfigError: Ray is not installed or does not answer, there is too little room, or the nodes are unlike.
    """
    with tempfile.TemporaryDirectory() as folder:
        _drive(Plan(cluster=cluster, compute=compute), Path(folder), lambda *_: None)


def run_group(cluster: ClusterConfig, copy_address: str | None, request: RLRequest, workspace: Workspace) -> None:
    """Run `rlhf.rl.stage.train_from_rollouts` in `compute.num_processes` processes of a Ray cluster.

    Args:
        cluster: the cluster.
        copy_address: of copies of the stage's folders, by which its nodes read from each other; None where all
            processes are on this host.
        request: what the stage was called with.
        workspace: of this attempt; its metrics are logged in this process.

    Raises:
        RLHFError: whatever a process raised; it ends the group.
        ConfigError: the group cannot work on this cluster.
        ProcessesError: processes or nodes were lost more often than `max_node_failures`, or did not begin in time.
    """
    folder = workspace.checkpoints / "processes"
    folder.mkdir(parents=True, exist_ok=True)
    name = workspace.checkpoints.parent.name
    plan = Plan(cluster=cluster, compute=request.setup.compute, name=name, request=request, copy_address=copy_address)
    _drive(plan, folder, workspace.log_metrics)


def _drive(plan: Plan, folder: Path, log_metrics: MetricLog) -> None:
    if find_spec("ray") is None:
        raise ConfigError(
            "cluster.backend is ray, but Ray is not installed on this host; install it with `pip install "
            "--constraint requirements.lock 'ray[default,train]>=2.60,<3'`, here and on each node, or set backend to "
            "local"
        )
    _check_answers(str(plan.cluster.address))
    file = folder / "group.json"
    file.write_text(plan.model_dump_json(indent=2) + "\n")
    environment = importing_environment() | _ENVIRONMENT
    with start_worker("the driver of the group", "rlhf.cluster.driver", file, environment, folder / "group.log") as one:
        follow([one], log_metrics)


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"cluster.address is {address}, where nothing answers ({one_line(error)}); start the head there with `ray "
            f"start --head --port {port}`, or give its address"
        ) from error
