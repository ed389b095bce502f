"""The task that makes a run again."""

import logging

from prefect import task
from prefect.runtime import flow_run as this_flow_run

from rlhf import tracking
from rlhf.living import alive
from rlhf.references import StageName
from tasks.display import name_outcome, show_link, show_reproduction
from tasks.slots import all_cores_held

logger = logging.getLogger("rlhf.reproduction")


@task(name="reproduce", task_run_name="reproduce", log_prints=False)
def reproduce_run(original_run: str, stage: StageName | None) -> str:
    """Make a run again from its MLflow run id, and compare. Returns the verdict."""
    from rlhf.reproduction.report import as_markdown
    from rlhf.reproduction.reproduce import reproduce
    from rlhf.tracking.search import find_pipeline

    logging.getLogger("rlhf").setLevel(logging.INFO)
    flow_run_id = str(this_flow_run.id)
    tracking.check_reachable()
    with alive(flow_run_id):
        run_id = find_pipeline(original_run)
        show_link("original-run", tracking.run_url(run_id), "The run that is made again")
        with all_cores_held():
            result = reproduce(run_id, flow_run_id, logger.info, stage=stage)
    show_reproduction(as_markdown(result))
    name_outcome(flow_run_id, result.verdict)
    return result.verdict
