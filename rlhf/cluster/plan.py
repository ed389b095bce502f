"""A group of processes as JSON, for the process that starts it on a Ray cluster."""

from pathlib import Path

from rlhf.config.base import Section
from rlhf.config.cluster import ClusterConfig
from rlhf.config.model import ComputeConfig
from rlhf.rl.request import RLRequest


class Plan(Section):
    """The place of a group, and its work."""

    cluster: ClusterConfig
    """The Ray cluster."""
    compute: ComputeConfig
    """Number of the processes, their threads and devices."""
    name: str = ""
    """Name of the stage's working folder, which is that of its folders on other nodes."""
    request: RLRequest | None = None
    """Work of the group. Empty: the cluster is looked at, and nothing is started."""
    copy_address: str | None = None
    """Address of copies of inputs, checkpoints and outputs. Empty: all are on the stage's host, in its folders."""

    @property
    def needed(self) -> dict[str, float]:
        """What a process occupies, by Ray's names."""
        return {"GPU": 1.0, "CPU": 1.0} if self.compute.device == "cuda" else {"CPU": float(self.compute.num_threads)}

    @property
    def folders(self) -> dict[str, Path]:
        """The folders that the work reads, by name."""
        assert self.request is not None, "the group has work"
        rewards = {f"reward_{number}": source.path for number, source in enumerate(self.request.rl.rewards)}
        given = {name: Path(path) for name, path in rewards.items() if path is not None and Path(path).is_dir()}
        inputs = {"data": self.request.data, "start": self.request.start, "reward_models": self.request.reward_models}
        return inputs | given
