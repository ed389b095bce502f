"""One stage of a run that another host has started: `rlhf worker` has this flow's runs as its work."""

import platform
from collections.abc import Mapping

from prefect import flow
from prefect.runtime import flow_run as this_flow_run

from flows.stages import STAGE_FLOWS
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError
from rlhf.provenance.capture import base_records
from rlhf.provenance.record import BaseRecord
from rlhf.provenance.same_code import Code, check_same
from rlhf.references import PipelineReport, StageReport
from rlhf.stages import title_of
from tasks.form import named_by
from tasks.pipeline_run import cancel_on_signal
from tasks.pools import STAGE_FLOW


def _name() -> str:
    return named_by(lambda config: f"{config.name}, {title_of(this_flow_run.parameters['stage'])}")


@flow(name=STAGE_FLOW, flow_run_name=_name, on_crashed=[cancel_on_signal])
def stage_in_pool(
    stage: str, config: PipelineConfig, runs: dict[str, str], code: Code, bases: dict[str, BaseRecord]
) -> StageReport | PipelineReport:
    """Make or find the output of one stage, for a run of another host.

    Args:
        stage: Its name.
        config: The recipe.
        runs: MLflow runs of the stages that it reads from.
        code: Of the host that asks.
        bases: Models from outside, as that host has them.
    """
    check_same(code, "the host that sends this stage")
    _check_bases(config, bases)
    report: StageReport | PipelineReport = STAGE_FLOWS[stage].fn(config, **runs)
    return report


def _check_bases(config: PipelineConfig, theirs: Mapping[str, BaseRecord]) -> None:
    """Refuse a folder of a model that is another one on the host that asks, or is not there."""
    ours = base_records(config)
    for setting, base in theirs.items():
        if ours.get(setting) != base:
            raise ConfigError(
                f"{setting} is {base.name}, which is not the same on this host ({platform.node()}) as on the one that "
                "sends this stage; copy the folder here, to the same path below the project, or name a model of the hub"
            )
