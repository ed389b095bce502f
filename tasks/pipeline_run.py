"""A pipeline run: its MLflow parent, what its stages tell it, and how it ends."""

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run as this_flow_run
from prefect.states import Cancelled

from rlhf import provenance
from rlhf.config.cluster import ClusterConfig
from rlhf.config.gates import FigureGate
from rlhf.config.pipeline import PipelineConfig
from rlhf.failures import explained
from rlhf.figure_gates import check_figures, figure_verdicts, refusal
from rlhf.files.checkpoint_mirror import check_address
from rlhf.modeling import starting_model
from rlhf.modeling.hub import at_commits
from rlhf.modeling.run_models import check_hub_models, check_models
from rlhf.modeling.template_choice import settled
from rlhf.paths import source_root
from rlhf.progress import StageEnded, tell
from rlhf.provenance import Patch, ProvenanceRecord, StageRecord, working_patch
from rlhf.provenance.capture import begin_record, with_data, with_stage
from rlhf.provenance.storage import has_record, read_record, save_code, save_record
from rlhf.references import DatasetRef, DataSource, GateVerdict, ModelCardRef, PipelineReport, Reference, StageReport
from rlhf.rewards.functions import check_installed
from rlhf.rl.launchers import drop_launcher_variables
from rlhf.runs.names import run_name
from rlhf.runs.note import current_note
from rlhf.runs.report.collect import collect
from rlhf.runs.report.documents import as_markdown
from rlhf.stages import STAGES, is_round, stage_of
from rlhf.text.markdown import escape
from rlhf.tracking import artifacts
from rlhf.tracking.artifact_checks import check_location
from rlhf.tracking.client import check_reachable, run_url
from rlhf.tracking.models import LONGEST_DESCRIPTION, check_recipe_name, describe_version, register_policy
from rlhf.tracking.queries import metrics_of, pipeline_of, tags_of
from rlhf.tracking.run_locks import hold_run_lock
from rlhf.tracking.runs import (
    close_killed_runs,
    close_orphans,
    close_run,
    closing_run,
    link_stage,
    log_dataset,
    open_pipeline,
    set_tags,
)
from rlhf.tracking.stores import open_store
from rlhf.tracking.tags import (
    COMMIT_TAG,
    DATA_DIRTY_TAG,
    DATA_PATH_TAG,
    DATA_TAG,
    DESCRIPTION_TAG,
    DIRTY_TAG,
    FLOW_RUN_PAGE_TAG,
    GROUP_TAG,
    HOST_TAG,
    LOCK_TAG,
    NOTE_TAG,
    PARENT_TAG,
    POLICY_TAG,
    RECIPE_TAG,
    REFUSED_TAG,
    RUN_OF_STAGE,
    SOURCE_TAG,
    USED_RUN,
    VERSION_TAG,
)
from tasks.form import named_by
from tasks.judge_files import check_judge_files
from tasks.pools import PoolError, check_pools
from tasks.prefect_artifacts import show_card, show_failure, show_figure_gates, show_link, show_report, show_stages

logger = logging.getLogger("rlhf.pipeline")
AnyReference = TypeVar("AnyReference", bound=Reference)
_current: ContextVar["Pipeline"] = ContextVar("pipeline")
_membership: ContextVar["Membership | None"] = ContextVar("membership", default=None)
_LONGEST_DESCRIPTION = 7500
"""Characters; MLflow takes 8,000 of a tag."""
_FIGURES_OF_A_VERSION = ("win_rate", "kl", "gold_gain")
_SIGNALS = (
    "Execution was aborted by an interrupt signal.",
    "Execution was aborted by a termination signal.",
)


@dataclass
class Membership:
    """The membership of a pipeline run in a group.

    Attributes:
        group: MLflow run of the group.
        run_id: that of the pipeline, once it has one.
    """

    group: str
    run_id: str | None = None


@dataclass
class Pipeline:
    """A pipeline run that is under way.

    Attributes:
        run_id: its MLflow run, the parent of its stages' runs.
        record: where the run comes from, as far as it is known by now.
        registered: whether its policy becomes a version of the recipe's registered model.
        gates: limits of its figures.
        cluster: hosts and nodes that its stages run on.
        source: the data that it reads, once that is known.
        stages: how the stages went that are done.
        metrics: what they measured, by the metrics' names.
    """

    run_id: str
    record: ProvenanceRecord
    registered: bool
    gates: tuple[FigureGate, ...] = ()
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    source: DataSource | None = None
    stages: list[StageReport] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    def read_data(self, source: DataSource) -> None:
        """Note which data the run reads, and with that whether the run can be reproduced."""
        self.source = source
        self._note(with_data(self.record, source))
        tags = {
            DATA_TAG: source.md5,
            DATA_PATH_TAG: source.path,
            DATA_DIRTY_TAG: str(source.dirty).lower(),
        }
        set_tags(self.run_id, tags)
        log_dataset(self.run_id, "data", source.md5, source.path)

    def finish_stage(self, report: StageReport, reference: Reference, fingerprint: str) -> None:
        """Note how a stage or round went, and what it made."""
        if not isinstance(reference, ModelCardRef):  # the card holds the record
            made = StageRecord(fingerprint=fingerprint, sha256=reference.sha256)
            self._note(with_stage(self.record, report.name, made))
        link_stage(self.run_id, report.name, report.run_id, fingerprint, report.seconds)
        self.stages.append(report)
        if not is_round(report.name):
            self.metrics |= metrics_of(report.run_id) | {f"{report.name}/seconds": report.seconds}

    def _note(self, record: ProvenanceRecord) -> None:
        self.record = record
        save_record(self.run_id, record)

    def use(self, run_id: str, kind: type[AnyReference]) -> AnyReference:
        """Take the output of a stage from an earlier run, as if the stage were cached here.

        Args:
            run_id: MLflow run of the pipeline, or of the stage itself.
            kind: says which stage.

        Raises:
            InputError: that run has no such output.
            ArtifactMismatchError: the output is gone, or is not what was stored.
        """
        stage = stage_of(kind).name
        reference, fingerprint = artifacts.output_of(run_id, stage, kind)
        artifacts.local_path(reference)
        set_tags(self.run_id, {f"{USED_RUN}{stage}": reference.run_id})
        self._note_inputs_of(stage, reference)
        if isinstance(reference, DatasetRef):
            self.read_data(reference.source)
        trained = metrics_of(reference.run_id)[f"{stage}/trained_seconds"]
        report = StageReport(name=stage, state="cached", run_id=reference.run_id, seconds=0.0, trained_seconds=trained)
        self.finish_stage(report, reference, fingerprint)
        return reference

    def adopt(self, flow_run_id: UUID, names: Sequence[str], kind: type[AnyReference], seconds: float) -> AnyReference:
        """Take the output of a stage that a flow run on another host has made or found for this run.

        Args:
            flow_run_id: it.
            names: of the attempts at the stage, in their order; the last one is the stage's own.
            kind: says which stage.
            seconds: that this run waited.

        Raises:
            PoolError: the other host has logged to another store.
        """
        other = pipeline_of(str(flow_run_id))
        if other is None:
            raise PoolError(
                f"flow run {flow_run_id} is done, and MLflow has no run of it; set MLFLOW_TRACKING_URI to the same "
                "server on both hosts"
            )
        for name in names:
            run_id = other.tags[f"{RUN_OF_STAGE}{name}"]
            reference, fingerprint = artifacts.output_of(run_id, stage_of(kind).name, kind)
            trained = metrics_of(run_id)[f"{stage_of(kind).name}/trained_seconds"]
            is_new = tags_of(run_id).get(PARENT_TAG) == other.run_id
            state: Literal["trained", "cached"] = "trained" if is_new else "cached"
            report = StageReport(name=name, state=state, run_id=run_id, seconds=seconds, trained_seconds=trained)
            self.finish_stage(report, reference, fingerprint)
            tell(StageEnded(name, state, seconds))
        show_link(
            f"{stage_of(kind).command}-on-another-host",
            run_url(other.run_id),
            f"The MLflow run of the stage's own pipeline, computed on {other.tags.get(HOST_TAG, 'another host')}",
        )
        return reference

    def _note_inputs_of(self, stage: str, reference: Reference) -> None:
        """Take over what is on record of the stages that a used one came from; `finish_stage` writes it."""
        pipeline = tags_of(reference.run_id).get(PARENT_TAG, "")
        known = read_record(pipeline).stages if has_record(pipeline) else {}
        upstream = {name: known[name] for name in STAGES[stage].inputs if name in known}
        self.record = self.record.model_copy(update={"stages": upstream | self.record.stages})

    def report(self, card: ModelCardRef) -> PipelineReport:
        """Register the policy, as its recipe's candidate where its gates hold, and say what has come of the run."""
        refused = refusal(self.verdicts)
        is_candidate = refused is None
        version = register_policy(card, self.record.recipe, candidate=is_candidate) if self.registered else None
        said = {POLICY_TAG: card.sha256, VERSION_TAG: version, REFUSED_TAG: refused}
        set_tags(self.run_id, {name: text for name, text in said.items() if text is not None})
        if self.verdicts:
            show_figure_gates(self.verdicts)
        folder = artifacts.stored_at(card)
        policy = str(folder) if folder else card.uri
        self._show_report(version)
        local = artifacts.local_path(card)
        artifacts.save_card(self.run_id, local)
        show_card(local / "README.md")
        return PipelineReport(
            run_id=self.run_id,
            metrics=self.metrics,
            stages=self.stages,
            policy_path=policy,
            model_card=f"{policy}/README.md",
            gates=self.verdicts,
            refused=refused,
        )

    @property
    def verdicts(self) -> tuple[GateVerdict, ...]:
        """The gates' verdicts, by what the stages so far have measured."""
        return figure_verdicts(self.gates, self.metrics)

    def _show_report(self, version: str | None) -> None:
        """What the run came to, on its page and its policy's in MLflow, and as Prefect's artifact."""
        report = collect(open_store(), self.run_id)
        tags = tags_of(self.run_id)
        base = next((base.name for name, base in self.record.bases.items() if name == "model.base"), "random weights")
        figures = {name: self.metrics.get(f"evaluation/{name}") for name in _FIGURES_OF_A_VERSION}
        facts = {"recipe": tags.get(RECIPE_TAG, ""), "base": base, "data": tags.get(DATA_TAG, ""), "run": self.run_id}
        facts |= {name: f"{value:.4g}" for name, value in figures.items() if value is not None}
        if version is not None:
            describe_version(version, facts, as_markdown(report, LONGEST_DESCRIPTION)[:LONGEST_DESCRIPTION])
        first = _first_lines(tags.get(FLOW_RUN_PAGE_TAG))
        set_tags(self.run_id, {DESCRIPTION_TAG: first + as_markdown(report, _LONGEST_DESCRIPTION - len(first))})
        show_report(as_markdown(report))


def read_data(source: DataSource) -> None:
    """Note which data the run reads, where there is a run."""
    pipeline = _current.get(None)
    if pipeline is not None:
        pipeline.read_data(source)


def current() -> Pipeline:
    """The pipeline run that a stage belongs to."""
    return _current.get()


@contextmanager
def member_of(membership: Membership) -> Iterator[None]:
    """Within the block, pipeline runs belong to a group."""
    token = _membership.set(membership)
    try:
        yield
    finally:
        _membership.reset(token)


@contextmanager
def pipeline_run(config: PipelineConfig) -> Iterator[tuple[Pipeline, PipelineConfig]]:
    """Open the MLflow parent run for the flow run that is under way, and close it as the block ends.

    It ends as FINISHED, as FAILED with the error's message, which Prefect's page then has too, or as KILLED where the
    process was told to stop.

    Yields:
        The run, and the settings with the models of the hub at the commits that they have now, and with the day that
        chat templates which read the clock stand for.

    Raises:
        InputError: what a stage would refuse after hours: reward functions and models that are not there, templates
            that are broken, files of an LLM judge that cannot be read.
    """
    try:
        with _open_run(config) as opened:
            yield opened
    except Exception as error:
        show_failure(error)
        raise


@contextmanager
def _open_run(config: PipelineConfig) -> Iterator[tuple[Pipeline, PipelineConfig]]:
    logging.getLogger("rlhf").setLevel(logging.INFO)
    drop_launcher_variables()
    check_pools(config)
    check_address(config.cluster.checkpoint_uri)
    if config.cluster.backend == "ray" and config.cluster.stage_pools.policy is None:
        from rlhf.cluster.group import check_group  # imports torch, which a run that finds all its stages does without

        check_group(config.cluster, config.compute)
    check_installed(config.rewards)
    check_figures(config.gates)
    check_models(config.model, config.rewards)
    check_judge_files(config.evaluation)
    config = settled(at_commits(config))
    check_hub_models(config.model, config.rewards)
    logger.info("%s", starting_model.described(config.model))
    with hold_run_lock(str(this_flow_run.id)):
        check_reachable()
        check_location()
        if config.registered:
            check_recipe_name(config.name)
        close_killed_runs()
        # Of a retried flow run: its attempt before, if that was killed.
        close_orphans(str(this_flow_run.id))
        with explained():
            pipeline = _open(config)
        show_link("mlflow-run", run_url(pipeline.run_id), "The MLflow run of this pipeline")
        token = _current.set(pipeline)
        try:
            with closing_run(pipeline.run_id), explained():
                yield pipeline, config
                close_run(pipeline.run_id, "FINISHED")
        finally:
            _current.reset(token)
            show_stages(pipeline.stages)


def flow_run_name() -> str:
    """Name of the flow run that is under way, and of its MLflow run."""
    return named_by(run_name)


def cancel_on_signal(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook on Crashed: a run that was told to stop (Ctrl-C, SIGTERM) has not crashed, it is Cancelled."""
    if state.message in _SIGNALS:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(message=state.message), force=True)


def _open(config: PipelineConfig) -> Pipeline:
    git = provenance.git_state(source_root())
    patch = working_patch(source_root()) if git.commit and git.dirty else Patch(b"", ())
    record = begin_record(config, git, patch)
    tags = {f"rlhf.{name}": value for name, value in record.machine.items()}
    tags |= {
        LOCK_TAG: record.lock_sha256,
        DIRTY_TAG: str(git.dirty).lower(),
        COMMIT_TAG: git.commit or "",
        SOURCE_TAG: "flows.pipeline",
        HOST_TAG: platform.node(),
        RECIPE_TAG: config.name,
        **page_tags(),
    }
    membership = _membership.get()
    if membership is not None:
        tags[GROUP_TAG] = membership.group
    run_id = open_pipeline(flow_run_name(), this_flow_run.id, config.model_dump(mode="json"), tags)
    if membership is not None:
        membership.run_id = run_id
    with closing_run(run_id):
        save_code(run_id, patch.content)
        save_record(run_id, record)
    return Pipeline(run_id, record, config.registered, config.gates, config.cluster)


def page_tags() -> dict[str, str]:
    """Tags of an MLflow run: its note, and the page of its flow run. That of a temporary server is gone with it."""
    page = this_flow_run.ui_url if "PREFECT_API_URL" in os.environ else None
    tags = {NOTE_TAG: current_note(), FLOW_RUN_PAGE_TAG: page, DESCRIPTION_TAG: _first_lines(page)}
    return {name: value for name, value in tags.items() if value}


def _first_lines(page: str | None) -> str:
    """The beginning of a run's description in MLflow: its note, and its flow run."""
    lines = [escape(current_note()), f"[The flow run in Prefect]({page})" if page else ""]
    return "".join(f"{line}\n\n" for line in lines if line)
