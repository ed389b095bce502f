"""The whole pipeline."""

from prefect import flow

from rlhf.config.pipeline import PipelineConfig
from rlhf.references import ModelCardRef, PipelineReport
from tasks.pipeline_run import cancel_on_signal, flow_run_name, pipeline_run
from tasks.stages import run_stages


@flow(name="rlhf-pipeline", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def rlhf_pipeline(config: PipelineConfig) -> PipelineReport:
    """Align a language model with human preferences."""
    with pipeline_run(config) as (run, config):
        return run.report(run_stages(config)[ModelCardRef])
