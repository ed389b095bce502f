"""One stage of a run that another host has started: `rlhf worker` has this flow's runs as its work."""

from prefect import flow
from prefect.runtime import flow_run as this_flow_run

from flows.stages import STAGE_FLOWS
from rlhf.config.pipeline import PipelineConfig
from rlhf.provenance.same_code import Code, check_same
from rlhf.references import PipelineReport, StageReport
from rlhf.stages import title_of
from tasks.form import named_by
from tasks.pipeline_run import cancel_on_signal
from tasks.pools import STAGE_FLOW


def _name() -> str:
    return named_by(lambda config: f"{config.name}, {title_of(this_flow_run.parameters['stage'])}")


@flow(name=STAGE_FLOW, flow_run_name=_name, on_crashed=[cancel_on_signal])
def stage_in_pool(stage: str, config: PipelineConfig, runs: dict[str, str], code: Code) -> StageReport | PipelineReport:
    """Make or find the output of one stage, for a run of another host.

    Args:
        stage: Its name.
        config: The recipe.
        runs: MLflow runs of the stages that it reads from.
        code: Of the host that asks.
    """
    check_same(code, "the host that sends this stage")
    report: StageReport | PipelineReport = STAGE_FLOWS[stage].fn(config, **runs)
    return report
