"""MLflow, and the only package that imports it. Runs are addressed by id; nothing depends on a thread's active run.

A pipeline run is a parent run, every attempt at a stage a child of it. What stages leave is `rlhf.artifacts`' business.
"""

from rlhf.tracking.files import log_content, log_file, read_bytes
from rlhf.tracking.models import REGISTERED_MODEL, register_policy
from rlhf.tracking.runs import (
    ALARMS_TAG,
    FLOW_RUN_TAG,
    OUTPUT_TAG,
    close_orphans,
    close_run,
    closing_run,
    finish_stage,
    link_stage,
    log_dataset,
    log_metrics,
    metric_log,
    open_pipeline,
    open_run,
    open_stage,
    set_alarms,
    set_tags,
    wait_for_approval,
)
from rlhf.tracking.search import finished_stages, metrics_of, pipeline_runs, tags_of
from rlhf.tracking.store import (
    EXPERIMENT,
    TrackingError,
    check_reachable,
    client,
    experiment_id,
    patiently,
    prepare_store,
    run_url,
    runs_url,
    tracking_uri,
)

__all__ = [
    "ALARMS_TAG",
    "EXPERIMENT",
    "FLOW_RUN_TAG",
    "OUTPUT_TAG",
    "REGISTERED_MODEL",
    "TrackingError",
    "check_reachable",
    "client",
    "close_orphans",
    "close_run",
    "closing_run",
    "experiment_id",
    "finish_stage",
    "finished_stages",
    "link_stage",
    "log_content",
    "log_dataset",
    "log_file",
    "log_metrics",
    "metric_log",
    "metrics_of",
    "open_pipeline",
    "open_run",
    "open_stage",
    "patiently",
    "pipeline_runs",
    "prepare_store",
    "read_bytes",
    "register_policy",
    "run_url",
    "runs_url",
    "set_alarms",
    "set_tags",
    "tags_of",
    "tracking_uri",
    "wait_for_approval",
]
