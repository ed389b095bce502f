"""A recipe with several seeds: how much of what a run comes to is its seed's?"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.pipeline import rlhf_pipeline
from rlhf.config.base import NumSeeds, Seed
from rlhf.config.pipeline import PipelineConfig
from rlhf.references import GroupReport
from tasks.group import group_flow_run_name, group_run
from tasks.pipeline_run import cancel_on_signal


@flow(name="seeds", flow_run_name=group_flow_run_name, on_crashed=[cancel_on_signal])
def run_seeds(
    config: PipelineConfig,
    seeds: Annotated[list[Seed], Field(max_length=100)] | None = None,
    num_seeds: NumSeeds | None = None,
) -> GroupReport:
    """Run the whole pipeline with several seeds, one after the other, and sum up what they came to.

    Args:
        config: The recipe. Its own seed counts only where seeds are not listed.
        seeds: The seeds, each once. Empty: num_seeds of them, from the recipe's seed on.
        num_seeds: How many seeds, from the recipe's seed on. Empty, where no seeds are listed either: 5.
    """
    with group_run(config, seeds, num_seeds) as group:
        for seed in group.seeds:
            with group.running(seed):
                group.finish(seed, rlhf_pipeline(group.config_of(seed)))
        return group.report()
