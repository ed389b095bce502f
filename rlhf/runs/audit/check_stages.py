"""Is what a stage has left as it was stored: its output and report file by file, its tags, its parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from rlhf.earlier_names import current_settings
from rlhf.files.manifest import files_sha256, manifest_sha256, read_manifest
from rlhf.files.plain_yaml import load_yaml
from rlhf.metrics import METRICS
from rlhf.provenance.record import StageRecord
from rlhf.references import Reference
from rlhf.runs.audit.findings import Finding, Ledger
from rlhf.tracking.artifacts import OUTPUT, REPORT, as_stored, manifest_of
from rlhf.tracking.files import read_bytes
from rlhf.tracking.records import RunRecord
from rlhf.tracking.runs import parameters
from rlhf.tracking.tags import FINGERPRINT_TAG, OUTPUT_REMOVED_TAG, OUTPUT_TAG, PARENT_TAG, REPORT_TAG, STAGE_TAG

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Expected:
    """The hashes that a pipeline run has on record of a stage.

    Attributes:
        fingerprint: of the stage.
        sha256: of its output.
    """

    fingerprint: str | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, record: StageRecord | None) -> "Expected":
        """The hashes in a record of provenance; none where it does not speak of the stage."""
        return cls(record.fingerprint, record.sha256) if record else cls()


def check_stage(ledger: Ledger, run: RunRecord, expected: Expected) -> None:
    """Hold a stage's run, its output and its report against what is on record.

    Args:
        ledger: where it is written down.
        run: the stage's run.
        expected: what the pipeline's run has on record.
    """
    where = place_of(run)
    if expected.fingerprint is not None:
        tag = run.tags.get(FINGERPRINT_TAG)
        ledger.compare("tags", where, "tag rlhf.fingerprint", expected.fingerprint, tag)
    reference = _reference(ledger, run)
    if reference is not None:
        uri = f"runs:/{run.run_id}/{OUTPUT}"
        ledger.compare("tags", where, f"uri in the tag {OUTPUT_TAG}", uri, reference.uri)
        recorded = expected.sha256 or reference.sha256
        ledger.compare("tags", where, f"sha256 in the tag {OUTPUT_TAG}", recorded, reference.sha256)
        _check_output(ledger, run, recorded)
    elif expected.sha256 is not None:
        _check_output(ledger, run, expected.sha256)
    if REPORT_TAG in run.tags:
        check_artifact(ledger, run.run_id, where, REPORT, run.tags[REPORT_TAG])
    check_parameters(ledger, run, read_settings(ledger, run))


def place_of(run: RunRecord) -> str:
    """A stage's run in words."""
    return f"stage {run.tags.get(STAGE_TAG, run.name)}, MLflow run {run.run_id}"


def check_artifact(ledger: Ledger, run_id: str, where: str, name: str, recorded: str) -> None:
    """Hold the files of an artifact folder against its list, and the list against the sha256 on record."""
    listed = read_bytes(run_id, manifest_of(name))
    with as_stored(run_id, name) as folder:
        if folder is None:
            ledger.compare("files", where, name, f"a folder with the sha256 {recorded}", None)
            return
        hashes = ledger.files(folder)
    if listed is None or manifest_sha256(listed.decode(errors="replace")) != recorded:
        list_sha256 = None if listed is None else manifest_sha256(listed.decode(errors="replace"))
        ledger.compare("files", where, manifest_of(name), recorded, list_sha256)
        ledger.compare("files", where, f"{name} (all files)", recorded, files_sha256(hashes))
        return
    ledger.checked["files"] += 1
    compare_files(ledger, where, f"{name}/", read_manifest(listed.decode()), hashes)


def compare_files(
    ledger: Ledger, where: str, prefix: str, expected: Mapping[str, str], hashes: Mapping[str, str]
) -> None:
    """Name each file that is changed, gone, or was added."""
    for file in sorted({*expected, *hashes}):
        should_be = f"sha256 {expected[file]}" if file in expected else "no such file"
        is_now = f"sha256 {hashes[file]}" if file in hashes else None
        ledger.compare("files", where, prefix + file, should_be, is_now)


def read_settings(ledger: Ledger, run: RunRecord) -> Mapping[str, Any] | None:
    """A run's config.yaml; None where it is gone or no YAML, which is a finding."""
    content = read_bytes(run.run_id, CONFIG)
    where = place_of(run)
    if content is None:
        ledger.compare("settings", where, CONFIG, "the settings of the run", None)
        return None
    try:
        settings = load_yaml(content)
    except (yaml.YAMLError, UnicodeDecodeError):
        settings = None
    if not isinstance(settings, Mapping):
        ledger.compare("settings", where, CONFIG, "the settings of the run", "no YAML object")
        return None
    return settings


def check_parameters(ledger: Ledger, run: RunRecord, settings: Mapping[str, Any] | None) -> None:
    """Hold a run's parameters in the store against its config.yaml."""
    if settings is None:
        return
    expected = parameters(current_settings(settings))
    for name in sorted({*expected, *run.params}):
        should_be = expected.get(name, "no such parameter")
        ledger.compare("parameters", place_of(run), f"parameter {name}", should_be, run.params.get(name))


def check_metrics(ledger: Ledger, stage: RunRecord, pipeline: RunRecord) -> None:
    """Hold the metrics that a pipeline's run has of a stage against those of the stage's own run."""
    own, copied = ({**run.metrics, **dict.fromkeys(run.not_finite, math.nan)} for run in (stage, pipeline))
    for name, value in sorted(own.items()):
        declared = METRICS.get(name)
        if declared is not None and declared.summary and not name.endswith("/seconds") and name in copied:
            where = f"pipeline, MLflow run {pipeline.run_id}"
            ledger.compare("metrics", where, f"metric {name}", value, copied[name])


def _reference(ledger: Ledger, run: RunRecord) -> Reference | None:
    text = run.tags.get(OUTPUT_TAG)
    try:
        return Reference.model_validate_json(text or "", extra="ignore")
    except ValidationError:
        ledger.compare("tags", place_of(run), f"tag {OUTPUT_TAG}", "a reference to the output", text)
        return None


def _check_output(ledger: Ledger, run: RunRecord, recorded: str) -> None:
    removed = run.tags.get(OUTPUT_REMOVED_TAG)
    if removed is None:
        check_artifact(ledger, run.run_id, place_of(run), OUTPUT, recorded)
        return
    again = f"`rlhf reproduce {run.tags.get(PARENT_TAG, run.run_id)}` makes it again"
    found = f"removed by `rlhf gc` on {removed}; {again}"
    ledger.findings.append(Finding(place_of(run), OUTPUT, f"a folder with the sha256 {recorded}", found))
