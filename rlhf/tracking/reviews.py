"""MLflow's review page: what people compare as traces, the questions about it, their queues, and what they answered.

A round has an experiment of its own, so that those who answer see its questions and may change nothing else. Traces
have ids that follow from the round and the item: what is sent twice is there once. MLflow marks all of this as
experimental since 3.14, and `tests/private_interfaces` touches what is used of it.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mlflow.entities import AssessmentSource, AssessmentSourceType, Feedback, Span, TraceInfo
from mlflow.entities.assessment import Assessment
from mlflow.exceptions import MlflowException
from mlflow.genai.label_schemas import InputCategorical
from mlflow.genai.review_queues import ReviewQueueType, ReviewStatus
from mlflow.tracing.client import TracingClient
from mlflow.tracing.constant import SpanAttributeKey
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from rlhf.addresses import public_address
from rlhf.errors import InputError
from rlhf.paths import artifacts_folder
from rlhf.tracking.client import client, retry_while_unavailable, tracking_uri
from rlhf.tracking.records import is_server
from rlhf.tracking.tags import DESCRIPTION_TAG

Element = TypeVar("Element")
_GONE = "RESOURCE_DOES_NOT_EXIST"
_SPANS_AT_ONCE = 200
_ITEMS_AT_ONCE = 100
_TRACES_AT_ONCE = 200
_EXPERIMENT = "rlhf-feedback/"
_NOBODY = "default"
"""MLflow's name for somebody who has not signed in."""


class QueueDeletedError(InputError):
    """A queue that a round had is gone."""


@dataclass(frozen=True)
class Question:
    """A question about an item.

    Attributes:
        name: shown, and the name of the answers.
        options: the answers there are.
        instruction: beside it.
        several: several options may be chosen.
        comment: a reason may be given.
    """

    name: str
    options: tuple[str, ...]
    instruction: str = ""
    several: bool = False
    comment: bool = False


@dataclass(frozen=True)
class ReviewItem:
    """Something that a person is asked about.

    Attributes:
        key: tells it from the others of the round.
        asked: the user's words that it is about.
        shown: Markdown of what is to be judged.
    """

    key: str
    asked: str
    shown: str


@dataclass(frozen=True)
class Answer:
    """An answer to a question about an item.

    Attributes:
        question: its name.
        value: the option, or a list of them.
        by: login of the person, or name of the judge; empty where MLflow lets everybody in without a name.
        is_human: a person, and no model, gave it.
        rationale: why.
        time: when, in ms since 1970.
    """

    question: str
    value: Any
    by: str
    is_human: bool
    rationale: str
    time: int


class ReviewRound:
    """The review page of one round.

    Args:
        name: of the round.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._traces = TracingClient(tracking_uri())
        self.experiment_id = _experiment(name)

    def describe(self, text: str) -> None:
        """Set the description of the round's experiment, in Markdown."""
        retry_while_unavailable(lambda: client().set_experiment_tag(self.experiment_id, DESCRIPTION_TAG, text))

    def ask(self, questions: Sequence[Question]) -> list[str]:
        """Make the questions, or make those that are there as they are given. Returns their ids."""
        known = {
            schema.name: schema
            for schema in retry_while_unavailable(lambda: self._traces._list_label_schemas(self.experiment_id))
        }

        def make(question: Question) -> str:
            given: dict[str, Any] = {
                "input": InputCategorical(options=list(question.options), multi_select=question.several),
                "instruction": question.instruction,
                "enable_comment": question.comment,
            }
            if question.name in known:
                schema_id = str(known[question.name].schema_id)
                self._traces._update_label_schema(schema_id, **given)
                return schema_id
            made = self._traces._create_label_schema(self.experiment_id, name=question.name, type="feedback", **given)
            return str(made.schema_id)

        # The page shows the newest first.
        return [retry_while_unavailable(lambda of=question: make(of)) for question in reversed(questions)]  # type: ignore[misc]

    def show(self, items: Sequence[ReviewItem]) -> list[str]:
        """Send items as traces. Returns their ids, in the same order."""
        spans = [self._span(item) for item in items]
        for batch in _batches(spans, _SPANS_AT_ONCE):
            retry_while_unavailable(lambda some=batch: self._traces.store.log_spans(self.experiment_id, some))  # type: ignore[misc]
        return [str(span.trace_id) for span in spans]

    def trace_id(self, key: str) -> str:
        """The id of an item's trace."""
        return f"tr-{self._digest(key)[:32]}"

    def fill_queue(self, person: str, question_ids: Sequence[str], trace_ids: Sequence[str]) -> str:
        """Put items into a person's queue, or into the round's where no person is named. Returns the queue's id.

        Both are of MLflow's kind `custom`: one of kind `user` asks all questions of the experiment, MLflow's own too.
        """

        def make() -> str:
            found = self._find_queue(person)
            if found:
                return found
            made = self._traces._create_review_queue(
                self.experiment_id,
                name=self._queue_name(person),
                queue_type=ReviewQueueType.CUSTOM,
                users=[person] if person else None,
                schema_ids=list(question_ids),
            )
            return str(made.queue_id)

        queue_id = retry_while_unavailable(make)
        for batch in _batches(trace_ids, _ITEMS_AT_ONCE):
            retry_while_unavailable(
                lambda some=batch: self._traces._add_items_to_review_queue(queue_id, item_ids=list(some))  # type: ignore[misc]
            )
        return queue_id

    def completed(self, person: str) -> set[str]:
        """The ids of the items of a queue that are complete.

        Raises:
            QueueDeletedError: there is no such queue.
        """
        queue_id = retry_while_unavailable(lambda: self._find_queue(person))
        if queue_id is None:
            owner = f"the queue of {person}" if person else "the review queue"
            raise QueueDeletedError(
                f"round {self.name}: {owner} was deleted in MLflow, so it is not known which of its comparisons are "
                f"complete; ask again with the same settings, which makes it anew and keeps the answers, or count "
                f"every answer (--answered)"
            )
        complete: set[str] = set()
        page: str | None = None
        while True:
            items = retry_while_unavailable(
                lambda token=page: self._traces._list_review_queue_items(  # type: ignore[misc]
                    queue_id, status=ReviewStatus.COMPLETE, max_results=_ITEMS_AT_ONCE, page_token=token
                )
            )
            complete |= {str(item.item_id) for item in items}
            page = items.token
            if not page:
                return complete

    def answers(self, trace_ids: Sequence[str]) -> dict[str, list[Answer]]:
        """What was answered about each item, by the id of its trace; nothing of a trace that is gone."""
        found: dict[str, list[Answer]] = {}
        for batch in _batches(trace_ids, _TRACES_AT_ONCE):
            infos: list[TraceInfo] = retry_while_unavailable(
                lambda some=batch: self._traces.store.batch_get_trace_infos(list(some))  # type: ignore[misc]
            )
            found |= {str(info.trace_id): _answers(info) for info in infos}
        return found

    def answer(self, trace_id: str, question: str, value: Any, by: str, *, is_human: bool, rationale: str = "") -> None:
        """Answer a question, as a person's browser does, or as a judge."""
        kind = AssessmentSourceType.HUMAN if is_human else AssessmentSourceType.LLM_JUDGE
        given = Feedback(
            name=question,
            value=value,
            source=AssessmentSource(kind, by),
            rationale=rationale or None,
            trace_id=trace_id,
        )
        retry_while_unavailable(lambda: self._traces.store.create_assessment(given))

    def complete(self, person: str, trace_id: str, by: str) -> None:
        """Mark an item of a person's queue, or of the round's, as completed by somebody."""
        queue_id = retry_while_unavailable(lambda: self._find_queue(person))
        assert queue_id is not None, "the queue was filled"
        retry_while_unavailable(
            lambda: self._traces._set_review_queue_item_status(
                queue_id, item_id=trace_id, status=ReviewStatus.COMPLETE, completed_by=by
            )
        )

    def url(self, queue_id: str) -> str:
        """The page of a queue in MLflow's user interface."""
        base = public_address(tracking_uri()).rstrip("/") if is_server(tracking_uri()) else "http://127.0.0.1:5000"
        return f"{base}/#/experiments/{self.experiment_id}/review-queue?workflowType=genai&selectedQueueId={queue_id}"

    def _queue_name(self, person: str) -> str:
        return f"{self.name} for {person}" if person else self.name

    def _find_queue(self, person: str) -> str | None:
        try:
            name = self._queue_name(person)
            return str(self._traces._get_review_queue_by_name(self.experiment_id, name).queue_id)
        except MlflowException as error:
            if error.error_code == _GONE:
                return None
            raise

    def _digest(self, key: str) -> str:
        return hashlib.sha256(f"{self.name}/{key}".encode()).hexdigest()

    def _span(self, item: ReviewItem) -> Span:
        digest, now = self._digest(item.key), time.time_ns()
        inputs = {"messages": [{"role": "user", "content": item.asked}]}
        outputs = {"choices": [{"message": {"role": "assistant", "content": item.shown}}]}
        attributes = {
            SpanAttributeKey.REQUEST_ID: self.trace_id(item.key),
            SpanAttributeKey.EXPERIMENT_ID: self.experiment_id,
            SpanAttributeKey.SPAN_TYPE: "CHAT_MODEL",
            SpanAttributeKey.INPUTS: inputs,
            SpanAttributeKey.OUTPUTS: outputs,
        }
        context = SpanContext(int(digest[:32], 16), int(digest[32:48], 16), False, TraceFlags(TraceFlags.SAMPLED))
        return Span(
            ReadableSpan(
                name="comparison",
                context=context,
                attributes={name: json.dumps(value, ensure_ascii=False) for name, value in attributes.items()},
                start_time=now,
                end_time=now,
                status=Status(StatusCode.OK),
            )
        )


def _experiment(name: str) -> str:
    """The experiment of a round, which is made where it is not there."""
    location = None if is_server(tracking_uri()) else artifacts_folder().as_uri()

    def make() -> str:
        experiment = client().get_experiment_by_name(f"{_EXPERIMENT}{name}")
        if experiment is None:
            return str(client().create_experiment(f"{_EXPERIMENT}{name}", artifact_location=location))
        if experiment.lifecycle_stage != "active":
            raise InputError(
                f"round {name}: its experiment {_EXPERIMENT}{name} was deleted in MLflow; restore it there, or give "
                f"the round another name"
            )
        return str(experiment.experiment_id)

    return retry_while_unavailable(make)


def _answers(info: TraceInfo) -> list[Answer]:
    """What is still said of a trace: an answer that was changed stays, marked as not valid."""
    return [_answer(one) for one in info.assessments if one.feedback is not None and one.valid is not False]


def _answer(assessment: Assessment) -> Answer:
    source = assessment.source
    return Answer(
        question=assessment.name,
        value=assessment.feedback.value if assessment.feedback else None,
        by="" if source.source_id in (None, "", _NOBODY) else str(source.source_id),
        is_human=source.source_type == AssessmentSourceType.HUMAN,
        rationale=assessment.rationale or "",
        time=assessment.last_update_time_ms or assessment.create_time_ms or 0,
    )


def _batches(elements: Sequence[Element], size: int) -> Iterator[Sequence[Element]]:
    return (elements[start : start + size] for start in range(0, len(elements), size))
