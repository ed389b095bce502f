"""The record of where a run comes from. From it alone, and what it names, the run can be made again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, model_validator

from rlhf.config.data import EmbeddedName
from rlhf.earlier_names import current_section, current_stage, earlier_section, earlier_stage

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

    _of_before: bool = PrivateAttr(default=False)

    @model_validator(mode="wrap")
    @classmethod
    def _under_the_names_of_today(cls, value: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return read(value)
        renamed = _renamed(value, current_stage, current_section)
        record = read(renamed)
        record._of_before = renamed != value
        return record

    @property
    def digest(self) -> str:
        """The sha256 of the record, by the names under which it was written."""
        record = self.model_dump(mode="json")
        return canonical_sha256(_renamed(record, earlier_stage, earlier_section) if self._of_before else record)


def _renamed(record: Mapping[str, Any], stage: Callable[[str], str], section: Callable[[str], str]) -> dict[str, Any]:
    stages = {stage(name): value for name, value in record.get("stages", {}).items()}
    bases = {section(name): value for name, value in record.get("bases", {}).items()}
    return {**record, **({"stages": stages} if stages else {}), **({"bases": bases} if bases else {})}


def canonical_sha256(value: Mapping[str, Any]) -> str:
    """The sha256 of a JSON object, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def record_bytes(record: ProvenanceRecord) -> bytes:
    """The record as a file."""
    return (record.model_dump_json(indent=2) + "\n").encode()
