"""Settings of a run on several hosts: where its stages run. No result depends on them, and no fingerprint has them."""

from typing import Annotated

from pydantic import Field

from rlhf.config.base import Section

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
