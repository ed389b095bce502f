"""The record of a round: an MLflow run with what was asked, so that any host can collect what was answered."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf.config.feedback import AskConfig
from rlhf.errors import ConfigError
from rlhf.feedback.comparisons import ANYBODY, Comparison
from rlhf.feedback.guidelines import Guidelines, parse_guidelines
from rlhf.text.lines import parse_json_lines
from rlhf.text.safe_markdown import safe_markdown
from rlhf.tracking.files import log_content, read_bytes
from rlhf.tracking.queries import find
from rlhf.tracking.records import FEEDBACK
from rlhf.tracking.reviewers import Reviewers
from rlhf.tracking.reviews import Question, QueueDeletedError, ReviewItem, ReviewRound
from rlhf.tracking.runs import open_run
from rlhf.tracking.tags import KIND_TAG, RECIPE_TAG, ROUND_KEY_TAG, ROUND_TAG

_COMPARISONS = "feedback/comparisons.jsonl"
_GUIDELINES = "feedback/guidelines.yaml"
_SETTINGS = "feedback/settings.json"


@dataclass(frozen=True)
class Round:
    """A round that was asked, or is being asked.

    Attributes:
        name: its name.
        run_id: the MLflow run that holds its record.
        recipe: name of the recipe whose policies answered.
        guidelines: the questions.
        comparisons: what was asked; empty until the answers are made.
    """

    name: str
    run_id: str
    recipe: str
    guidelines: Guidelines
    comparisons: Sequence[Comparison]


def open_round(config: AskConfig, recipe: str, guidelines: Guidelines) -> Round:
    """Begin a round, or go on with it where it was begun with the same settings.

    Raises:
        ConfigError: a round of this name was asked with other settings.
    """
    settings = config.model_dump(mode="json") | {"recipe": recipe}
    given = json.dumps(settings, sort_keys=True) + guidelines.as_yaml()
    key = hashlib.sha256(given.encode()).hexdigest()
    begun = _run_of(config.round)
    if begun is None:
        tags = {ROUND_TAG: config.round, ROUND_KEY_TAG: key, RECIPE_TAG: recipe}
        begun = open_run(f"feedback {config.round}", FEEDBACK, tags), tags
    run_id, tags = begun
    if tags.get(ROUND_KEY_TAG) != key:
        raise ConfigError(
            f"round {config.round} was asked with other settings (MLflow run {run_id}, {_SETTINGS}); give this one a "
            f"name of its own, or the same settings to go on with that one"
        )
    # Also where the round goes on: it may have been cut off before this.
    log_content(run_id, json.dumps(settings, indent=2).encode(), _SETTINGS)
    log_content(run_id, guidelines.as_yaml().encode(), _GUIDELINES)
    return Round(config.round, run_id, recipe, guidelines, _comparisons(run_id))


def find_round(name: str) -> Round:
    """A round that was asked.

    Raises:
        ConfigError: there is none of this name, or its comparisons were not made yet.
    """
    begun = _run_of(name)
    if begun is None:
        runs = find(f"tags.`{KIND_TAG}` = '{FEEDBACK}'")
        names = sorted({run.data.tags[ROUND_TAG] for run in runs if ROUND_TAG in run.data.tags})
        known = f"there are: {', '.join(names)}" if names else "none was asked yet"
        raise ConfigError(f"there is no round {name} ({known}); ask one with `rlhf feedback ask CONFIG --round {name}`")
    run_id, tags = begun
    comparisons, guidelines = _comparisons(run_id), read_bytes(run_id, _GUIDELINES)
    if not comparisons or guidelines is None:
        raise ConfigError(
            f"round {name}: its comparisons are not made yet, or their making was cut off; ask it again with the same "
            f"settings"
        )
    parsed = parse_guidelines(guidelines.decode(), f"{_GUIDELINES} of MLflow run {run_id}")
    return Round(name, run_id, tags.get(RECIPE_TAG, ""), parsed, comparisons)


def record_comparisons(asked: Round, comparisons: Sequence[Comparison]) -> Round:
    """Write down what is asked. From then on the round is asked with these, whatever happens."""
    lines = "".join(json.dumps(comparison.as_row(), ensure_ascii=False) + "\n" for comparison in comparisons)
    log_content(asked.run_id, lines.encode(), _COMPARISONS)
    return Round(asked.name, asked.run_id, asked.recipe, asked.guidelines, comparisons)


def publish(asked: Round, *, are_logins: bool = True) -> dict[str, str]:
    """Put a round's comparisons into MLflow's review page. What is there already stays.

    Args:
        asked: the round.
        are_logins: its annotators sign in, and are let in to review it. Simulated raters do not.

    Returns:
        The address of each person's queue, by login; of the round's own queue under `ANYBODY`.
    """
    reviews = ReviewRound(asked.name)
    reviews.describe(_description(asked))
    if are_logins:
        Reviewers().let_review(sorted(num_asked(asked).keys() - {ANYBODY}), reviews.experiment_id)
    question_ids = reviews.ask(questions(asked.guidelines))
    places = [(comparison, person) for comparison in asked.comparisons for person in comparison.annotators]
    trace_ids = reviews.show([_item(comparison, person) for comparison, person in places])
    queues: dict[str, list[str]] = {}
    for (_, person), trace_id in zip(places, trace_ids, strict=True):
        queues.setdefault(person, []).append(trace_id)
    return {
        person: reviews.url(reviews.fill_queue(person, question_ids, ids)) for person, ids in sorted(queues.items())
    }


def num_asked(asked: Round) -> dict[str, int]:
    """How many comparisons each person is asked of, by login."""
    return dict(Counter(person for comparison in asked.comparisons for person in comparison.annotators))


def num_complete(asked: Round) -> dict[str, int | None]:
    """How many of them each has completed; None where the queue was deleted."""
    reviews = ReviewRound(asked.name)
    complete: dict[str, int | None] = {}
    for person in num_asked(asked):
        try:
            complete[person] = len(reviews.completed(person))
        except QueueDeletedError:
            complete[person] = None
    return complete


def questions(guidelines: Guidelines) -> list[Question]:
    """The questions that are asked of every comparison."""
    better = Question(
        guidelines.question, tuple(level.says for level in guidelines.levels), guidelines.instruction, comment=True
    )
    flags = [
        Question(guidelines.flags_question(response), guidelines.flags, several=True)
        for response in ("A", "B")
        if guidelines.flags
    ]
    return [better, *flags]


def item_key(comparison: Comparison, person: str) -> str:
    """What tells a comparison that a person is asked for from all others of the round.

    Each person has a trace of her own, and judges have one, so that nobody is shown what others have answered.
    """
    return f"{comparison.number}/{person}"


def judge_key(comparison: Comparison) -> str:
    """What tells the trace that has the labels of judges from those of people."""
    return f"{comparison.number}//judges"


def show_to_judges(asked: Round, comparisons: Sequence[Comparison]) -> None:
    """Make the traces that judges' labels stand at. They are in no queue."""
    items = [replace(_item(comparison, ANYBODY), key=judge_key(comparison)) for comparison in comparisons]
    ReviewRound(asked.name).show(items)


def _item(comparison: Comparison, person: str) -> ReviewItem:
    *before, last = comparison.prompt
    turns = "".join(f"**{message['role']}**\n\n{_quoted(message['content'])}\n\n" for message in before)
    parts = [
        *([f"### Before\n\n{turns}"] if turns else []),
        *(
            f"### Response {name}\n\n{_quoted(text)}\n"
            for name, text in zip(("A", "B"), comparison.responses, strict=True)
        ),
    ]
    return ReviewItem(item_key(comparison, person), safe_markdown(last["content"]), "\n".join(parts))


def _quoted(text: str) -> str:
    """Text as a quotation, so that no heading in it is taken for one of ours. Nothing in it loads or runs."""
    return "\n".join(f"> {line}".rstrip() for line in safe_markdown(text).split("\n"))


def _description(asked: Round) -> str:
    people = sorted({person for comparison in asked.comparisons for person in comparison.annotators} - {ANYBODY})
    asked_of = f"asked of {', '.join(people)}" if people else "open to everybody"
    text = f"Round {asked.name} of feedback on {asked.recipe}: {len(asked.comparisons)} comparisons, {asked_of}."
    return "\n\n".join(part for part in (text, asked.guidelines.instruction, asked.guidelines.details) if part)


def _comparisons(run_id: str) -> list[Comparison]:
    content = read_bytes(run_id, _COMPARISONS)
    return [] if content is None else [Comparison.from_row(row) for row in parse_json_lines(content.decode())]


def _run_of(name: str) -> tuple[str, dict[str, str]] | None:
    runs = find(f"tags.`{KIND_TAG}` = '{FEEDBACK}' and tags.`{ROUND_TAG}` = '{name}'")
    return (str(runs[-1].info.run_id), dict(runs[-1].data.tags)) if runs else None
