"""The whole pipeline."""

from prefect import flow

from flows.stages_in_order import run_stages
from rlhf.config import PipelineConfig
from rlhf.references import PipelineReport
from tasks.pipeline import cancel_on_signal, flow_run_name, pipeline_run


@flow(name="rlhf-pipeline", flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])
def rlhf_pipeline(config: PipelineConfig) -> PipelineReport:
    """Align a language model with human preferences."""
    with pipeline_run(config) as (run, config):
        return run.report(run_stages(config).card)
