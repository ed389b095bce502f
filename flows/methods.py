"""Several methods of training the policy on the same data and models: which is better, and for what?"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.seeds import run_seeds
from rlhf.config.base import NumSeeds, Seed
from rlhf.config.pipeline import Method, PipelineConfig
from rlhf.references import MethodsReport
from tasks.methods import methods_flow_run_name, methods_run
from tasks.pipeline_run import cancel_on_signal


@flow(name="compare-methods", flow_run_name=methods_flow_run_name, on_crashed=[cancel_on_signal])
def compare_methods(
    config: PipelineConfig,
    methods: Annotated[list[Method], Field(max_length=20)],
    seeds: Annotated[list[Seed], Field(max_length=100)] | None = None,
    num_seeds: NumSeeds | None = None,
) -> MethodsReport:
    """Run a recipe with several methods and several seeds of each, and say which differences are real.

    Args:
        config: The recipe. Its own method counts only where it is listed.
        methods: The methods, each once, such as ppo, rloo.
        seeds: The seeds of each, each once. Empty: num_seeds of them, from the recipe's seed on.
        num_seeds: How many seeds, from the recipe's seed on. Empty, where no seeds are listed either: 5.
    """
    with methods_run(config, list(methods), seeds, num_seeds) as comparison:
        for method in comparison.methods:
            with comparison.running(method):
                comparison.finish(method, run_seeds(comparison.config_of(method), list(comparison.seeds)))
        return comparison.report()
