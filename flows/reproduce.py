"""A run again, from its id."""

from prefect import flow

from rlhf.stages import RepeatableStage
from tasks.pipeline_run import cancel_on_signal
from tasks.reproduce_run import reproduce_run


@flow(name="reproduce", flow_run_name="reproduce {original_run}", on_crashed=[cancel_on_signal])
def reproduce(original_run: str, stage: RepeatableStage | None = None) -> str:
    """Make a run again from its MLflow run id, and say whether it came out the same.

    Args:
        original_run: The pipeline run: its id, the first characters of it, RECIPE@champion, RECIPE/3, or
            champion.
        stage: Only this stage, from the recorded outputs of those before it. Empty: all stages.
    """
    return reproduce_run(original_run, stage)
