"""A group of pipeline runs: its MLflow run, which names them, and the summary that it ends with."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from prefect.runtime import flow_run as this_flow_run

from rlhf import provenance
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.seeds import choose_seeds
from rlhf.failures import describe_failure
from rlhf.modeling.hub import at_commits
from rlhf.modeling.template_choice import settled
from rlhf.paths import source_root
from rlhf.references import GroupReport, PipelineReport, SeedReport
from rlhf.runs.groups import SeedsFailedError, as_markdown, group_key, group_metrics, over_seeds
from rlhf.runs.names import group_name
from rlhf.tracking.client import check_reachable, run_url
from rlhf.tracking.files import log_content
from rlhf.tracking.groups import open_group
from rlhf.tracking.queries import metrics_of, tags_of
from rlhf.tracking.records import GROUP
from rlhf.tracking.run_locks import hold_run_lock
from rlhf.tracking.runs import close_killed_runs, close_run, closing_run, log_metrics
from rlhf.tracking.tags import COMMIT_TAG, DATA_TAG, DIRTY_TAG, RECIPE_TAG, SEEDS_TAG, SOURCE_TAG
from tasks.form import named_by
from tasks.pipeline_run import Membership, member_of, page_tags
from tasks.prefect_artifacts import show_group, show_link

logger = logging.getLogger("rlhf.group")
_THE_SAME = {DATA_TAG: "versions of the data", COMMIT_TAG: "commits of the code"}


@dataclass
class Group:
    """A group that is under way.

    Attributes:
        run_id: its MLflow run.
        config: of all its seeds.
        seeds: in the order in which they are run.
        done: what came of those that are over.
        exit_code: of the first that failed.
    """

    run_id: str
    config: PipelineConfig
    seeds: tuple[int, ...]
    done: list[SeedReport] = field(default_factory=list)
    exit_code: int | None = None

    def config_of(self, seed: int) -> PipelineConfig:
        """The settings of one seed."""
        return self.config.model_copy(update={"seed": seed})

    @contextmanager
    def running(self, seed: int) -> Iterator[None]:
        """Run one seed within the block. Where it fails, that is noted, and the other seeds are run all the same."""
        membership = Membership(self.run_id)
        try:
            with member_of(membership):
                yield
        except Exception as error:  # noqa: BLE001  # it must not lose the other seeds; it is told, and ends the group
            message, exit_code = describe_failure(error)
            logger.warning("seed %d failed: %s", seed, message)
            self.exit_code = self.exit_code or exit_code
            self.done.append(SeedReport(seed=seed, run_id=membership.run_id, error=message))

    def finish(self, seed: int, report: PipelineReport) -> None:
        """Note what came of a seed."""
        self.done.append(
            SeedReport(seed=seed, run_id=report.run_id, metrics=report.metrics, policy_path=report.policy_path)
        )

    def report(self) -> GroupReport:
        """Sum up, and show it."""
        finished = [seed for seed in self.done if seed.error is None]
        report = GroupReport(
            run_id=self.run_id,
            recipe=self.config.name,
            seeds=tuple(self.done),
            statistics=over_seeds(finished),
            notes=tuple(self._notes(finished)),
        )
        text = as_markdown(report)
        metrics = group_metrics(report)
        # Of an attempt before, in which other seeds had finished; MLflow takes no metric back.
        outdated = dict.fromkeys(metrics_of(self.run_id).keys() - metrics.keys(), math.nan)
        log_metrics(self.run_id, metrics | outdated)
        log_content(self.run_id, text.encode(), "summary.md")
        log_content(self.run_id, report.model_dump_json(indent=2).encode(), "summary.json")
        show_group(text)
        if self.exit_code is not None:
            raise SeedsFailedError(report, self.exit_code)
        return report

    def _notes(self, finished: list[SeedReport]) -> Iterator[str]:
        if len(finished) < 2:
            yield "Fewer than two seeds finished, so nothing is said over seeds."
        tags = [tags_of(seed.run_id or "") for seed in finished]
        for tag, what in _THE_SAME.items():
            if len({of_seed.get(tag) for of_seed in tags}) > 1:
                yield f"The seeds were run with different {what}, so more than the seed differs between them."


@contextmanager
def group_run(config: PipelineConfig, seeds: list[int] | None, num_seeds: int | None) -> Iterator[Group]:
    """Open the MLflow run of a group for the flow run that is under way, or go on in it, and close it at the end.

    Args:
        config: the recipe.
        seeds: the seeds.
        num_seeds: how many, from the recipe's seed on, where they are not listed.

    Raises:
        ConfigError: seeds that cannot be a group's.
        SeedsFailedError: some failed, once all were run.
    """
    chosen = choose_seeds(config.seed, seeds, num_seeds)
    name, key = group_name(config, chosen), group_key(config, chosen)
    with summing_run(config, chosen, name, key, "flows.seeds") as (run_id, recorded):
        yield Group(run_id, recorded, chosen)


@contextmanager
def summing_run(
    config: PipelineConfig, seeds: Sequence[int], name: str, key: str, source: str, kind: str = GROUP
) -> Iterator[tuple[str, PipelineConfig]]:
    """Open the MLflow run that sums up pipeline runs of several seeds, or go on in it, and close it at the end.

    Args:
        config: the recipe.
        seeds: of the runs.
        name: of the run.
        key: by which it is found again.
        source: the flow.
        kind: of the run.

    Yields:
        The run's id, and the recipe as it was at its first start: all seeds have the model at one commit and the
        template of one day, whenever they are run.
    """
    logging.getLogger("rlhf").setLevel(logging.INFO)
    flow_run_id = str(this_flow_run.id)
    with hold_run_lock(flow_run_id):
        check_reachable()
        close_killed_runs()
        git = provenance.git_state(source_root())
        tags = {
            RECIPE_TAG: config.name,
            SEEDS_TAG: ",".join(map(str, seeds)),
            COMMIT_TAG: git.commit or "",
            DIRTY_TAG: str(git.dirty).lower(),
            SOURCE_TAG: source,
            **page_tags(),
        }
        settings = settled(at_commits(config)).model_dump(mode="json", exclude={"seed"})
        run_id, recorded = open_group(name, key, flow_run_id, settings, tags, kind)
        show_link("mlflow-run", run_url(run_id), "The MLflow run of this group")
        with closing_run(run_id):
            yield run_id, PipelineConfig.model_validate(recorded)
            close_run(run_id, "FINISHED")


def group_flow_run_name() -> str:
    """Name of the flow run of a group that is under way."""
    given = this_flow_run.parameters

    def name(config: PipelineConfig) -> str:
        return group_name(config, choose_seeds(config.seed, given.get("seeds"), given.get("num_seeds")))

    return named_by(name)
