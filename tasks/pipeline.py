"""The pipeline run that stages belong to: its MLflow parent run, and how its stages went."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from prefect.runtime import flow_run

from rlhf import provenance, tracking
from rlhf.config import PipelineConfig
from rlhf.errors import RLHFError
from rlhf.metrics import METRICS
from rlhf.references import DataSource, ModelCardRef, PipelineReport, Reference, StageReport


@dataclass
class Pipeline:
    """One run of a flow.

    Attributes:
        run_id: MLflow parent run.
        git: version of the code.
        stages: how the stages so far went, in order.
        source: the data that the run reads, once it is known.
    """

    run_id: str
    git: provenance.GitState
    stages: list[StageReport] = field(default_factory=list)
    source: DataSource | None = None

    def record(self, stage: StageReport, fingerprint: str, reference: Reference) -> None:
        """Note a stage that is done, link the run that trained it, and copy the metrics by which people compare."""
        self.stages.append(stage)
        tags = {
            f"stage.{stage.name}": json.dumps(stage.model_dump() | {"sha256": reference.sha256}),
            f"fingerprint.{stage.name}": fingerprint,
        }
        tracking.set_tags(self.run_id, tags)
        metrics = {name: value for name, value in tracking.final_metrics(stage.run_id).items() if _is_summary(name)}
        metrics[f"{stage.name}/seconds"] = stage.seconds
        metrics[f"{stage.name}/trained_seconds"] = stage.trained_seconds
        tracking.log_metrics(self.run_id, metrics)

    def record_source(self, source: DataSource) -> None:
        """Note which data the run reads, and whether that makes it reproducible."""
        self.source = source
        reason = "data/ differs from data.dvc" if source.dirty else "the data is not tracked by DVC; import it first"
        tags = {"data.md5": source.md5, "data.dirty": str(source.dirty).lower()}
        tags |= {"reproducible": "true"} if source.tracked else {"reproducible": "false", "not_reproducible_because": reason}
        tracking.set_tags(self.run_id, tags)
        tracking.log_data(self.run_id, source)

    def report(self, card: ModelCardRef) -> PipelineReport:
        """What the run ends with."""
        metrics: dict[str, float] = {}
        for stage in self.stages:
            metrics |= tracking.final_metrics(stage.run_id)
            metrics[f"{stage.name}/seconds"] = stage.seconds
            metrics[f"{stage.name}/trained_seconds"] = stage.trained_seconds
        folder = tracking.local_path(card)
        return PipelineReport(
            run_id=self.run_id,
            metrics=metrics,
            stages=self.stages,
            policy_path=str(folder),
            model_card=str(folder / "README.md"),
        )


_current: ContextVar[Pipeline] = ContextVar("pipeline")


def current_pipeline() -> Pipeline:
    """The pipeline run that the caller is part of."""
    return _current.get()


@contextmanager
def tracked_pipeline(config: PipelineConfig) -> Iterator[Pipeline]:
    """Open the MLflow parent run of this flow run, and end it as the block ends.

    A flow run that is tried again goes on in the same parent.
    """
    git = provenance.git_state()
    tags = {
        "recipe": config.name,
        "mlflow.source.name": "rlhf",
        "mlflow.source.type": "PROJECT",
        "mlflow.source.git.commit": git.commit or "",
        "git.dirty": str(git.dirty).lower(),
        "lock.sha256": provenance.lock_sha256(),
        "prefect.flow_run_url": flow_run.ui_url or "",
    }
    run_id = tracking.start_pipeline(f"{config.name}-{git.short}", str(flow_run.id), tags)
    tracking.send_unsent()
    pipeline = Pipeline(run_id, git)
    token = _current.set(pipeline)
    try:
        tracking.log_parameters(run_id, provenance.flat(config))
        tracking.log_json(run_id, "config.json", config.model_dump(mode="json"))
        tracking.log_json(run_id, "machine.json", provenance.machine() | {"executable": Path(sys.executable).name})
        yield pipeline
    except BaseException as error:
        tracking.finish(run_id, status_of(error), message_of(error))
        raise
    finally:
        _current.reset(token)
    tracking.finish(run_id, "FINISHED")


def status_of(error: BaseException) -> tracking.Status:
    """FAILED for an error; KILLED for what stops a process from outside: Ctrl-C, SIGTERM, cancellation."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def message_of(error: BaseException) -> str:
    """The message that the command line would print."""
    return str(error) if isinstance(error, RLHFError) else f"{type(error).__name__}: {error}"


def _is_summary(name: str) -> bool:
    return name in METRICS and METRICS[name].summary and not name.endswith("seconds")
