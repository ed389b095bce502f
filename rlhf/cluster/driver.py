"""The driver of a group on a Ray cluster: `python -m rlhf.cluster.driver PLAN.json`, started by `rlhf.cluster.group`.

It ends with the process that has started it, and all that it has started on the cluster ends with it.
"""

import argparse
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlhf.cluster.loop import GroupConfig, Mailbox, Sender, bring_results, loop, send_inputs
from rlhf.cluster.nodes import NodeFacts, Probe, check_alike, check_reached, facts, room
from rlhf.cluster.plan import Plan
from rlhf.errors import ConfigError, RLHFError, one_line
from rlhf.paths import configure_environment
from rlhf.policy.distributed import ProcessesError
from rlhf.rl.worker import ParentConnection
from rlhf.workspace import Workspace

ANSWER_SECONDS = 20.0
"""How long the head may take to answer."""
NODE_SECONDS = 40.0
"""How long nodes may take to start a process that says what they are."""


class Losses(UserCallback):  # type: ignore[misc]
    """Tells the driver of a loss, after which the processes begin again."""

    def __init__(self, mailbox: Any) -> None:
        self._sender = Sender(mailbox)

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Ray calls it when processes or nodes are gone."""
        self._sender.begin("lost", ranks=sorted(worker_exceptions))


class Clock:
    """A time within which the cluster has to do something; otherwise the driver ends with an error.

    Args:
        parent: is told.
    """

    def __init__(self, parent: ParentConnection) -> None:
        self._parent = parent
        self._timer: threading.Timer | None = None

    def start(self, seconds: float, error: RLHFError) -> None:
        """Begin to wait."""
        self.stop()
        self._timer = threading.Timer(seconds, end, (self._parent, error))
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """It is done."""
        if self._timer is not None:
            self._timer.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at a cluster, and run a group on it.

    Returns:
        The exit code; what went wrong is said to the parent.
    """
    parser = argparse.ArgumentParser(prog="python -m rlhf.cluster.driver", description=__doc__)
    parser.add_argument("plan", type=Path, help="JSON file that says what to start")
    parser.add_argument("--connection", type=int, required=True, help="file descriptor of the process that started it")
    options = parser.parse_args(arguments)
    os.set_inheritable(options.connection, False)
    parent = ParentConnection(Connection(options.connection))
    configure_environment()
    try:
        _run(Plan.model_validate_json(options.plan.read_bytes()), parent)
    except BaseException as error:  # noqa: BLE001  # the parent raises it
        parent.report_error(error)
        return 1
    return 0


def end(parent: ParentConnection, error: RLHFError) -> None:
    """End with an error, whatever else this process waits for."""
    parent.report_error(error)
    os._exit(1)


def _run(plan: Plan, parent: ParentConnection) -> None:
    address, clock = plan.cluster.address, Clock(parent)
    silent = (
        f"cluster.address is {address}, where no Ray head has answered within {ANSWER_SECONDS:.0f} s; look at `ray "
        f"status --address {address}`, or give the address of another one"
    )
    clock.start(ANSWER_SECONDS, ConfigError(silent))
    _connect(str(address))
    clock.stop()
    host = facts(ray.util.get_node_ip_address())
    _check_nodes(plan, host)
    if plan.request is None:
        return
    if plan.copy_address is not None:
        send_inputs(plan)
    _train(plan, host, parent, clock)
    if plan.copy_address is not None:
        folders = (plan.request.output, plan.request.report, plan.request.checkpoints)
        bring_results(plan, Workspace(*folders, parent.log_metrics))


def _connect(address: str) -> None:
    """Join the cluster as a driver.

    Raises:
        ConfigError: this host is none of its nodes, or has other versions.
    """
    try:
        ray.init(address=address, logging_level="WARNING")
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ConfigError(
            f"cluster.address is {address}, but this host cannot join the Ray cluster there ({one_line(error)}); make "
            f"it a node with `ray start --address {address}`, with the same versions of Python and Ray"
        ) from error


def _check_nodes(plan: Plan, host: NodeFacts) -> None:
    """Refuse a cluster on which the group cannot work.

    Raises:
        ConfigError: there is too little room, or nodes are unlike or do not reach each other.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and (_reaches_all(plan) or node["NodeID"] == own)]
    places = room([node["Resources"] for node in nodes], plan.needed)
    _check_room(plan, places)
    used = [node for node, number in zip(nodes, places, strict=True) if number]
    probes = {node["NodeManagerAddress"]: _probe(node, plan.cluster.network_interface) for node in used}
    for node in _ask({node: probe.facts.remote() for node, probe in probes.items()}).values():
        check_alike(node, host)
    listening = _ask({node: probe.listen.remote() for node, probe in probes.items()})
    check_reached(_ask({node: probe.unreached.remote(listening) for node, probe in probes.items()}), listening)
    for probe in probes.values():
        ray.kill(probe)


def _reaches_all(plan: Plan) -> bool:
    """Whether all nodes can read the stage's folders, from their copy."""
    return plan.cluster.checkpoint_uri is not None


def _check_room(plan: Plan, places: Sequence[int]) -> None:
    several, wanted = plan.cluster.several_nodes, plan.compute.num_processes
    found = sum(places) if several else max(places, default=0)
    if found >= wanted:
        return
    each = " and ".join(f"{amount:g} {name}" for name, amount in plan.needed.items())
    if not _reaches_all(plan):
        where, advice = "the node of this host", "set cluster.checkpoint_uri and start on others, "
    elif several:
        where, advice = f"the {len(places)} nodes together", ""
    else:
        where, advice = f"the largest of the {len(places)} nodes", "set cluster.several_nodes, "
    raise ConfigError(
        f"compute.num_processes is {wanted}, each with {each}, but the Ray cluster at {plan.cluster.address} has room "
        f"for {found} on {where}; {advice}lower the number, or join a node with `ray start --address "
        f"{plan.cluster.address}`"
    )


def _probe(node: Mapping[str, Any], interface: str | None) -> Any:
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    actor = ray.remote(Probe).options(num_cpus=0, scheduling_strategy=place)
    return actor.remote(node["NodeManagerAddress"], interface)


def _ask(questions: Mapping[str, Any]) -> dict[str, Any]:
    """The answers of nodes.

    Raises:
        ConfigError: a node's own, or it could not be asked.
    """
    answers = {}
    ray.wait(list(questions.values()), num_returns=len(questions), timeout=NODE_SECONDS)
    for node, question in questions.items():
        try:
            answers[node] = ray.get(question, timeout=0)
        except (RayError, GetTimeoutError) as error:
            if isinstance(cause := getattr(error, "cause", None), RLHFError):
                raise cause from error
            raise ConfigError(
                f"the node {node} cannot run this project ({one_line(error)[-300:]}); start `ray start` there in a "
                f"clone of it, by its own environment"
            ) from error
    return answers


def _train(plan: Plan, host: NodeFacts, parent: ParentConnection, clock: Clock) -> None:
    own = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(own, soft=False)
    mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
    threading.Thread(target=_pass_on, args=(mailbox, plan, parent, clock), daemon=True).start()
    cluster, is_cuda = plan.cluster, plan.compute.device == "cuda"
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.start_timeout)
    with tempfile.TemporaryDirectory() as storage:
        trainer = TorchTrainer(
            loop,
            train_loop_config={"plan": plan.model_dump_json(), "host": host, "mailbox": mailbox},
            torch_config=GroupConfig("nccl" if is_cuda else "gloo", cluster.network_interface),
            scaling_config=ScalingConfig(
                num_workers=plan.compute.num_processes,
                use_gpu=is_cuda,
                resources_per_worker=plan.needed,
                placement_strategy="PACK" if cluster.several_nodes else "STRICT_PACK",
                label_selector=None if _reaches_all(plan) else {"ray.io/node-id": own},
            ),
            run_config=RunConfig(
                name=f"{plan.name}-{uuid.uuid4().hex[:8]}",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=cluster.max_node_failures),
                callbacks=[Losses(mailbox)],
            ),
        )
        clock.start(cluster.start_timeout, _not_begun(plan))
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise ProcessesError(
                f"the group of {plan.compute.num_processes} processes is lost, after {cluster.max_node_failures} "
                f"losses that it went on from (cluster.max_node_failures): {one_line(error)[-500:]}. The same command "
                f"goes on from the last checkpoint"
            ) from error


def _not_begun(plan: Plan) -> ProcessesError:
    return ProcessesError(
        f"the {plan.compute.num_processes} processes did not begin within {plan.cluster.start_timeout} s "
        f"(cluster.start_timeout); `ray status` says what the cluster has and who holds it. The same command goes on "
        f"from the last checkpoint"
    )


def _pass_on(mailbox: Any, plan: Plan, parent: ParentConnection, clock: Clock) -> None:
    """Deal with the group's messages, until the driver ends."""
    while True:
        message = ray.get(mailbox.take.remote())
        kind = message.pop("kind")
        if kind == "metrics":
            parent.log_metrics(message["metrics"], message["step"])
        elif kind == "began":
            clock.stop()
        elif kind == "lost":
            clock.start(plan.cluster.start_timeout, _not_begun(plan))
            text = f"processes {message['ranks']} of the group are gone; all begin again from the last checkpoint"
            parent.send("log", logger="rlhf.cluster", level=30, message=text)
        elif kind == "error":
            parent.send(kind, **message)
            os._exit(1)
        else:
            parent.send(kind, **message)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
