"""The report of a reproduction, for MLflow and for a person."""

from rlhf.runs.reproduction.plan import ReproductionPlan, reads_data
from rlhf.runs.reproduction.results import results_of
from rlhf.runs.reproduction.venv import is_this_environment
from rlhf.runs.reproduction.verdict import Reproduction, StageComparison
from rlhf.text.markdown import table
from rlhf.tracking.files import log_content
from rlhf.tracking.runs import set_tags
from rlhf.tracking.tags import REASON_TAG, REPRODUCED_TAG, VERDICT_TAG

STAGE_HEADER = ("stage", "weights then", "weights now", "same metrics", "other files", "s then", "s now")
FIGURE_HEADER = ("measured", "then", "now")


def log_reproduction(run_id: str, result: Reproduction) -> None:
    """Log a reproduction to its own MLflow run, and its verdict to the run that was made again."""
    log_content(run_id, (result.model_dump_json(indent=2) + "\n").encode(), "reproduction.json")
    log_content(run_id, as_markdown(result).encode(), "reproduction.md")
    set_tags(run_id, {VERDICT_TAG: result.verdict, REASON_TAG: result.reason})
    said = f"{result.verdict}, run {result.reproduction_run}"
    set_tags(result.run_id, {REPRODUCED_TAG: said})


def plan_rows(plan: ReproductionPlan) -> dict[str, str]:
    """The parts that a run is made again from, by name."""
    record = plan.record
    code = plan.commit + (f" and a patch of {len(plan.patch)} bytes" if plan.patch else "")
    read = record.data if reads_data(plan.stage) else None
    models = [f"{setting} {base.name}, {base.revision or base.sha256}" for setting, base in record.bases.items()]
    return {
        "code": code,
        "data": f"{read.path}, md5 {read.md5}" if read else "the recorded outputs of earlier stages",
        "models": "; ".join(models) or "none from outside",
        "environment": "this one" if is_this_environment(plan) else f"made from its lock, sha256 {record.lock_sha256}",
        "threads": str(plan.num_threads or record.compute["num_threads"]),
        "stages": ", ".join([plan.stage] if plan.stage else results_of(plan.run_id)),
    }


def as_markdown(result: Reproduction) -> str:
    """The verdict, and a table of the stages."""
    parts = [
        f"# Reproduction of MLflow run `{result.run_id}`: {result.verdict}",
        result.reason,
        table(STAGE_HEADER, map(row, result.stages), numbers=range(3, 7)),
        table(FIGURE_HEADER, figure_rows(result), numbers=(1, 2)),
        f"Stages: {result.seconds_then:.1f} s then, {result.seconds_now:.1f} s now. "
        f"With code, data and environment: {result.seconds_in_all:.1f} s.",
    ]
    if result.kept_in is not None:
        parts.append(f"The working tree is kept in `{result.kept_in}`.")
    return "\n\n".join(parts) + "\n"


def row(stage: StageComparison) -> tuple[str, ...]:
    """A stage's cells, in the order of the table's columns."""
    return (
        stage.name,
        (stage.weights_then or "-")[:8],
        (stage.weights_now or "-")[:8],
        f"{stage.num_equal_metrics} of {stage.num_metrics}",
        str(len(stage.other_files)),
        f"{stage.seconds_then:.1f}",
        f"{stage.seconds_now:.1f}",
    )


def figure_rows(result: Reproduction) -> list[tuple[str, str, str]]:
    """The figures of all stages, then and now, in words and numbers that show every bit of a difference."""
    return [(figure.name, *_pair(figure.then, figure.now)) for stage in result.stages for figure in stage.figures]


def _pair(then: float | None, now: float | None) -> tuple[str, str]:
    if then == now:
        return _short(then), _short(now)
    return _whole(then), _whole(now)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _whole(value: float | None) -> str:
    return "-" if value is None else repr(value)
