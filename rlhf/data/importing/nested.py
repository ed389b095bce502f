"""Forms that hold several answers in one row, or one comparison in several rows: rankings, ratings, trees."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any

from rlhf.data.importing.columns import GivenColumns, Survey
from rlhf.data.importing.dialogues import (
    NO_VERDICT,
    NOT_MESSAGES,
    NOT_TEXT,
    UNREADABLE,
    Messages,
    RowDroppedError,
    answer_of,
    are_texts,
    as_number,
    message,
    number_of,
    text,
    turns,
)
from rlhf.data.importing.form import ATTRIBUTES, UNPAIRED, Form, Numbered, comparison, demonstration
from rlhf.data.importing.prompts import find_prompt, instruction
from rlhf.data.importing.verdicts import words_of
from rlhf.data.schema import Row, type_of

_LISTS = ("responses", "answers", "completions", "candidates", "outputs", "output")
_TEXTS = ("answer", "text", "response", "content", "completion", "output", "generation")
# The first field that all answers have decides; -1 where the greatest value is the best.
_ORDERS = {"rank": 1, "fine-grained_score": -1, "overall_score": -1, "score": -1, "rating": -1, "pm_score": -1}
_PREDICTION = re.compile(r"prediction \d+")

Ranked = tuple[Sequence[Any], Sequence[float]]


def find_rankings(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with a list of answers: with ranks beside them, each with a rank or a score, or the best one first."""
    name = next((n for n in _LISTS if n in survey and list in survey[n].types), None)
    prompt = find_prompt(survey, source, format_name, taken=[name] if name else [])
    if name is None or prompt is None:
        return None
    read: Callable[[Row, list[Any]], Ranked]
    if "ranks" in survey:
        read, note = _ranks_beside, ""
    elif survey[name].num_objects >= 0.95 * survey[name].num_rows:
        read, note = _ranks_inside, f'the answers in "{name}" are ranked by the rank or score that stands with each'
    elif name == "output":
        read, note = (lambda row, answers: (answers, range(len(answers)))), '"output" lists the best answer first'
    else:
        return None

    def convert(row: Row) -> list[Row]:
        if not isinstance(row.get(name), list):
            raise RowDroppedError(NOT_MESSAGES, f'"{name}" is {type_of(row.get(name))}')
        answers, ranks = read(row, row[name])
        if len(answers) < 2:
            raise RowDroppedError(UNPAIRED, is_fault=False)
        return [comparison(row, prompt.of(row), [answer_of(answer, name) for answer in answers], ranks)]

    return Form(
        {"answers": "nectar", "completions": "ultrafeedback"}.get(name, "rankings") if note else "rankings",
        "preferences",
        {name, *prompt.read, *([] if note else ["ranks"])} | ATTRIBUTES,
        convert,
        {"models", "turns", "num_responses", "correct_answers", "incorrect_answers", "good_natured"},
        note=note,
    )


def _ranks_beside(row: Row, answers: list[Any]) -> Ranked:
    ranks = row.get("ranks")
    if not isinstance(ranks, list) or len(ranks) != len(answers):
        held = f"{len(ranks)} for {len(answers)} answers" if isinstance(ranks, list) else type_of(ranks)
        raise RowDroppedError('the field "ranks" is not one number for each answer', held)
    return answers, [number_of(rank, "ranks") for rank in ranks]


def _ranks_inside(row: Row, answers: list[Any]) -> Ranked:
    objects = [answer for answer in answers if isinstance(answer, dict)]
    name = next((n for n in _ORDERS if all(as_number(answer.get(n)) is not None for answer in objects)), None)
    key = next((n for n in _TEXTS if all(n in answer for answer in objects)), None)
    if name is None or key is None or len(objects) < len(answers):
        raise RowDroppedError(NO_VERDICT, "the answers have no rank, score or text that all of them have")
    return [answer[key] for answer in objects], [_ORDERS[name] * number_of(a[name], name) for a in objects]


def find_rated(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """HelpSteer: a rated answer a row; rows that follow each other with one prompt are compared by helpfulness."""
    prompt = find_prompt(survey, source, format_name, taken=("response",))
    if prompt is None or not {"prompt", "response", "helpfulness"} <= survey.keys():
        return None

    def convert(row: Row) -> list[Row]:
        rated = row["rows"]
        if len(rated) < 2:
            raise RowDroppedError(UNPAIRED, is_fault=False)
        answers = [answer_of(text(answer, "response"), "response") for answer in rated]
        ratings = [-number_of(answer.get("helpfulness"), "helpfulness") for answer in rated]
        return [comparison(rated[0], prompt.of(rated[0]), answers, ratings)]

    return Form(
        "helpsteer",
        "preferences",
        {"prompt", "response", "helpfulness", *prompt.read},
        convert,
        {"correctness", "coherence", "complexity", "verbosity"},
        note='answers to one prompt that follow each other are ranked by "helpfulness", the greatest first',
        group=lambda rows: _grouped(rows, lambda row: json.dumps(row.get("prompt"))),
    )


def _grouped(rows: Iterable[Numbered], key: Callable[[Row], object]) -> Iterator[Numbered]:
    """Rows that follow each other and belong together, as one row under the first one's number."""
    for _, group in groupby(rows, key=lambda numbered: key(numbered[1])):
        together = list(group)
        yield together[0][0], {"rows": [row for _, row in together]}


def find_compared(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """FineGrained RLHF: several predictions, and a verdict (0 a tie, 1, 2) on every two of them, in order."""
    # Their numbers say which two answers a verdict is on, not the order of a file's columns.
    names = sorted((name for name in survey if _PREDICTION.fullmatch(name)), key=lambda name: int(words_of(name)[-1]))
    if len(names) < 2 or not {"question", "preference"} <= survey.keys() or list not in survey["preference"].types:
        return None
    pairs = list(combinations(range(len(names)), 2))

    def convert(row: Row) -> list[Row]:
        verdicts = row.get("preference")
        if not isinstance(verdicts, list) or len(verdicts) != len(pairs) or any(v not in (0, 1, 2) for v in verdicts):
            raise RowDroppedError(UNREADABLE, f'"preference" is not a list of {len(pairs)} numbers from 0 to 2')
        answers = [answer_of(text(row, name), name) for name in names]
        prompt = [message("user", _with_passages(row))]
        said = dict(zip(pairs, verdicts, strict=True))
        losers = [pair[verdict == 1] for pair, verdict in said.items() if verdict]
        worse = [losers.count(number) for number in range(len(names))]
        if all(v == (0 if worse[i] == worse[j] else 1 if worse[i] < worse[j] else 2) for (i, j), v in said.items()):
            return [comparison(row, prompt, answers, worse)]
        # Verdicts that contradict each other make no ranking, but each verdict is still a comparison by a person.
        ranks = {0: (1, 1), 1: (1, 2), 2: (2, 1)}
        return [
            comparison(row, prompt, (answers[i], answers[j]), ranks[verdict])
            for (i, j), verdict in said.items()
            if verdict == 0 or answers[i] != answers[j]
        ]

    read = {*names, "question", "preference", "passages"}
    return Form("finegrained", "preferences", read, convert, {"feedback", "gold"})


def _with_passages(row: Row) -> str:
    passages = row.get("passages") or []
    if not isinstance(passages, list) or not all(map(are_texts, passages)):
        raise RowDroppedError(NOT_TEXT, '"passages" is not a list of lists of texts')
    return "\n\n".join([text(row, "question"), *("\n".join(passage[1:] or passage) for passage in passages)])


def find_self_instruct(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """An instruction with instances of it."""
    if not {"instruction", "instances"} <= survey.keys():
        return None

    def convert(row: Row) -> list[Row]:
        instances = row.get("instances")
        if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
            raise RowDroppedError(NOT_MESSAGES, f'"instances" is {type_of(instances)}')
        made = []
        for instance in instances:
            said = instance.get("input")
            prompt = instruction(text(row, "instruction"), said if isinstance(said, str) else "")
            made.append(demonstration(prompt, answer_of(text(instance, "output"), "output")))
        return made

    return Form("self_instruct", "demonstrations", {"instruction", "instances"}, convert, {"is_classification"})


def find_trees(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """OASST: trees of messages, whole or a message a row, whose replies were ranked (0 the best)."""
    if survey.keys() >= {"prompt", "message_tree_id"} and dict in survey["prompt"].types:
        read = {"prompt", "message_tree_id"}
        return Form("oasst", "preferences", read, lambda row: _tree(row.get("prompt")), {"tree_state"})
    if not {"message_id", "parent_id", "text", "role", "rank"} <= survey.keys():
        return None
    return Form(
        "oasst",
        "preferences",
        {"message_id", "parent_id", "message_tree_id", "text", "role", "rank", "deleted", "review_result"},
        lambda row: _tree(_planted(row["rows"])),
        {"labels", "review_count", "emojis", "detoxify", "synthetic", "tree_state", "model_name"},
        group=lambda rows: _grouped(rows, lambda row: row.get("message_tree_id")),
    )


def _planted(rows: Sequence[Row]) -> Mapping[str, Any]:
    """The root of a tree whose messages stand in rows of their own."""
    nodes = {str(row.get("message_id")): {**row, "replies": []} for row in rows}
    if len(nodes) < len(rows):
        raise RowDroppedError("two messages of a tree have the same id, or none")
    roots: list[dict[str, Any]] = []
    for node in nodes.values():
        parent = nodes.get(str(node["parent_id"])) if node.get("parent_id", "") != "" else None
        siblings: list[dict[str, Any]] = parent["replies"] if parent else roots
        siblings.append(node)
    if len(roots) != 1:
        raise RowDroppedError("a tree of messages has not one root", f"{len(roots)}")
    if roots[0].get("parent_id", "") != "":
        raise RowDroppedError("the message that a message answers is missing")
    return roots[0]


def _tree(root: object) -> list[Row]:
    made: list[Row] = []
    if not isinstance(root, dict):
        raise RowDroppedError(NOT_MESSAGES, f"the tree's root is {type_of(root)}")
    waiting: list[tuple[Mapping[str, Any], Messages]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        path = [*before, *turns([{"role": node.get("role"), "content": node.get("text")}], "text")]
        replies = [reply for reply in node.get("replies") or [] if isinstance(reply, dict) and _is_kept(reply)]
        ranks = [(r, as_number(r.get("rank"))) for r in replies if r.get("role") == "assistant"]
        ranked = [(reply, rank) for reply, rank in ranks if rank is not None]
        if path[-1]["role"] == "user" and len(ranked) > 1:
            answers = [[message("assistant", text(reply, "text"))] for reply, _ in ranked]
            made.append(comparison({}, path, answers, [rank for _, rank in ranked]))
        waiting += [(reply, path) for reply in reversed(replies)]
    if not made:
        raise RowDroppedError("no message of the tree has two ranked replies", is_fault=False)
    return made


def _is_kept(reply: Mapping[str, Any]) -> bool:
    """Whether a reply was neither deleted nor refused by the reviewers."""
    # In a table the flags are texts.
    return str(reply.get("deleted")).casefold() != "true" and str(reply.get("review_result")).casefold() != "false"
