"""The record in MLflow: artifacts of the pipeline's run, written as it goes on, so that a cut-off run has one too."""

from pathlib import Path

from pydantic import ValidationError

from rlhf.errors import InputError
from rlhf.paths import source_root
from rlhf.provenance.record import ProvenanceRecord, record_bytes
from rlhf.tracking.files import log_content, log_file, read_bytes
from rlhf.tracking.queries import tags_of
from rlhf.tracking.runs import set_tags
from rlhf.tracking.tags import OBSTACLES_TAG, RECORD_TAG, REPRODUCIBLE_TAG

RECORD = "provenance/record.json"
PATCH = "provenance/code.patch"
LOCK = "provenance/requirements.lock"
CONFIG = "config.yaml"


def save_code(run_id: str, patch: bytes) -> None:
    """Store the patch, where there is one, and the lock file."""
    if patch:
        log_content(run_id, patch, PATCH)
    lock = source_root() / "requirements.lock"
    if lock.is_file():
        log_file(run_id, lock, str(Path(LOCK).parent))


def save_record(run_id: str, record: ProvenanceRecord) -> None:
    """Store the record as it is by now, its digest, and whether the run can be repeated."""
    log_content(run_id, record_bytes(record), RECORD)
    tags = {
        RECORD_TAG: record.digest,
        REPRODUCIBLE_TAG: str(not record.obstacles).lower(),
        OBSTACLES_TAG: "; ".join(record.obstacles),
    }
    set_tags(run_id, tags)


def has_record(run_id: str) -> bool:
    """Whether a run has a record; runs from before there were any have none."""
    return RECORD_TAG in tags_of(run_id)


def read_record(run_id: str) -> ProvenanceRecord:
    """The record of a pipeline run.

    Raises:
        InputError: the run has none, or what is there is not one.
    """
    content = read_bytes(run_id, RECORD)
    if content is None:
        raise InputError(
            f"MLflow run {run_id} has no provenance ({RECORD}): it is not of a pipeline, or was made before provenance "
            "was recorded; give the id of another run"
        )
    try:
        return ProvenanceRecord.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"MLflow run {run_id}: {RECORD} is not a record of provenance ({where}: {first['msg']}); "
            f"`rlhf verify {run_id}` says what else was changed"
        ) from None
