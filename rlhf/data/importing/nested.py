"""Forms that hold several answers in one row, or one comparison in several rows: rankings, trees, exports of tools."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, groupby
from typing import Any

from rlhf.data.importing import dialogues
from rlhf.data.importing.answers import attributes_in
from rlhf.data.importing.columns import GivenColumns, Survey
from rlhf.data.importing.dialogues import Messages, RowDroppedError, answer_of, message, text
from rlhf.data.importing.form import UNPAIRED, Converted, Form, Numbered, comparison, demonstration
from rlhf.data.importing.prompts import find_prompt
from rlhf.data.importing.verdicts import NO_VERDICT, UNREADABLE, words_of
from rlhf.data.schema import Row, type_of

_LISTS = ("responses", "answers", "completions", "candidates", "outputs", "output")
_TEXTS = ("answer", "text", "response", "content", "completion", "output", "generation")
# The first that all answers have decides; the second says whether the smallest is the best.
_ORDERS = (
    ("rank", True),
    ("fine-grained_score", False),
    ("overall_score", False),
    ("score", False),
    ("rating", False),
    ("pm_score", False),
)
_RATINGS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_PREDICTION = re.compile(r"prediction \d+")


def find_rankings(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Rows with a list of answers: with ranks beside them, each with a rank or a score, or the best one first."""
    name = next((n for n in _LISTS if n in survey and list in survey[n].types), None)
    prompt = find_prompt(survey, source, format_name, taken=[name] if name else [])
    if name is None or prompt is None:
        return None
    read = {name, *prompt.read} | attributes_in(survey)
    if "ranks" in survey:
        ranked, note, read = _beside("ranks"), "", read | {"ranks"}
    elif _holds_objects(survey, name):
        ranked, note = _inside, f'the answers in "{name}" are ranked by the rank or score that stands with each'
    elif name == "output":
        ranked, note = _best_first, '"output" lists the best answer first'
    else:
        return None

    def convert(row: Row) -> Converted:
        if not isinstance(row.get(name), list):
            raise RowDroppedError(dialogues.NOT_MESSAGES, f'"{name}" is {type_of(row.get(name))}')
        answers, ranks = ranked(row, row[name])
        if len(answers) < 2:
            raise RowDroppedError(UNPAIRED, is_fault=False)
        return [comparison(row, prompt.of(row), [answer_of(a, name) for a in answers], ranks)]

    known = {"models", "turns", "num_responses", "correct_answers", "incorrect_answers", "good_natured"} & set(survey)
    format_found = {"answers": "nectar", "completions": "ultrafeedback"}.get(name, "rankings") if note else "rankings"
    notes = (note,) if note else ()
    return Form(format_found, "preferences", frozenset(read), convert, frozenset(known), notes=notes)


def _holds_objects(survey: Survey, name: str) -> bool:
    return name in survey and survey[name].num_objects >= 0.95 * survey[name].num_rows


Ranked = tuple[Sequence[Any], Sequence[float]]


def _beside(column: str) -> Callable[[Row, list[Any]], Ranked]:
    def read(row: Row, answers: list[Any]) -> Ranked:
        ranks = row.get(column)
        if not isinstance(ranks, list) or len(ranks) != len(answers):
            found = f"{len(ranks)} for {len(answers)} answers" if isinstance(ranks, list) else type_of(ranks)
            raise RowDroppedError('the field "ranks" is not one number for each answer', found)
        return answers, [_number(rank, column) for rank in ranks]

    return read


def _inside(row: Row, answers: list[Any]) -> Ranked:
    objects = [answer for answer in answers if isinstance(answer, dict)]
    order = next(((n, best) for n, best in _ORDERS if all(_is_number(o.get(n)) for o in objects)), None)
    key = next((name for name in _TEXTS if all(name in answer for answer in objects)), None)
    if order is None or key is None or len(objects) < len(answers):
        raise RowDroppedError(NO_VERDICT, "the answers have no rank, score or text that all of them have")
    name, smallest_is_best = order
    numbers = [_number(answer[name], name) for answer in objects]
    return [answer[key] for answer in objects], numbers if smallest_is_best else [-number for number in numbers]


def _best_first(row: Row, answers: list[Any]) -> Ranked:
    return answers, list(range(len(answers)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _number(value: object, name: str) -> float:
    if not _is_number(value):
        raise RowDroppedError(UNREADABLE, f'"{name}" is {value!r}'[:80])
    assert isinstance(value, int | float)
    return value


def find_rated(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """HelpSteer: a rated answer a row; rows that follow each other with one prompt are compared by helpfulness."""
    if not {"prompt", "response", "helpfulness"} <= survey.keys():
        return None
    prompt = find_prompt(survey, source, format_name, taken=("response",))
    if prompt is None:
        return None

    def group(rows: Iterable[Numbered]) -> Iterator[Numbered]:
        for _, found in groupby(rows, key=lambda numbered: json.dumps(numbered[1].get("prompt"))):
            together = list(found)
            yield together[0][0], {**together[0][1], "rated": [row for _, row in together]}

    def convert(row: Row) -> Converted:
        rated = row["rated"]
        if len(rated) < 2:
            raise RowDroppedError(UNPAIRED, is_fault=False)
        answers = [answer_of(text(one, "response"), "response") for one in rated]
        ratings = [-_number(_as_number(one.get("helpfulness")), "helpfulness") for one in rated]
        return [comparison(row, prompt.of(row), answers, ratings)]

    read = {"prompt", "response", "helpfulness", *prompt.read}
    notes = ('answers to one prompt that follow each other are ranked by "helpfulness", the greatest first',)
    known = frozenset(set(_RATINGS) & set(survey))
    return Form("helpsteer", "preferences", frozenset(read), convert, known, notes=notes, group=group)


def _as_number(value: object) -> object:
    return float(value) if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value) else value


def find_compared(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """FineGrained RLHF: several predictions, and a verdict (0 a tie, 1, 2) on every two of them, in order."""
    # Their numbers say which two answers a verdict is on, not the order of a file's columns.
    names = sorted((name for name in survey if _PREDICTION.fullmatch(name)), key=lambda name: int(words_of(name)[-1]))
    if len(names) < 2 or not {"question", "preference"} <= survey.keys() or list not in survey["preference"].types:
        return None

    def convert(row: Row) -> Converted:
        verdicts, pairs = row.get("preference"), list(combinations(range(len(names)), 2))
        if not isinstance(verdicts, list) or len(verdicts) != len(pairs) or any(v not in (0, 1, 2) for v in verdicts):
            raise RowDroppedError(UNREADABLE, f'"preference" is not a list of {len(pairs)} numbers from 0 to 2')
        answers = [answer_of(text(row, name), name) for name in names]
        prompt = [message("user", _with_passages(row))]
        ranks = _consistent(verdicts, pairs, len(names))
        if ranks is not None:
            return [comparison(row, prompt, answers, ranks)]
        # What contradicts itself is no ranking, and each verdict still is what a person said.
        said = {0: (1, 1), 1: (1, 2), 2: (2, 1)}
        return [
            comparison(row, prompt, (answers[i], answers[j]), said[v])
            for (i, j), v in zip(pairs, verdicts, strict=True)
            if v == 0 or answers[i] != answers[j]
        ]

    read = frozenset({*names, "question", "preference", *({"passages"} & set(survey))})
    return Form("finegrained", "preferences", read, convert, frozenset({"feedback", "gold"} & set(survey)))


def _with_passages(row: Row) -> str:
    passages = row.get("passages") or []
    if not isinstance(passages, list) or not all(
        isinstance(p, list) and all(isinstance(t, str) for t in p) for p in passages
    ):
        raise RowDroppedError(dialogues.NOT_TEXT, '"passages" is not a list of lists of texts')
    return "\n\n".join([text(row, "question"), *("\n".join(passage[1:] or passage) for passage in passages)])


def _consistent(verdicts: Sequence[int], pairs: Sequence[tuple[int, int]], num_answers: int) -> list[int] | None:
    """Ranks that say what all verdicts say: how often an answer was worse. None where they contradict each other."""
    worse = [0] * num_answers
    for (i, j), verdict in zip(pairs, verdicts, strict=True):
        worse[i] += verdict == 2
        worse[j] += verdict == 1
    agree = all(
        verdict == (0 if worse[i] == worse[j] else 1 if worse[i] < worse[j] else 2)
        for (i, j), verdict in zip(pairs, verdicts, strict=True)
    )
    return worse if agree else None


def find_self_instruct(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """An instruction with instances of it."""
    if not {"instruction", "instances"} <= survey.keys():
        return None

    def convert(row: Row) -> Converted:
        instances = row.get("instances")
        if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
            raise RowDroppedError(dialogues.NOT_MESSAGES, f'"instances" is {type_of(instances)}')
        made = []
        for instance in instances:
            given_input = instance.get("input") or ""
            parts = [text(row, "instruction"), given_input if isinstance(given_input, str) else ""]
            asked = [message("user", "\n\n".join(part for part in parts if part.strip()))]
            made.append(demonstration(asked, answer_of(text(instance, "output"), "output")))
        return made

    known = frozenset({"is_classification"} & set(survey))
    return Form("self_instruct", "demonstrations", frozenset({"instruction", "instances"}), convert, known)


def find_trees(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """OASST: trees of messages, whole or a message a row, whose replies were ranked (0 the best)."""
    if "prompt" in survey and "message_tree_id" in survey and dict in survey["prompt"].types:
        known = frozenset({"tree_state"} & set(survey))
        return Form(
            "oasst",
            "preferences",
            frozenset({"prompt", "message_tree_id"}),
            lambda row: _tree(row.get("prompt")),
            known,
        )
    if not {"message_id", "parent_id", "text", "role", "rank"} <= survey.keys():
        return None

    def group(rows: Iterable[Numbered]) -> Iterator[Numbered]:
        def tree_of(numbered: Numbered) -> object:
            return numbered[1].get("message_tree_id")

        for _, found in groupby(rows, key=tree_of):
            together = list(found)
            yield together[0][0], {"messages": [row for _, row in together]}

    read = frozenset(
        {"message_id", "parent_id", "message_tree_id", "text", "role", "rank", "deleted", "review_result"} & set(survey)
    )
    known = frozenset(
        {"labels", "review_count", "emojis", "detoxify", "synthetic", "tree_state", "model_name"} & set(survey)
    )
    return Form("oasst", "preferences", read, lambda row: _tree(_planted(row["messages"])), known, group=group)


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


def _tree(root: object) -> Converted:
    made: Converted = []
    if not isinstance(root, dict):
        raise RowDroppedError(dialogues.NOT_MESSAGES, f"the tree's root is {type_of(root)}")
    waiting: list[tuple[Mapping[str, Any], Messages]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        path = [*before, *dialogues.turns([{"role": node.get("role"), "content": node.get("text")}], "text")]
        replies = [r for r in node.get("replies") or [] if isinstance(r, dict) and _is_kept(r)]
        ranked = [r for r in replies if _is_number(_as_number(r.get("rank"))) and r.get("role") == "assistant"]
        if path[-1]["role"] == "user" and len(ranked) > 1:
            answers = [[message("assistant", text(r, "text"))] for r in ranked]
            made.append(comparison({}, path, answers, [_number(_as_number(r["rank"]), "rank") for r in ranked]))
        waiting += [(reply, path) for reply in reversed(replies)]
    if not made:
        raise RowDroppedError("no message of the tree has two ranked replies", is_fault=False)
    return made


def _is_kept(reply: Mapping[str, Any]) -> bool:
    """Not deleted, and not refused by the reviewers."""
    # In a table these are texts.
    return str(reply.get("deleted")).casefold() != "true" and str(reply.get("review_result")).casefold() != "false"
