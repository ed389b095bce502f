"""A round of feedback: asked, and collected into a version of the data."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect import task
from prefect.runtime import flow_run as this_flow_run

from rlhf.config.feedback import AskConfig, CollectConfig, ReviseConfig
from rlhf.config.judge import JudgeConfig, LabelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.files.locks import lock_of, locked
from rlhf.paths import local_folder, root
from rlhf.references import FeedbackReport
from rlhf.tracking.client import check_reachable, run_url
from rlhf.tracking.files import log_content
from rlhf.tracking.records import FEEDBACK
from rlhf.tracking.reviewers import Reviewers
from rlhf.tracking.run_locks import hold_run_lock
from rlhf.tracking.runs import close_run, closing_run, open_run, reopen_run, set_tags
from rlhf.tracking.tags import DESCRIPTION_TAG, FLOW_RUN_TAG, RECIPE_TAG
from tasks.core_slots import reserve_cores
from tasks.prefect_artifacts import show_link, show_round

logger = logging.getLogger("rlhf.feedback")


@contextmanager
def _feedback() -> Iterator[None]:
    logging.getLogger("rlhf").setLevel(logging.INFO)
    check_reachable()
    with hold_run_lock(str(this_flow_run.id)):
        yield


@task(name="ask", task_run_name="ask", log_prints=False)
def ask_round(config: PipelineConfig, ask: AskConfig) -> FeedbackReport:
    """Have policies answer, and put the comparisons into people's queues."""
    from rlhf.feedback.ask import make_comparisons
    from rlhf.feedback.guidelines import read_guidelines
    from rlhf.feedback.recipes import find_authors, gold_questions_of, prompts_of, sampling_of
    from rlhf.feedback.report import asked_markdown
    from rlhf.feedback.rounds import open_round, publish, record_comparisons

    busy = f"another process asks round {ask.round}; wait until it is over"
    with _feedback(), locked(lock_of(local_folder("judgments") / ask.round), busy, timeout=0):
        Reviewers().check(ask.annotators)
        asked = open_round(ask, config.name, read_guidelines(ask.guidelines, root()))
        with closing_run(asked.run_id):
            reopen_run(asked.run_id, {FLOW_RUN_TAG: str(this_flow_run.id)})
            show_link("mlflow-run", run_url(asked.run_id), "The round in MLflow")
            if not asked.comparisons:
                authors = find_authors(ask.policies, config.name)
                sampling = sampling_of(config, ask.max_response_tokens)
                gold, prompts = gold_questions_of(ask, root()), prompts_of(config, ask, root())
                with reserve_cores({"compute": config.compute}):
                    asked = record_comparisons(asked, make_comparisons(sampling, ask, authors, prompts, gold))
            queues = publish(asked)
            text = asked_markdown(asked, queues)
            set_tags(asked.run_id, {DESCRIPTION_TAG: text})
            show_round(text)
            close_run(asked.run_id, "FINISHED")
    return FeedbackReport(round=asked.name, run_id=asked.run_id, asked=len(asked.comparisons), queues=queues, text=text)


@task(name="revise", task_run_name="revise", log_prints=False)
def revise_answers(config: PipelineConfig, settings: ReviseConfig, critic: JudgeConfig | None) -> FeedbackReport:
    """Have answers criticized and revised, and make demonstrations of that."""
    from rlhf.data.versions.append import replace_round
    from rlhf.feedback.recipes import find_authors, sampling_of
    from rlhf.feedback.report import revised_markdown
    from rlhf.feedback.revise import as_lines, revise
    from rlhf.judges.endpoint import Endpoint
    from rlhf.modeling.device import derive_seed

    with _feedback():
        (author,) = find_authors([settings.policy] if settings.policy else [], config.name)
        sampling, seed = sampling_of(config, settings.max_response_tokens), derive_seed(settings.seed, settings.round)
        run_id = open_run(f"revise {settings.round}", FEEDBACK, {RECIPE_TAG: config.name})
        with closing_run(run_id):
            set_tags(run_id, {FLOW_RUN_TAG: str(this_flow_run.id)})
            show_link("mlflow-run", run_url(run_id), "The revisions in MLflow")
            with reserve_cores({"compute": config.compute}):
                revisions = revise(sampling, settings, seed, Endpoint(critic) if critic else None, author, root())
            log_content(run_id, as_lines(revisions).encode(), "feedback/revisions.jsonl")
            rows = [row for one in revisions if (row := one.as_row(settings.round)) is not None]
            by = critic.model if critic else None
            text = revised_markdown(settings.round, settings.num_revisions, by, revisions, len(rows))
            version = replace_round(root(), settings.round, rows, text, "demonstrations")
            set_tags(run_id, {DESCRIPTION_TAG: text})
            show_round(text)
            close_run(run_id, "FINISHED")
    return FeedbackReport(
        round=settings.round,
        run_id=run_id,
        asked=len(revisions),
        answered=len(rows),
        data_md5=version.md5 if version else None,
        text=text,
    )


@task(name="label", task_run_name="label", log_prints=False)
def label_round(config: LabelConfig, judge: JudgeConfig) -> FeedbackReport:
    """Have a judge label the comparisons, once it is known how far it agrees with people."""
    from rlhf.feedback.label import label
    from rlhf.feedback.report import labelled_markdown
    from rlhf.feedback.rounds import find_round
    from rlhf.judges.endpoint import Endpoint

    with _feedback():
        asked = find_round(config.round)
        show_link("mlflow-run", run_url(asked.run_id), "The round in MLflow")
        labelled = label(config, Endpoint(judge), asked, root())
        text = labelled_markdown(labelled)
        show_round(text)
    return FeedbackReport(
        round=asked.name,
        run_id=asked.run_id,
        asked=len(asked.comparisons),
        answered=labelled.labelled,
        figures=labelled.as_dict(),
        text=text,
    )


@task(name="collect", task_run_name="collect", log_prints=False)
def collect_round(config: CollectConfig) -> FeedbackReport:
    """Make a version of the data of what was answered."""
    from rlhf.data.versions.append import replace_round
    from rlhf.feedback.collect import as_dict, collect
    from rlhf.feedback.label import recorded_labels
    from rlhf.feedback.report import collected_markdown, datasheet_note
    from rlhf.feedback.rounds import find_round

    with _feedback():
        asked = find_round(config.round)
        show_link("mlflow-run", run_url(asked.run_id), "The round in MLflow")
        believed = [labelled.judge for labelled in recorded_labels(asked) if labelled.believed]
        collected = collect(config, asked, believed)
        text = collected_markdown(collected)
        version = replace_round(root(), asked.name, collected.rows, datasheet_note(collected, asked))
        text += "\n\n" + (
            f"data/ is version {version.md5} now." if version else "data/ has all of this already, and stays as it is."
        )
        figures = json.dumps(as_dict(collected), indent=2)
        log_content(asked.run_id, figures.encode(), "feedback/collected.json")
        set_tags(asked.run_id, {DESCRIPTION_TAG: text})
        show_round(text)
    return FeedbackReport(
        round=asked.name,
        run_id=asked.run_id,
        asked=len(asked.comparisons),
        answered=len(collected.verdicts),
        preferences=len(collected.rows),
        data_md5=version.md5 if version else None,
        figures=json.loads(figures),
        text=text,
    )
