"""What a result depends on beside its inputs: code, lock file and machine; and the record of it that a run keeps."""

from rlhf.provenance.code import GitState, Patch, git_state, working_patch
from rlhf.provenance.environment import cpu, gpus, hardware, lock_sha256, machine
from rlhf.provenance.record import ProvenanceRecord, StageRecord

__all__ = [
    "GitState",
    "Patch",
    "ProvenanceRecord",
    "StageRecord",
    "cpu",
    "git_state",
    "gpus",
    "hardware",
    "lock_sha256",
    "machine",
    "working_patch",
]
