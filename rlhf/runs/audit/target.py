"""The target that a person has named: a run, a version of a registered policy, or a policy's folder."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import InputError
from rlhf.files.manifest import folder_sha256
from rlhf.provenance.record import RECORD_FILE, ProvenanceRecord
from rlhf.tracking.queries import ClientStore, pipeline_runs, tags_of
from rlhf.tracking.run_details import VersionFacts, versions
from rlhf.tracking.stores import check_own_store, find_pipeline
from rlhf.tracking.tags import POLICY_TAG, RECORD_TAG
from rlhf.tracking.versions import find_version, policy_version

CARD = "README.md"


@dataclass(frozen=True)
class Target:
    """The target that was meant.

    Attributes:
        run_id: the pipeline run.
        version: the version of a registered policy that is meant, or that the run has registered; None without one.
        folder: the policy's folder that was given, a copy that may lie anywhere; None where none was.
    """

    run_id: str
    version: VersionFacts | None = None
    folder: Path | None = None


def find_target(text: str) -> Target:
    """Find what is meant by a folder, a run id or the beginning of one, or a version.

    Raises:
        InputError: there is no such run, and the nearest ones are named; or the folder is no policy of this store.
    """
    check_own_store()
    folder = Path(text)
    if folder.is_dir():
        run_id = _run_of(folder)
        return Target(run_id, _registered(policy_version(tags_of(run_id))), folder.resolve())
    run_id = find_pipeline(text)
    return Target(run_id, _registered(find_version(ClientStore(), text) or policy_version(tags_of(run_id))))


def read_card_record(folder: Path) -> ProvenanceRecord | None:
    """The record in a policy's folder; None where there is none that can be read."""
    try:
        return ProvenanceRecord.model_validate_json((folder / RECORD_FILE).read_bytes())
    except (OSError, ValueError):
        return None


def _registered(version: str | None) -> VersionFacts | None:
    return next((known for known in versions() if known.version == version), None)


def _run_of(folder: Path) -> str:
    """The pipeline run that a policy's folder is of: by its sha256, its record's digest, or its card's word."""
    if not (folder / RECORD_FILE).is_file():
        raise InputError(
            f"{folder}: there is no {RECORD_FILE} here, so this is not the folder of a policy that a run has made; "
            "give the folder that holds the policy's weights and its card, or a run id"
        )
    run_id = next(_runs_of(folder), None)
    if run_id is None:
        raise InputError(
            f"{folder}: no run in this MLflow store has made this policy, by its sha256, its record of provenance or "
            f"its card; set MLFLOW_TRACKING_URI to the store that it is from"
        )
    return run_id


def _runs_of(folder: Path) -> Iterator[str]:
    yield from pipeline_runs(POLICY_TAG, folder_sha256(folder))
    record = read_card_record(folder)
    if record is not None:
        yield from pipeline_runs(RECORD_TAG, record.digest)
    card = folder / CARD
    named = re.search(r"MLflow run \| `([0-9a-f]{32})`", card.read_text(encoding="utf-8")) if card.is_file() else None
    if named and tags_of(named[1]):
        yield named[1]
