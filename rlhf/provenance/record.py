"""The record of where a run comes from. From it alone, and what it names, the run can be made again."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from rlhf.config.data import EmbeddedName

RECORD_FILE = "provenance.json"
"""The record in the folder of a policy, beside its card."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CodeRecord(_Record):
    """The code that ran."""

    commit: str | None
    """git's; None outside a repository."""
    dirty: bool
    """The working tree differed from it."""
    patch_sha256: str | None
    """Of `provenance/code.patch`, which makes the commit what ran; None where nothing that counts had changed."""
    left_out: tuple[str, ...] = ()
    """Changed files that the patch lacks; `rlhf.provenance.code.Patch` says why."""


class DataRecord(_Record):
    """The data set that was read."""

    path: str
    """As configured; of an embedded set `embedded/NAME` (`data` in runs of before that folder)."""
    md5: str
    """DVC's."""
    tracked: bool
    """DVC tracked exactly this content."""
    dirty: bool
    """data/ differed from data.dvc, and that was allowed."""
    embedded: EmbeddedName | None
    """The generator that makes it."""
    remote: str | None
    """Address of DVC's default remote, without a password; None where there is none."""


class BaseRecord(_Record):
    """A model from outside: the base model, or a reward model that PPO's settings name."""

    name: str
    """Hub id, or folder as configured."""
    revision: str | None
    """Commit of the hub id; None for a folder, and in old records where it was not known."""
    sha256: str | None
    """Over the folder's files; None for a hub id."""


class StageRecord(_Record):
    """The output of a stage."""

    fingerprint: str
    sha256: str
    """Of its output."""


class ProvenanceRecord(_Record):
    """The record of all that decides a run's results, by hashes. It names no run and no time, so equals are equal."""

    recipe: str
    seed: int
    config_sha256: str
    """Of the resolved configuration as canonical JSON."""
    lock_sha256: str
    """Of `provenance/requirements.lock`."""
    code: CodeRecord
    data: DataRecord | None = None
    """None before the data was found."""
    bases: dict[str, BaseRecord] = {}
    """By the setting that names it, such as `model.base`."""
    machine: dict[str, str]
    """Python, platform, processor and libraries."""
    compute: dict[str, str]
    """Device, dtype, threads and processes."""
    stages: dict[str, StageRecord] = {}
    """Those that are done, but for the model card, which holds the digest of this."""
    obstacles: tuple[str, ...] = ()
    """Why the run cannot be repeated; empty where it can."""

    @property
    def digest(self) -> str:
        """The sha256 of the record."""
        return canonical_sha256(self.model_dump(mode="json"))


def canonical_sha256(value: Mapping[str, Any]) -> str:
    """The sha256 of a JSON object, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def record_bytes(record: ProvenanceRecord) -> bytes:
    """The record as a file."""
    return (record.model_dump_json(indent=2) + "\n").encode()
