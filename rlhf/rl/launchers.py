"""The variables by which a launcher tells a process that it is one of several.

`torchrun`, `accelerate launch`, MPI and SageMaker set them, and shells, containers and cluster jobs hand them on. torch
and accelerate believe them: a process that is told of another one waits for it, without end and deaf to SIGTERM. A run
starts what processes it has by itself (`rlhf.rl.launch`), so they mean something to `rlhf.rl.worker` alone.
"""

import logging
import os

logger = logging.getLogger(__name__)

_NAMES = frozenset(
    (
        *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"),
        *("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME"),
        *("CROSS_RANK", "CROSS_SIZE", "FORK_LAUNCHED", "CCL_WORKER_COUNT", "SMDATAPARALLEL_LOCAL_RANK"),
        *("SM_HP_MP_PARAMETERS", "SM_FRAMEWORK_PARAMS", "PJRT_DEVICE", "TPU_NAME", "XRT_TPU_CONFIG"),
        *("XLA_USE_BF16", "XLA_DOWNCAST_BF16", "XLA_USE_SPMD"),
    )
)
_PREFIXES = (
    *("TORCHELASTIC_", "TORCH_ELASTIC_", "ACCELERATE_", "PARALLELISM_CONFIG_", "FSDP_", "MEGATRON_LM_"),
    *("PMI_", "PMIX_", "OMPI_", "MV2_COMM_WORLD_", "MPI_LOCAL"),
)


def drop_launcher_variables() -> list[str]:
    """Take a launcher's variables out of this process's environment, and say so. Call it before torch is imported.

    Returns:
        The names of those that were there.
    """
    names = sorted(name for name in os.environ if name in _NAMES or name.startswith(_PREFIXES))
    for name in names:
        del os.environ[name]
    if names:
        logger.warning(
            "a launcher's variables are in the environment (%s), and are ignored: a run starts its processes itself, "
            "as many as compute.num_processes says; start it without torchrun or accelerate launch, and unset them",
            ", ".join(names),
        )
    return names
