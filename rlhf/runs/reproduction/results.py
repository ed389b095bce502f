"""The results of a run's stages, files and metrics, as far as it must come out the same."""

from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.files.manifest import files_sha256, read_manifest
from rlhf.metrics import COST_UNITS, describe
from rlhf.stages import stage_name
from rlhf.tracking.files import read_bytes
from rlhf.tracking.queries import ClientStore, metrics_of, tags_of
from rlhf.tracking.tags import KIND_TAG, STAGE_TAG, stage_runs

_WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class StageResult:
    """The result of one stage.

    Attributes:
        run_id: MLflow run that trained it.
        files: sha256 of what it made, by path.
        metrics: the last value of each metric, those of costs apart.
        curves: steps and values of each.
        seconds: what it took when it was trained.
    """

    run_id: str
    files: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, list[tuple[int, float]]]
    seconds: float

    @property
    def weights(self) -> str | None:
        """The sha256 over all weights; None where the stage makes none."""
        weights = {name: sha256 for name, sha256 in self.files.items() if name.endswith(_WEIGHTS)}
        return files_sha256(weights) if weights else None


def results_of(run_id: str) -> dict[str, StageResult]:
    """The results of a pipeline run's stages, or of one stage's run, by stage."""
    tags = tags_of(run_id)
    trained = {tags[STAGE_TAG]: run_id} if tags.get(KIND_TAG) == "stage" else stage_runs(tags)
    return {stage: _result(stage, stage_run) for stage, stage_run in trained.items()}


def _result(stage: str, run_id: str) -> StageResult:
    metrics = metrics_of(run_id)
    lasting = {name: value for name, value in metrics.items() if describe(name).unit not in COST_UNITS}
    return StageResult(
        run_id,
        _files(run_id),
        lasting,
        ClientStore().curves(run_id, sorted(lasting)),
        metrics.get(f"{stage_name(stage)}/trained_seconds", 0.0),
    )


def _files(run_id: str) -> dict[str, str]:
    return read_manifest((read_bytes(run_id, "output.sha256") or b"").decode())
