"""Settings of a run on several hosts: where its stages run. No result depends on them, and no fingerprint has them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, Section

OF_RAY = ("address", "several_nodes", "network_interface", "max_node_failures", "start_timeout")
"""Settings that mean nothing where processes are started without Ray."""
PoolName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)]


class StagePools(Section):
    """Work pools of the stages; a stage without one runs where the run itself does."""

    sft: PoolName | None = None
    """Pool for supervised fine-tuning, such as gpu."""
    reward_model: PoolName | None = None
    """Pool for the training of the reward models."""
    reward_audit: PoolName | None = None
    """Pool for the audit of the reward models."""
    policy: PoolName | None = None
    """Pool for the training of the policy."""
    evaluation: PoolName | None = None
    """Pool for the evaluation of the policy."""

    @property
    def chosen(self) -> dict[str, str]:
        """The pools by the names of the stages that have one."""
        return {stage: pool for stage, pool in self if pool is not None}


class ClusterConfig(Section):
    """Hosts beside the one that the run is started on."""

    stage_pools: StagePools = StagePools()
    """Pools that stages are sent to. `rlhf worker --pool NAME` on a host makes it one of the pool's."""
    checkpoint_uri: Annotated[str, Field(pattern=r"^(s3|gs|abfs|file)://[^/]*/.+")] | None = None
    """Address for copies of checkpoints, such as s3://BUCKET/FOLDER, from which a retry on another host goes on. Empty:
    checkpoints stay on the host that computes."""
    backend: Literal["local", "ray"] = "local"
    """Place of the processes that share a method's rollouts (compute.num_processes). local: the host of the stage. ray:
    nodes of a Ray cluster that this host belongs to, with the extra `cluster` of this package. Without checkpoint_uri
    they are on the host of the stage all the same."""
    address: Annotated[str, Field(pattern=r"^[^\s:/]+:[0-9]+$")] | None = None
    """Host and port of the head of the Ray cluster, such as 192.0.2.1:6379."""
    several_nodes: bool = False
    """Let the processes be on several nodes, as few as hold them; otherwise all are on one. Needs checkpoint_uri, from
    which the nodes take the inputs as well."""
    network_interface: Annotated[str, Field(pattern=r"^[\w.:-]{1,15}$")] | None = None
    """Interface by which the processes talk with each other, such as eth0. Empty: on each node the one that has its Ray
    address."""
    max_node_failures: Annotated[int, Field(ge=0)] = 3
    """Times that processes or nodes may be lost in an attempt. Each time all processes begin again, as many as before,
    from the newest checkpoint."""
    start_timeout: Count = 600
    """Seconds within which the processes begin, and begin again after a loss."""

    @model_validator(mode="after")
    def _settings_of_ray_count(self) -> Self:
        if self.backend == "local":
            for name in OF_RAY:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"cluster.{name} is set but cluster.backend is local, so it would be ignored; set backend to "
                        f"ray, or drop {name}"
                    )
        elif self.address is None:
            raise ValueError(
                "cluster.backend is ray but cluster.address names no head; give HOST:PORT of `ray start --head`, such "
                "as 192.0.2.1:6379"
            )
        elif self.several_nodes and self.checkpoint_uri is None:
            raise ValueError(
                "cluster.several_nodes is set but cluster.checkpoint_uri is not, so a node could neither read the "
                "stage's inputs nor go on from another one's checkpoint; set it to a place that all nodes reach, such "
                "as s3://BUCKET/FOLDER"
            )
        return self
