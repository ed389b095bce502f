"""Is a run as it was logged? Its record of provenance is held against all that it names, and against its copies.

The record's digest stands in the store and in the policy's folder and card, which may lie elsewhere. So an edit of
the store alone, however good, is found out by a copy of the policy.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlhf.config.flat import flatten
from rlhf.data.embedded import EMBEDDED_FOLDER
from rlhf.errors import InputError
from rlhf.files.manifest import files_sha256, read_manifest
from rlhf.provenance.record import RECORD_FILE, DataRecord, ProvenanceRecord, canonical_sha256
from rlhf.provenance.storage import LOCK, PATCH, RECORD, read_record
from rlhf.references import Reference
from rlhf.runs.audit.check_code import check_base
from rlhf.runs.audit.check_data import check_data
from rlhf.runs.audit.check_stages import (
    Expected,
    check_metrics,
    check_parameters,
    check_stage,
    compare_files,
    read_settings,
)
from rlhf.runs.audit.findings import Ledger
from rlhf.runs.audit.target import CARD, Target, read_card_record
from rlhf.stages import is_round
from rlhf.tracking.artifacts import OUTPUT, as_stored, manifest_of
from rlhf.tracking.files import read_bytes
from rlhf.tracking.records import RunRecord
from rlhf.tracking.run_details import VersionFacts, get_run
from rlhf.tracking.tags import (
    COMMIT_TAG,
    DATA_TAG,
    DIRTY_TAG,
    FINGERPRINT_TAG,
    OUTPUT_TAG,
    POLICY_TAG,
    RECIPE_TAG,
    RECORD_TAG,
    REPRODUCIBLE_TAG,
    RUN_OF_STAGE,
    stage_runs,
)
from rlhf.tracking.versions import policy_version

_AFTER_THE_CARD = ("comparison",)
_CARD_STAGE = "model_card"
_NONE = hashlib.sha256().hexdigest()


def verify(named: Target) -> Ledger:
    """Look at everything that a pipeline run has logged.

    Args:
        named: the run, and a copy of its policy where one was given.

    Returns:
        What was looked at, and what is not as it was logged.

    Raises:
        InputError: the run does not exist, or has no provenance.
    """
    run = get_run(named.run_id)
    if run is None:
        raise InputError(f"there is no MLflow run {named.run_id}; `rlhf runs` lists those that there are")
    ledger = Ledger()
    record = _record(ledger, run)
    if record is None:
        return ledger
    _check_code(ledger, run, record)
    settings = _check_settings(ledger, run, record)
    stages = check_stages(ledger, run, record)
    if record.data is not None:
        check_data(ledger, record.data, _data_path(settings, record.data))
    for setting, base in record.bases.items():
        check_base(ledger, setting, base)
    if _CARD_STAGE in stages:
        _check_card(ledger, run, stages[_CARD_STAGE], record, named)
    return ledger


def check_stages(ledger: Ledger, run: RunRecord, record: ProvenanceRecord) -> dict[str, RunRecord]:
    """Look at each stage and round that a pipeline run has used. Returns their runs."""
    used = stage_runs(run.tags)
    looked_at = {}
    for stage in [*record.stages, *sorted(set(used) - set(record.stages))]:
        stage_run = get_run(used[stage]) if stage in used else None
        if stage_run is None:
            what = f"MLflow run {used[stage]}" if stage in used else f"tag {RUN_OF_STAGE}{stage}"
            ledger.compare("tags", f"stage {stage}", what, "the run that trained it", None)
            continue
        check_stage(ledger, stage_run, Expected.of(record.stages.get(stage)))
        if not is_round(stage):  # whose metrics the pipeline's run has not
            check_metrics(ledger, stage_run, run)
        tag = run.tags.get(f"{FINGERPRINT_TAG}.{stage}")
        ledger.compare(
            "tags",
            _place(run),
            f"tag rlhf.fingerprint.{stage}",
            stage_run.tags.get(FINGERPRINT_TAG),
            tag,
        )
        looked_at[stage] = stage_run
    return looked_at


def _place(run: RunRecord) -> str:
    return f"pipeline, MLflow run {run.run_id}"


def _record(ledger: Ledger, run: RunRecord) -> ProvenanceRecord | None:
    """The record, its digest held against the tag. Without a record and a tag there is nothing to hold against."""
    tag = run.tags.get(RECORD_TAG)
    content = read_bytes(run.run_id, RECORD)
    if content is None and tag is None:
        return read_record(run.run_id)
    try:
        record = None if content is None else ProvenanceRecord.model_validate_json(content)
    except ValidationError:
        ledger.compare(
            "provenance", _place(run), RECORD, f"a record with the digest {tag}", "no record that can be read"
        )
        return None
    ledger.compare("provenance", _place(run), f"{RECORD} against the tag {RECORD_TAG}", tag, record and record.digest)
    return record


def _check_code(ledger: Ledger, run: RunRecord, record: ProvenanceRecord) -> None:
    where = _place(run)
    patch, lock = read_bytes(run.run_id, PATCH), read_bytes(run.run_id, LOCK)
    if record.code.patch_sha256 is not None or patch is not None:
        ledger.compare("provenance", where, PATCH, record.code.patch_sha256 or "no such file", _sha256(patch))
    # The sha256 of nothing stands for a package that was installed without its lock.
    if record.lock_sha256 != _NONE or lock is not None:
        ledger.compare("provenance", where, LOCK, record.lock_sha256, _sha256(lock))
    tags = {
        COMMIT_TAG: record.code.commit or "",
        DIRTY_TAG: str(record.code.dirty).lower(),
        RECIPE_TAG: record.recipe,
        REPRODUCIBLE_TAG: str(not record.obstacles).lower(),
        **({DATA_TAG: record.data.md5} if record.data else {}),
    }
    for tag, value in tags.items():
        ledger.compare("tags", where, f"tag {tag}", value, run.tags.get(tag))


def _check_settings(ledger: Ledger, run: RunRecord, record: ProvenanceRecord) -> Mapping[str, Any]:
    """Returns the settings, where they are those on record."""
    settings = read_settings(ledger, run)
    same = settings is not None and ledger.compare(
        "settings", _place(run), "config.yaml", record.config_sha256, canonical_sha256(settings)
    )
    check_parameters(ledger, run, settings)
    return settings if settings is not None and same else {}


def _data_path(settings: Mapping[str, Any], data: DataRecord) -> str:
    """The path of the data: the record does not tell the whole path of a folder elsewhere, the settings do."""
    if data.embedded is not None and data.path.startswith(EMBEDDED_FOLDER):
        return data.path
    section = settings.get("data")
    path = section.get("path") if isinstance(section, Mapping) else None
    return path if isinstance(path, str) else data.path


def _check_card(ledger: Ledger, run: RunRecord, card: RunRecord, record: ProvenanceRecord, named: Target) -> None:
    """The policy's folder, in the store and where a copy lies: its record, its card, and what the registry says."""
    where = f"policy, MLflow run {card.run_id}"
    with as_stored(card.run_id, OUTPUT) as folder:
        if folder is not None:
            _check_folder(ledger, where, folder, record)
    if POLICY_TAG in run.tags:
        ledger.compare("tags", _place(run), f"tag {POLICY_TAG}", _sha256_of_output(card), run.tags[POLICY_TAG])
    if named.folder is not None:
        where = f"folder {named.folder}"
        _check_folder(ledger, where, named.folder, record)
        _check_copy(ledger, where, named.folder, card, run)
    version = policy_version(run.tags)
    if version is not None:
        _check_version(ledger, run, card, version, named.version)


def _check_folder(ledger: Ledger, where: str, folder: Path, record: ProvenanceRecord) -> None:
    own = read_card_record(folder)
    if own is None:
        ledger.compare("provenance", where, RECORD_FILE, f"the record with the digest {record.digest}", None)
        return
    for name, expected, stored in _differences(own, record):
        ledger.compare("provenance", where, f"{RECORD_FILE} against {RECORD}: {name}", expected, stored)
    ledger.checked["provenance"] += 1
    text = (folder / CARD).read_text(encoding="utf-8", errors="replace") if (folder / CARD).is_file() else None
    named = None if text is None else own.digest if own.digest in text else "another digest"
    ledger.compare("provenance", where, f"digest in {CARD}", own.digest, named)


def _differences(own: ProvenanceRecord, record: ProvenanceRecord) -> Iterator[tuple[str, Any, Any]]:
    """Differences of the store's record from the policy's own, which was written before what comes after the card."""
    later = {name for name in record.stages if name in _AFTER_THE_CARD} - set(own.stages)
    stages = {name: stage for name, stage in record.stages.items() if name not in later}
    now = flatten(record.model_copy(update={"stages": stages}).model_dump(mode="json"))
    then = flatten(own.model_dump(mode="json"))
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield name, then.get(name, "nothing"), f"{now.get(name, 'nothing')} in the store"


def _check_copy(ledger: Ledger, where: str, folder: Path, card: RunRecord, run: RunRecord) -> None:
    """A copy of the policy, file by file, against what the store has listed."""
    hashes = ledger.files(folder)
    if not ledger.compare("files", where, "the whole folder", run.tags.get(POLICY_TAG), files_sha256(hashes)):
        listed = read_bytes(card.run_id, manifest_of(OUTPUT)) or b""
        compare_files(ledger, where, "", read_manifest(listed.decode(errors="replace")), hashes)


def _check_version(
    ledger: Ledger, run: RunRecord, card: RunRecord, version: str, registered: VersionFacts | None
) -> None:
    where = f"version {version}"
    if registered is None or registered.version != version:
        ledger.compare("registry", where, "the version", "registered", None)
        return
    ledger.compare("registry", where, "tag sha256", run.tags.get(POLICY_TAG), registered.tags.get("sha256"))
    ledger.compare("registry", where, "source", f"runs:/{registered.run_id}/{OUTPUT}", registered.uri)
    # The same content is registered once, so an earlier card may stand behind the version.
    if registered.run_id != card.run_id:
        earlier = get_run(registered.run_id)
        sha256 = earlier and _sha256_of_output(earlier)
        if ledger.compare("registry", where, f"MLflow run {registered.run_id}", _sha256_of_output(card), sha256):
            assert earlier is not None
            check_stage(ledger, earlier, Expected())


def _sha256_of_output(run: RunRecord) -> str | None:
    """The sha256 that a stage's run gives for its output."""
    try:
        return Reference.model_validate_json(run.tags.get(OUTPUT_TAG, ""), extra="ignore").sha256
    except ValidationError:
        return None


def _sha256(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()
