"""The task that makes a run again."""

import logging

from prefect import task
from prefect.runtime import flow_run as this_flow_run

from rlhf.tracking.client import check_reachable, run_url
from rlhf.tracking.run_locks import hold_run_lock
from tasks.core_slots import all_cores_held
from tasks.prefect_artifacts import name_outcome, show_link, show_reproduction

logger = logging.getLogger("rlhf.runs.reproduction")


@task(name="reproduce", task_run_name="reproduce", log_prints=False)
def reproduce_run(original_run: str, stage: str | None) -> str:
    """Make a run again from its MLflow run id, and compare. Returns the verdict."""
    from rlhf.runs.reproduction.report import as_markdown
    from rlhf.runs.reproduction.reproduce import reproduce
    from rlhf.tracking.stores import find_pipeline

    logging.getLogger("rlhf").setLevel(logging.INFO)
    flow_run_id = str(this_flow_run.id)
    check_reachable()
    with hold_run_lock(flow_run_id):
        run_id = find_pipeline(original_run)
        show_link("original-run", run_url(run_id), "The run that is made again")
        with all_cores_held():
            result = reproduce(run_id, flow_run_id, logger.info, stage=stage)
    show_reproduction(as_markdown(result))
    name_outcome(flow_run_id, result.verdict)
    return result.verdict
