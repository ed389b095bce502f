"""The plan of a reproduction: all that the run was made of, found before anything is trained."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from rlhf.earlier_names import current_section, recorded_setting
from rlhf.errors import ArtifactMismatchError, DataError, InputError
from rlhf.files.git import try_git
from rlhf.files.hashing import dvc_md5
from rlhf.files.manifest import folder_sha256
from rlhf.files.plain_yaml import load_yaml
from rlhf.paths import root, source_root
from rlhf.provenance.code import has_commit
from rlhf.provenance.record import ProvenanceRecord, canonical_sha256
from rlhf.provenance.storage import CONFIG, LOCK, PATCH, read_record
from rlhf.stages import STAGES
from rlhf.tracking.artifacts import local_path, output_of
from rlhf.tracking.files import read_bytes
from rlhf.tracking.queries import tags_of
from rlhf.tracking.tags import RECORD_TAG, USED_RUN


class NotReproducibleError(InputError):
    """Something that the run was made of is nowhere to be had."""


@dataclass(frozen=True)
class ReproductionPlan:
    """The plan: a run, and all that it was made of.

    Attributes:
        run_id: the run that is made again.
        record: where it came from.
        settings: its resolved configuration, as it was then; this code may know other settings.
        patch: to be applied to the commit; empty where there is none.
        lock: content of its lock file.
        stage: the only stage that is made again; None for all.
        num_threads: to be used in place of those of the run; None for the same.
    """

    run_id: str
    record: ProvenanceRecord
    settings: Mapping[str, Any]
    patch: bytes
    lock: bytes
    stage: str | None
    num_threads: int | None

    @property
    def commit(self) -> str:
        """The commit of the code."""
        assert self.record.code.commit is not None, "a plan without a commit was refused"
        return self.record.code.commit


def plan_reproduction(run_id: str, stage: str | None = None, num_threads: int | None = None) -> ReproductionPlan:
    """Read what is on record of a run, and check that all that it names can be had.

    Args:
        run_id: of a pipeline run.
        stage: a single stage, such as `policy`; None for all.
        num_threads: in place of those of the run.

    Raises:
        NotReproducibleError: something is missing, each named with what to do, or what is on record was changed.
        InputError: the run has no provenance, or never finished that stage.
    """
    if num_threads is not None and num_threads < 1:
        raise InputError(f"{num_threads} is no number of threads; give 1 or more")
    record = _record(run_id)
    if stage is not None:
        _check_stage(stage, run_id, record)
    else:
        _check_own_stages(run_id)
    settings = _settings(run_id, record)
    missing = [
        *_missing_code(record),
        *(_missing_data(record, settings) if reads_data(stage) else _missing_inputs(run_id, stage)),
        *_missing_bases(record, settings),
    ]
    if missing:
        lines = "".join(f"\n  - {sentence}" for sentence in missing)
        raise NotReproducibleError(f"MLflow run {run_id} cannot be made again:{lines}")
    patch = _stored(run_id, PATCH, record.code.patch_sha256) if record.code.patch_sha256 else b""
    return ReproductionPlan(
        run_id, record, settings, patch, _stored(run_id, LOCK, record.lock_sha256), stage, num_threads
    )


def _record(run_id: str) -> ProvenanceRecord:
    record = read_record(run_id)
    tagged = tags_of(run_id).get(RECORD_TAG)
    if tagged != record.digest:
        raise NotReproducibleError(
            f"MLflow run {run_id}: its provenance has the sha256 {record.digest}, and the run's tag says {tagged}: "
            f"one of them was changed; `rlhf verify {run_id}` says what else was"
        )
    return record


def reads_data(stage: str | None) -> bool:
    """The data itself is read by the data stage alone: the stages behind it read what the data stage has made of it."""
    return stage in (None, "data")


def _check_own_stages(run_id: str) -> None:
    used = sorted(tag.removeprefix(USED_RUN) for tag in tags_of(run_id) if tag.startswith(USED_RUN))
    if used:
        raise InputError(
            f"MLflow run {run_id} is of one stage, and took {', '.join(used)} from other runs, of other settings "
            f"perhaps; make those again by their own ids, and the stage of this one with --stage"
        )


def _missing_inputs(run_id: str, stage: str | None) -> Iterator[str]:
    for name in STAGES[stage].inputs if stage else ():
        try:
            local_path(output_of(run_id, name, STAGES[name].output)[0])
        except (InputError, ArtifactMismatchError) as error:
            yield f"the recorded output of {name}: {error}"


def _check_stage(stage: str, run_id: str, record: ProvenanceRecord) -> None:
    unfinished = [name for name in (*STAGES[stage].inputs, stage) if name not in record.stages]
    if unfinished:
        raise InputError(
            f"MLflow run {run_id} never finished {' and '.join(unfinished)}, so there is nothing to compare with or "
            f"to start from; give another run, or leave --stage out to make the whole run again"
        )


def _settings(run_id: str, record: ProvenanceRecord) -> Mapping[str, Any]:
    content = read_bytes(run_id, CONFIG)
    try:
        settings = load_yaml(content) if content else None
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, dict) or canonical_sha256(settings) != record.config_sha256:
        raise NotReproducibleError(
            f"MLflow run {run_id}: {CONFIG} is missing, or is not the configuration that the run recorded (sha256 "
            f"{record.config_sha256}); bring it back, `rlhf verify {run_id}` says what else was changed"
        )
    return settings


def _stored(run_id: str, path: str, sha256: str) -> bytes:
    content = read_bytes(run_id, path)
    if content is None and sha256 == hashlib.sha256().hexdigest():
        return b""  # the package was installed without a lock file
    if content is None or hashlib.sha256(content).hexdigest() != sha256:
        raise NotReproducibleError(
            f"MLflow run {run_id}: {path} is missing, or is not what the run recorded (sha256 {sha256}); bring it "
            f"back, `rlhf verify {run_id}` says what else was changed"
        )
    return content


def _missing_code(record: ProvenanceRecord) -> Iterator[str]:
    code = record.code
    if code.commit is None:
        yield "the code was in no git commit, so it is not known"
        return
    if code.left_out:
        yield (
            f"the run's patch lacks {', '.join(code.left_out)}, which looked like credentials, were too large, or lay "
            "in a folder that is a link; commit what the code needs, and run it anew"
        )
    clone = source_root()
    if try_git(clone, "rev-parse", "--git-dir") is None:
        yield f"{clone} is no git clone, so commit {code.commit} cannot be checked out; run this in a clone"
    elif not has_commit(clone, code.commit):
        shallow = try_git(clone, "rev-parse", "--is-shallow-repository") == b"true\n"
        how = "the clone is shallow: `git fetch --unshallow`" if shallow else "`git fetch --all` may bring it"
        yield f"commit {code.commit} is not in the clone {clone}; {how}"


def _missing_data(record: ProvenanceRecord, settings: Mapping[str, Any]) -> Iterator[str]:
    if record.data is None:
        yield "the run ended before it had found its data, so it is not known which that was"
        return
    if is_elsewhere(record, settings) or (record.data.embedded is not None and not record.data.dirty):
        return
    if not record.data.md5.endswith(".dir"):
        path = settings["data"]["path"]
        yield f"the data file {path}, md5 {record.data.md5}, is gone or was changed; bring it back"
        return
    from rlhf.data.versions.stores import fetch, stores

    try:
        with stores(root()) as places:
            fetch(record.data.md5, places)
    except DataError as error:
        yield str(error) + (f" (the run's remote was {record.data.remote})" if record.data.remote else "")


def is_elsewhere(record: ProvenanceRecord, settings: Mapping[str, Any]) -> bool:
    """The data is a file or folder outside data/, and is still what was read."""
    assert record.data is not None
    path = root() / settings["data"]["path"]
    own = path.resolve() == (root() / "data").resolve()
    return not own and not record.data.tracked and path.exists() and dvc_md5(path) == record.data.md5


def bases_of(record: ProvenanceRecord, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The folders that the run took models from: the setting that names each, and the path that it gives."""
    for setting, base in record.bases.items():
        if base.sha256 is not None:
            setting = recorded_setting(setting, settings)
            value: Any = settings
            for part in setting.split("."):
                value = value[int(part)] if isinstance(value, list) else value[part]
            yield setting, value


def _missing_bases(record: ProvenanceRecord, settings: Mapping[str, Any]) -> Iterator[str]:
    for setting, path in bases_of(record, settings):
        sha256 = record.bases[current_section(setting)].sha256
        if not (root() / path).is_dir():
            yield f"{setting}: {root() / path} is gone; bring the model with the sha256 {sha256} back"
        elif folder_sha256(root() / path) != sha256:
            yield f"{setting}: {root() / path} holds another model now; bring back the one with the sha256 {sha256}"
    for setting, base in record.bases.items():
        if base.sha256 is None and base.revision is None:
            yield f"{setting}: it is not known which commit of {base.name} was loaded"
