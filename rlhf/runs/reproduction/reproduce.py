"""Make a run again, from its id alone."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rlhf.errors import InputError
from rlhf.paths import in_project, local_folder
from rlhf.provenance.record import ProvenanceRecord
from rlhf.provenance.storage import read_record
from rlhf.references import Reference
from rlhf.runs.reproduction.plan import ReproductionPlan, plan_reproduction
from rlhf.runs.reproduction.report import log_reproduction
from rlhf.runs.reproduction.rerun import RunAgainError, run_again
from rlhf.runs.reproduction.results import StageResult, results_of
from rlhf.runs.reproduction.venv import interpreter
from rlhf.runs.reproduction.verdict import Reproduction, compare_stage, decide_verdict, environment_changes
from rlhf.runs.reproduction.worktree import make_tree, remove_tree
from rlhf.stages import STAGES
from rlhf.tracking import artifacts
from rlhf.tracking.queries import tags_of
from rlhf.tracking.runs import close_run, closing_run, finish_stage, log_metrics, open_run, open_stage
from rlhf.tracking.tags import (
    COMMIT_TAG,
    FINGERPRINT_TAG,
    FLOW_RUN_TAG,
    OUTPUT_TAG,
    PARENT_TAG,
    RECIPE_TAG,
    REPRODUCES_TAG,
    RUN_OF_STAGE,
)

logger = logging.getLogger(__name__)


def reproduce(
    run_id: str,
    flow_run_id: str,
    say: Callable[[str], None],
    *,
    stage: str | None = None,
    num_threads: int | None = None,
    keep: bool = False,
) -> Reproduction:
    """Bring back code, data and environment of a pipeline run, run it from nothing, and compare.

    It logs itself as a run that names the original. The working tree is removed where all came out the same.

    Args:
        run_id: of the pipeline run.
        flow_run_id: the id that `rlhf.tracking.run_locks` knows this by: if the process is killed, the next start
            closes its run.
        say: is called with each line that the run says.
        stage: a single stage, from the recorded outputs of those before it; None for all.
        num_threads: in place of those of the run.
        keep: keep the working tree whatever comes out.

    Raises:
        NotReproducibleError: something is missing. Nothing was trained.
        RunAgainError: the run did not come to its end.
        TrackingError: the store does not answer.
    """
    start = time.monotonic()
    say(f"Looking for all that MLflow run {run_id} was made of")
    plan = plan_reproduction(run_id, stage, num_threads)
    then = _only(stage, results_of(run_id))
    if not then:
        raise InputError(f"MLflow run {run_id} finished no stage, so there is nothing to compare with")
    with _logged(plan, flow_run_id) as own_run, _tree(plan, own_run) as tree:
        python = interpreter(plan)
        say(f"Running it again in {tree} with {python}")
        inputs = _put_inputs(plan, tree) if stage is not None else []
        made = run_again(plan, tree, python, inputs, say)
        with in_project(tree):
            now = _only(stage, results_of(made))
            record = read_record(_pipeline_of(made))
        result = _compared(plan, own_run, then, now, record, time.monotonic() - start)
        if keep or not all(stage.is_identical for stage in result.stages):
            result = result.model_copy(update={"kept_in": str(tree)})
        log_reproduction(own_run, result)
    if result.kept_in is None:
        remove_tree(tree)
    return result


def _only(stage: str | None, results: dict[str, StageResult]) -> dict[str, StageResult]:
    return results if stage is None else {stage: results[stage]}


def _pipeline_of(run_id: str) -> str:
    return tags_of(run_id).get(PARENT_TAG, run_id)


@contextmanager
def _logged(plan: ReproductionPlan, flow_run_id: str) -> Iterator[str]:
    """The MLflow run that tells of this, closed whatever ends it."""
    tags = {
        REPRODUCES_TAG: plan.run_id,
        RECIPE_TAG: plan.record.recipe,
        COMMIT_TAG: plan.commit,
        FLOW_RUN_TAG: flow_run_id,
    }
    run_id = open_run(f"reproduction of {plan.run_id[:8]}", "reproduction", tags)
    with closing_run(run_id):
        yield run_id
    close_run(run_id, "FINISHED")


@contextmanager
def _tree(plan: ReproductionPlan, own_run: str) -> Iterator[Path]:
    """The working tree. It stays where the run failed, so that a person can see why."""
    at = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = local_folder("reproductions") / f"{plan.run_id[:8]}-{at}-{own_run[:6]}"
    try:
        yield make_tree(plan, folder)
    except RunAgainError:
        raise
    except BaseException:
        if folder.exists():
            remove_tree(folder)
        raise


def _put_inputs(plan: ReproductionPlan, tree: Path) -> list[str]:
    """Copy the recorded outputs that a single stage reads into the tree's store. Returns the flags that name them."""
    flags = []
    assert plan.stage is not None
    for name in STAGES[plan.stage].inputs:
        trained = tags_of(plan.run_id)[f"{RUN_OF_STAGE}{name}"]
        tags = tags_of(trained)
        reference = STAGES[name].output.model_validate_json(tags[OUTPUT_TAG])
        folder = artifacts.local_path(reference)
        with in_project(tree):
            flags += [STAGES[name].flag, _copied(name, tags[FINGERPRINT_TAG], reference, folder)]
    return flags


def _copied(stage: str, fingerprint: str, reference: Reference, folder: Path) -> str:
    """A finished run of a stage with this output, as if it had been trained here."""
    parent = open_run("recorded inputs", "inputs", {})
    run_id = open_stage(parent, stage, fingerprint, {}, {})
    uri, sha256 = artifacts.save_output(run_id, folder)
    assert sha256 == reference.sha256, "local_path verifies what it returns"
    log_metrics(run_id, {f"{stage}/trained_seconds": 0.0})
    finish_stage(run_id, reference.model_copy(update={"run_id": run_id, "uri": uri}))
    close_run(parent, "FINISHED")
    return run_id


def _compared(
    plan: ReproductionPlan,
    own_run: str,
    then: dict[str, StageResult],
    now: dict[str, StageResult],
    record: ProvenanceRecord,
    seconds: float,
) -> Reproduction:
    stages = tuple(compare_stage(name, result, now[name]) for name, result in then.items() if name in now)
    not_compared = tuple(name for name in {**then, **now} if name not in then or name not in now)
    environment = environment_changes(plan.record, record)
    verdict, reason = decide_verdict(stages, environment)
    return Reproduction(
        verdict=verdict,
        reason=f"{reason} Not compared: {', '.join(not_compared)}." if not_compared else reason,
        run_id=plan.run_id,
        reproduction_run=own_run,
        not_compared=not_compared,
        environment=environment,
        stages=stages,
        seconds_then=sum(stage.seconds_then for stage in stages),
        seconds_now=sum(stage.seconds_now for stage in stages),
        seconds_in_all=seconds,
    )
