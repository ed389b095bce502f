"""Each stage as a flow of its own, on the outputs of earlier runs.

An earlier run is named by its MLflow run id: that of a pipeline run, or that of the stage's own run. The flow of `sft`
is `flows.stages.sft_stage`, and so on.
"""

from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any

from prefect import Flow, flow

from rlhf.config.pipeline import PipelineConfig
from rlhf.references import ModelCardRef, PipelineReport, StageReport
from rlhf.stages import STAGES, StageSpec, attempt_names, pipeline_stages
from tasks.pipeline_run import cancel_on_signal, flow_run_name, pipeline_run
from tasks.stages import STAGE_TASKS, Outputs, check_alone

StageFlow = Flow[..., StageReport | PipelineReport]


def _flow_of(stage: StageSpec) -> StageFlow:
    """A flow with a parameter for the recipe, and one for the run of every stage that this one reads from."""
    inputs = [STAGES[name] for name in stage.inputs]
    parameters = {"config": PipelineConfig} | {given.run_argument: str for given in inputs}
    signature = Signature(
        [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind) for name, kind in parameters.items()],
        return_annotation=StageReport | PipelineReport,
    )

    def run(*arguments: Any, **named: Any) -> StageReport | PipelineReport:
        given = signature.bind(*arguments, **named).arguments
        check_alone(stage.name, given["config"])
        with pipeline_run(given["config"]) as (pipeline, config):
            made = Outputs(attempt_names(config) if stage.name == "policy" else ())
            for spec in inputs:
                made.add(pipeline.use(given[spec.run_argument], spec.output))
            reference = STAGE_TASKS[stage.name](config, made)
            return pipeline.report(reference) if isinstance(reference, ModelCardRef) else pipeline.stages[-1]

    # Prefect makes the form of them, and its runs' names.
    run.__name__ = run.__qualname__ = f"{stage.name}_stage"
    run.__doc__ = stage.summary
    run.__annotations__ = {**parameters, "return": signature.return_annotation}
    run.__signature__ = signature  # type: ignore[attr-defined]
    return flow(name=stage.command, flow_run_name=flow_run_name, on_crashed=[cancel_on_signal])(run)


STAGE_FLOWS: Mapping[str, StageFlow] = {stage.name: _flow_of(stage) for stage in pipeline_stages()}

globals().update({f"{name}_stage": stage_flow for name, stage_flow in STAGE_FLOWS.items()})
