"""A comparison of methods: its MLflow run, and the page and figure that it ends with."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prefect.runtime import flow_run as this_flow_run

from rlhf.config.methods import choose_methods, with_method
from rlhf.config.pipeline import Method, PipelineConfig
from rlhf.config.seeds import choose_seeds
from rlhf.failures import describe_failure
from rlhf.references import GroupReport, MethodReport, MethodsReport
from rlhf.runs.groups import SeedsFailedError
from rlhf.runs.methods import CURVES, MethodsFailedError, as_markdown, differences, draw_frontiers, methods_key
from rlhf.runs.names import methods_name
from rlhf.tracking.files import log_content
from rlhf.tracking.queries import ClientStore
from rlhf.tracking.records import METHODS
from rlhf.tracking.runs import set_tags
from rlhf.tracking.tags import DESCRIPTION_TAG, GROUP_TAG
from tasks.form import named_by
from tasks.group import summing_run
from tasks.prefect_artifacts import show_methods

logger = logging.getLogger("rlhf.methods")


@dataclass
class Methods:
    """A comparison that is under way.

    Attributes:
        run_id: its MLflow run.
        config: the recipe, with the method of its own.
        methods: in the order in which they are run.
        seeds: of each.
        done: what came of those that are over.
        exit_code: of the first that failed.
    """

    run_id: str
    config: PipelineConfig
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    done: list[MethodReport] = field(default_factory=list)
    exit_code: int | None = None

    def config_of(self, method: Method) -> PipelineConfig:
        """The recipe with one of the methods."""
        return with_method(self.config, method)

    @contextmanager
    def running(self, method: str) -> Iterator[None]:
        """Run one method within the block. Where seeds of it fail, that is noted, and the others are run."""
        logger.info("method %s", method)
        try:
            yield
        except SeedsFailedError as error:
            self._note(method, error.report, str(error), error.exit_code)
        except Exception as error:  # noqa: BLE001  # it must not lose the other methods; it is told, and ends them
            self._note(method, None, *describe_failure(error))

    def finish(self, method: str, report: GroupReport) -> None:
        """Note what came of a method."""
        self._note(method, report, None, None)

    def report(self) -> MethodsReport:
        """Compare, and show it."""
        report = MethodsReport(
            run_id=self.run_id,
            recipe=self.config.name,
            seeds=self.seeds,
            methods=tuple(self.done),
            differences=differences(self.done),
        )
        text = as_markdown(report)
        set_tags(self.run_id, {DESCRIPTION_TAG: text})
        log_content(self.run_id, text.encode(), "summary.md")
        log_content(self.run_id, report.model_dump_json(indent=2).encode(), "summary.json")
        self._draw()
        show_methods(text)
        if self.exit_code is not None:
            raise MethodsFailedError(report, self.exit_code)
        return report

    def _note(self, method: str, group: GroupReport | None, error: str | None, exit_code: int | None) -> None:
        if error is not None:
            logger.warning("method %s did not finish: %s", method, error)
        self.exit_code = self.exit_code or exit_code
        if group is not None:
            set_tags(group.run_id, {GROUP_TAG: self.run_id})
        self.done.append(MethodReport(method=method, group=group if group and group.finished else None, error=error))

    def _draw(self) -> None:
        store = ClientStore()
        curves, chosen = {}, {}
        for method in self.done:
            if method.group is None:
                continue
            seeds = [(seed, store.curves(str(seed.run_id), CURVES)) for seed in method.group.finished]
            curves[method.method] = [of_seed for _, of_seed in seeds]
            chosen[method.method] = [
                {
                    name: [point for point in points if point[0] == seed.metrics["policy/chosen_update"]]
                    for name, points in of_seed.items()
                }
                for seed, of_seed in seeds
            ]
        if curves:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "frontiers.png"
                draw_frontiers(curves, chosen, path)
                log_content(self.run_id, path.read_bytes(), "frontiers.png")


@contextmanager
def methods_run(
    config: PipelineConfig, methods: list[str], seeds: list[int] | None, num_seeds: int | None
) -> Iterator[Methods]:
    """Open the MLflow run of a comparison for the flow run that is under way, or go on in it, and close it at the end.

    Args:
        config: the recipe.
        methods: names of the methods.
        seeds: the seeds.
        num_seeds: how many, from the recipe's seed on, where they are not listed.

    Raises:
        ConfigError: methods or seeds that cannot be compared, or a method that cannot work with the recipe.
        MethodsFailedError: some failed, once all were run.
    """
    named, chosen = choose_methods(methods), choose_seeds(config.seed, seeds, num_seeds)
    for method in named:
        with_method(config, method)
    name, key = methods_name(config, named, chosen), methods_key(config, named, chosen)
    with summing_run(config, chosen, name, key, "flows.methods", METHODS) as (run_id, recorded):
        yield Methods(run_id, recorded, named, chosen)


def methods_flow_run_name() -> str:
    """Name of the flow run of a comparison that is under way."""
    given = this_flow_run.parameters

    def name(config: PipelineConfig) -> str:
        seeds = choose_seeds(config.seed, given.get("seeds"), given.get("num_seeds"))
        return methods_name(config, choose_methods(given["methods"]), seeds)

    return named_by(name)
