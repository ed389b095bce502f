"""Outputs of stages: stored in MLflow's artifact store, found again by fingerprint, verified by sha256.

A stage's output is the artifact folder `output` of its run, beside `output.sha256`, which lists the files; its tables
and figures are the folder `report`, with a list of their own. A finished run with a fingerprint is the record that the
stage need not run again.
"""

import itertools
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rlhf.errors import ArtifactMismatchError, InputError
from rlhf.files.manifest import folder_manifest, manifest_sha256, read_manifest
from rlhf.files.names import below, check_relative
from rlhf.paths import local_folder
from rlhf.references import Reference
from rlhf.text.lines import read_json_lines
from rlhf.text.markdown import without_metadata
from rlhf.tracking.artifact_files import local_artifacts
from rlhf.tracking.client import client, retry_while_unavailable
from rlhf.tracking.queries import finished_stages, tags_of
from rlhf.tracking.run_details import delete_artifact
from rlhf.tracking.runs import set_tags
from rlhf.tracking.tags import (
    FINGERPRINT_TAG,
    KIND_TAG,
    OUTPUT_REMOVED_TAG,
    OUTPUT_TAG,
    PARENT_TAG,
    REPORT_TAG,
    RUN_OF_STAGE,
    STAGE_TAG,
)

AnyReference = TypeVar("AnyReference", bound=Reference)
OUTPUT = "output"
REPORT = "report"
ANSWERS = "answers.json"
CARD = "card"
_ANSWER_FIGURES = ("score", "held_out_score", "kl", "num_tokens", "ended")
_SHOWN_ANSWERS = 10
"""Of each held-out evaluation; all of them are in the output."""
_GOING = "output.removed"


class OutputRemovedError(InputError):
    """An output that was there, and was removed to make room."""


def save_output(run_id: str, folder: Path) -> tuple[str, str]:
    """Store what a stage made as the run's `output`.

    Returns:
        The artifact's URI and its sha256.

    Raises:
        TrackingError: the artifact store did not take it within two minutes.
    """
    manifest = folder_manifest(folder)
    assert manifest, f"the stage wrote nothing to {folder}"
    retry_while_unavailable(lambda: client().log_text(run_id, manifest, manifest_of(OUTPUT)))
    retry_while_unavailable(lambda: client().log_artifacts(run_id, str(folder), OUTPUT))
    return f"runs:/{run_id}/{OUTPUT}", manifest_sha256(manifest)


def save_report(run_id: str, folder: Path) -> None:
    """Store a stage's tables and figures as the run's `report`, where it wrote any."""
    manifest = folder_manifest(folder)
    if manifest:
        retry_while_unavailable(lambda: client().log_text(run_id, manifest, manifest_of(REPORT)))
        retry_while_unavailable(lambda: client().log_artifacts(run_id, str(folder), REPORT))
        set_tags(run_id, {REPORT_TAG: manifest_sha256(manifest)})


def save_card(run_id: str, folder: Path) -> None:
    """Put a card and its figures onto a pipeline's own page, without the metadata that the hub reads.

    Args:
        run_id: of the pipeline.
        folder: with `README.md` and `figures/`.
    """
    text = without_metadata((folder / "README.md").read_text(encoding="utf-8"))
    retry_while_unavailable(lambda: client().log_text(run_id, text, f"{CARD}/README.md"))
    if (folder / "figures").is_dir():
        figures = str(folder / "figures")
        retry_while_unavailable(lambda: client().log_artifacts(run_id, figures, f"{CARD}/figures"))


def save_answers(run_id: str, folder: Path) -> None:
    """Show the answers of a stage's held-out evaluations as a table of the run's page, where it has sampled any.

    Args:
        run_id: of the stage.
        folder: its output, with `generations/update_0000.jsonl` and so on.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("update", "prompt", "response", *_ANSWER_FIGURES)}
    for file in sorted(folder.glob("generations/update_????.jsonl")):
        for row in itertools.islice(read_json_lines(file), _SHOWN_ANSWERS):
            columns["update"].append(int(file.stem.removeprefix("update_")))
            columns["prompt"].append(row["prompt"][-1]["content"])
            for name in ("response", *_ANSWER_FIGURES):
                columns[name].append(row.get(name))
    if not columns["update"]:
        return
    # A second table would be added to the first one.
    there = retry_while_unavailable(lambda: client().list_artifacts(run_id))
    if ANSWERS not in {file.path for file in there}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow 3.17 asks pandas 3 for something in a way that has a new one
            retry_while_unavailable(lambda: client().log_table(run_id, columns, ANSWERS))


def find_output(
    stage: str, fingerprint: str, kind: type[AnyReference], *, verified: bool = True
) -> AnyReference | None:
    """The output of the newest finished run of a stage with this fingerprint; None where there is none left.

    Args:
        stage: its name.
        fingerprint: of the stage.
        kind: of the output.
        verified: whether the files are held against what was stored.

    Raises:
        ArtifactMismatchError: an output is there, and is not what was stored.
    """
    for tags in finished_stages(stage, fingerprint):
        if OUTPUT_REMOVED_TAG in tags:
            continue
        reference = kind.model_validate_json(tags[OUTPUT_TAG])
        if _is_there(reference):
            if verified:
                local_path(reference)
            return reference
    return None


def output_of(run_id: str, stage: str, kind: type[AnyReference]) -> tuple[AnyReference, str]:
    """The output of a stage, named by its own run or by the pipeline run that trained or reused it.

    Returns:
        The reference, and the stage's fingerprint.

    Raises:
        InputError: there is no such run, or it has no such output.
        OutputRemovedError: it had one.
    """
    tags = tags_of(run_id)
    if tags.get(KIND_TAG) == "pipeline":
        tags = tags_of(tags.get(f"{RUN_OF_STAGE}{stage}", ""))
    if tags.get(STAGE_TAG) != stage or OUTPUT_TAG not in tags:
        raise InputError(
            f"MLflow run {run_id} has no output of the stage {stage}; "
            "give the id of a finished pipeline run, or of a finished run of that stage"
        )
    if OUTPUT_REMOVED_TAG in tags:
        raise OutputRemovedError(
            f"the output of the stage {stage} in MLflow run {run_id} was removed on {tags[OUTPUT_REMOVED_TAG]} to make "
            f"room; `rlhf reproduce {tags.get(PARENT_TAG, run_id)}` makes it again"
        )
    return kind.model_validate_json(tags[OUTPUT_TAG]), tags[FINGERPRINT_TAG]


def local_path(reference: Reference) -> Path:
    """The folder with an artifact, verified. It is copied here only where the store is not a local folder.

    Raises:
        ArtifactMismatchError: the folder is gone, or is not what was stored.
    """
    stored = stored_at(reference)
    folder = stored if stored is not None else _download(reference)
    manifest = folder_manifest(folder)
    if manifest_sha256(manifest) != reference.sha256:
        raise ArtifactMismatchError(_difference(reference, folder, manifest))
    return folder


@contextmanager
def as_stored(run_id: str, name: str) -> Iterator[Path | None]:
    """An artifact of a run as it stands in the store, and no earlier copy of it; None where the run has none.

    Where the store is not a local folder, it is copied here for as long as the block lasts.
    """
    folder = _artifacts_of(run_id)
    if folder is not None:
        yield folder / name if (folder / name).exists() else None
        return
    if name not in {file.path for file in retry_while_unavailable(lambda: client().list_artifacts(run_id))}:
        yield None
        return
    local_folder("artifacts").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=local_folder("artifacts")) as temporary:
        yield Path(retry_while_unavailable(lambda: client().download_artifacts(run_id, name, temporary)))


def manifest_of(name: str) -> str:
    """The file that lists the files of an artifact folder."""
    return f"{name}.sha256"


def remove_output(run_id: str) -> None:
    """Remove a stage's output. From the first step on no run is offered it, so that a kill in the middle does no harm.

    What is left of it then is removed when this is called again.
    """
    set_tags(run_id, {OUTPUT_REMOVED_TAG: datetime.now(UTC).isoformat(timespec="seconds")})
    folder = _artifacts_of(run_id)
    if folder is None:
        delete_artifact(run_id, OUTPUT)
        return
    if (folder / _GOING).exists():
        shutil.rmtree(folder / _GOING)
    if (folder / OUTPUT).exists():
        (folder / OUTPUT).rename(folder / _GOING)
        shutil.rmtree(folder / _GOING)


def num_output_bytes(run_id: str, artifact_uri: str) -> int:
    """Bytes of a stage's output in the store, what a removal has left of it included."""
    folder = local_artifacts(artifact_uri)
    if folder is None:
        return _num_stored_bytes(run_id, OUTPUT)
    files = [file for name in (OUTPUT, _GOING) for file in (folder / name).rglob("*")]
    return sum(file.lstat().st_size for file in files if file.is_file())


def stored_at(reference: Reference) -> Path | None:
    """The folder of an artifact in a local store; None where the store is elsewhere."""
    folder = _artifacts_of(reference.run_id)
    return folder / _name_of(reference) if folder else None


def _artifacts_of(run_id: str) -> Path | None:
    """The folder of a run's artifacts; None where the store is not a local folder."""
    return local_artifacts(retry_while_unavailable(lambda: client().get_run(run_id)).info.artifact_uri)


def _num_stored_bytes(run_id: str, path: str) -> int:
    files = retry_while_unavailable(lambda: client().list_artifacts(run_id, path))
    return sum(_num_stored_bytes(run_id, file.path) if file.is_dir else int(file.file_size or 0) for file in files)


def _is_there(reference: Reference) -> bool:
    stored = stored_at(reference)
    if stored is not None:
        return stored.is_dir()
    return bool(retry_while_unavailable(lambda: client().list_artifacts(reference.run_id, _name_of(reference))))


def _name_of(reference: Reference) -> str:
    """The artifact's name in its run. A reference comes back from the store, which others may have written to."""
    where = f"the output of MLflow run {reference.run_id}"
    return check_relative(reference.uri.removeprefix(f"runs:/{reference.run_id}/"), where)


def _download(reference: Reference) -> Path:
    folder = below(
        local_folder("artifacts"), reference.sha256, f"the sha256 of what MLflow run {reference.run_id} has left"
    )
    if not folder.is_dir():
        local_folder("artifacts").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=local_folder("artifacts")) as temporary:
            name = _name_of(reference)
            retry_while_unavailable(lambda: client().download_artifacts(reference.run_id, name, temporary))
            try:
                (Path(temporary) / name).rename(folder)
            except OSError:
                # Another run has brought the same meanwhile.
                if not folder.is_dir():
                    raise
    return folder


def _difference(reference: Reference, folder: Path, manifest: str) -> str:
    """Name the files in which an artifact differs from what was stored."""
    stored = folder.with_name(manifest_of(folder.name))
    expected = stored.read_text() if stored.is_file() else ""
    if manifest_sha256(expected) == reference.sha256:
        changed = read_manifest(expected).items() ^ read_manifest(manifest).items()
        what = ", ".join(str(folder / name) for name in sorted({name for name, _ in changed}))
    else:
        what = str(folder)
    return (
        f"{what}: not what MLflow run {reference.run_id} stored (sha256 of {folder.name}: "
        f"{manifest_sha256(manifest)}, stored {reference.sha256}); bring it back, "
        f"or delete {folder} and the stage runs again"
    )
