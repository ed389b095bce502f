"""Exports of labelling tools: Label Studio and Argilla."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.importing.columns import Column, GivenColumns, Survey, looks_like_verdict
from rlhf.data.importing.dialogues import (
    NO_VERDICT,
    NOT_MESSAGES,
    UNREADABLE,
    Messages,
    RowDroppedError,
    answer_of,
    number_of,
)
from rlhf.data.importing.form import Form, comparison
from rlhf.data.importing.prompts import find_prompt
from rlhf.data.importing.verdicts import RANKS, Verdicts
from rlhf.data.schema import Row, type_of

_NUMBER = re.compile(r"(\d+)\D*$")
_ANSWER = re.compile(r"(response|answer|output|completion|text|generation|candidate)[ _-]?(\d+|[ab])", re.IGNORECASE)
_NOT_RATED = "somebody rated one answer and not the other"
_BY_RATING = "where answers are rated, the one with the greater rating is the better one"
_OF_TASKS = re.compile(
    "predictions|drafts|meta|total_annotations|cancelled_annotations|comment_count|agreement|"
    "(created|updated|unresolved|last_|file_|inner_|project).*"
)


def find_label_studio(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Tasks with annotations of kind `pairwise`, or with a `rating` of each answer."""
    if not {"data", "annotations"} <= survey.keys():
        return None
    reader = Verdicts("selected", ("left", "right"), {"left": "first", "right": "second"})

    def convert(row: Row) -> list[Row]:
        data = row.get("data")
        if not isinstance(data, dict) or not isinstance(row.get("annotations"), list):
            raise RowDroppedError(NOT_MESSAGES, "the task has no data or no annotations")
        prompt, names = _task(data)
        made = []
        for who, results in _annotations(row["annotations"]):
            for shown, ranks in _ranked(results, names, reader):
                answers = [answer_of(data[name], name) for name in shown]
                policies = [data.get(_policy_of(name)) for name in shown]
                made.append(_comparison(who, prompt, answers, ranks, {**data, "policies": policies}))
        return _refuse_none(made, "annotation")

    known = {name for name in survey if _OF_TASKS.fullmatch(name)}
    return Form("label_studio", "preferences", {"data", "annotations"}, convert, known, [reader], _BY_RATING)


def _comparison(
    who: str, prompt: Messages, answers: Sequence[Messages], ranks: Sequence[float], origin: Mapping[str, Any]
) -> Row:
    """A preference, with the round of feedback that a tool was given it from, where it tells one.

    Args:
        who: annotator.
        prompt: what was answered.
        answers: the answers.
        ranks: their ranks, the smallest the best.
        origin: what stands beside the answers: a round of ours has round, source and policies, one for each answer.
    """
    is_of_round = all(isinstance(origin.get(name), str) for name in ("round", "source"))
    row = comparison({"annotator": who} | ({"source": origin["source"]} if is_of_round else {}), prompt, answers, ranks)
    if not is_of_round:
        return row
    policies = origin.get("policies")
    if isinstance(policies, list) and len(policies) == len(answers) and all(isinstance(one, str) for one in policies):
        in_order = reversed(policies) if "chosen" in row and ranks[0] > ranks[1] else policies
        row["policies"] = list(in_order)
    return row | {"round": origin["round"]}


def _policy_of(response: str) -> str:
    """The field that says who wrote a response."""
    return re.sub(r"^\w*?(?=[ _-]?(\d+|[abAB])$)", "policy", response)


def _refuse_none(made: list[Row], what: str) -> list[Row]:
    if not made:
        raise RowDroppedError(NO_VERDICT, f"no {what} that was submitted", is_fault=False)
    return made


def _task(data: Mapping[str, Any]) -> tuple[Messages, list[str]]:
    names = sorted(name for name in data if _ANSWER.fullmatch(name))
    columns = {name: Column({type(value)}) for name, value in data.items() if value is not None}
    prompt = find_prompt(columns, "task", "trl", names)
    if prompt is None or len(names) != 2:
        fields = f"its fields are {', '.join(map(str, data))}"[:120]
        raise RowDroppedError("a task has no prompt with two answers", fields)
    return prompt.of(dict(data)), names


def _annotations(annotations: Sequence[Any]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """The annotator and the results of one kind, `pairwise` or `rating`, of annotations that were not cancelled."""
    for annotation in annotations:
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by")
        who = by.get("email") or by.get("id") if isinstance(by, dict) else by
        results = [r for r in annotation.get("result") or [] if isinstance(r, dict)]
        kinds = sorted({str(r.get("type")) for r in results})
        kind = next((kind for kind in ("pairwise", "rating") if kind in kinds), None)
        if results and kind is None:
            raise RowDroppedError("an annotation is of another kind than pairwise and rating", ", ".join(kinds)[:60])
        of_kind = [r for r in results if r.get("type") == kind]
        if of_kind:
            yield str(who) if who is not None else "", of_kind


def _ranked(
    results: Sequence[Mapping[str, Any]], names: Sequence[str], reader: Verdicts
) -> Iterator[tuple[Sequence[str], Sequence[float]]]:
    """The two fields and their ranks: of each choice between them, or of the ratings of both."""
    if results[0].get("type") == "pairwise":
        for result in results:
            shown = _as_named(names, result.get("to_name"))
            if len(shown) != 2 or shown[0] == shown[1]:
                said = f'"to_name" is {result.get("to_name")!r}'
                raise RowDroppedError("it is not clear which answer stood on the left", said[:80])
            yield shown, RANKS[reader.read((result.get("value") or {}).get("selected"))]
        return
    ratings: dict[str, float] = {}
    for result in results:
        rated = _as_named(names, result.get("to_name"))
        if len(rated) != 1 or rated[0] in ratings:
            said = f'"to_name" is {result.get("to_name")!r}'
            raise RowDroppedError("it is not clear which answer was rated", said[:80])
        ratings[rated[0]] = number_of((result.get("value") or {}).get("rating"), "rating")
    if len(ratings) < len(names):
        raise RowDroppedError(NO_VERDICT, _NOT_RATED)
    yield names, [-ratings[name] for name in names]


def _as_named(names: Sequence[str], to_name: object) -> list[str]:
    """The fields that a result is about, in the order in which the tool showed them; empty where one is not known.

    The export names what was shown by the labelling configuration's names, which it does not hold. They are told by
    the names of the fields, or by the same numbers at the end.
    """
    shown = [part.strip() for part in to_name.split(",")] if isinstance(to_name, str) else []
    shown = [str(part) for part in to_name] if isinstance(to_name, list) else shown
    known = {"".join(_NUMBER.findall(name)): name for name in names} | {name: name for name in names}
    fields = [known.get(part) or known.get("".join(_NUMBER.findall(part)) or part) for part in shown]
    return [field for field in fields if field is not None] if None not in fields else []


def find_argilla(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Records with the answers of several people: which response is better, an order of them, or a rating of each."""
    names = [name for name in survey if _ANSWER.fullmatch(name)]
    asked = [name for name, column in survey.items() if _holds_responses(name, column)]
    questions = [name for name in asked if looks_like_verdict(_stem(name))]
    ratings = [_rating_of(name, asked) for name in names]
    rated = [question for question in ratings if question is not None]
    if len(rated) == len(names) and not questions:
        questions = rated
    prompt = find_prompt(survey, source, format_name, taken=[*names, *questions])
    if prompt is None or len(names) < 2 or (len(questions) != 1 and questions != rated) or not questions:
        return None
    is_rated = questions == rated
    reader = Verdicts(questions[0], (names[0], names[1])) if len(names) == 2 and not is_rated else None

    def ranks(row: Row) -> Iterator[tuple[str, Sequence[float]]]:
        if not is_rated:
            yield from ((who, _ranks(value, names, reader)) for who, value in _responses(row, questions[0]))
            return
        by_person: dict[str, dict[str, float]] = {}
        for name, question in zip(names, rated, strict=True):
            for who, value in _responses(row, question):
                by_person.setdefault(who, {})[name] = number_of(value, _stem(question))
        for who, said in by_person.items():
            if len(said) < len(names):
                raise RowDroppedError(NO_VERDICT, _NOT_RATED)
            yield who, [-said[name] for name in names]

    def convert(row: Row) -> list[Row]:
        answers = [answer_of(row.get(name), name) for name in names]
        metadata = row.get("metadata")
        origin = {**row, **metadata} if isinstance(metadata, dict) else row
        origin = {**origin, "policies": [origin.get(_policy_of(name)) for name in names]}
        made = [_comparison(who, prompt.of(row), answers, said, origin) for who, said in ranks(row)]
        return _refuse_none(made, "response")

    stems = tuple(stem + end for stem in map(_stem, questions) for end in ("-suggestion", "."))
    known = {name for name in survey if name.startswith(stems) or name == "metadata"}
    if {"round", "source"} <= survey.keys():
        known |= {"round", "source", "comparison", *(_policy_of(name) for name in names)}
    # The status of the record, not of its answers, unless it says "rejected".
    if "status" in survey and survey["status"].scalars <= {"completed", "pending", "submitted", "draft"}:
        known.add("status")
    read = {*names, *prompt.read, *questions}
    note = _BY_RATING if is_rated else ""
    return Form("argilla", "preferences", read, convert, known, [reader] if reader else [], note)


def _stem(question: str) -> str:
    return question.removesuffix(".responses")


def _holds_responses(name: str, column: Column) -> bool:
    return list in column.types and (name.endswith(".responses") or bool(column.num_objects))


def _rating_of(response: str, asked: Sequence[str]) -> str | None:
    """The question in which a response is rated."""
    plain = _plain(response)
    ratings = {plain + word for word in ("rating", "score")} | {word + plain for word in ("rating", "score")}
    return next((question for question in asked if _plain(_stem(question)) in ratings), None)


def is_record(row: Row) -> bool:
    """Whether a row is a record as Argilla writes it to JSON, with its fields and responses apart."""
    return isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict | list)


def flat_record(row: Row) -> Row:
    """A record with its fields and the responses to each question as columns of their own.

    Raises:
        RowDroppedError: it is no record.
    """
    if not is_record(row):
        raise RowDroppedError(NOT_MESSAGES, "the record has no fields or no responses")
    given: dict[str, list[Any]] = {}
    responses = row["responses"]
    if isinstance(responses, dict):
        given = {str(question): said for question, said in responses.items() if isinstance(said, list)}
    for response in responses if isinstance(responses, list) else ():
        values = response.get("values") if isinstance(response, dict) else None
        for question, value in values.items() if isinstance(values, dict) else ():
            given.setdefault(question, []).append({**response, **(value if isinstance(value, dict) else {})})
    rest = {name: value for name, value in row.items() if name not in ("fields", "responses")}
    return {**rest, **row["fields"], **given}


def _responses(row: Row, question: str) -> Iterator[tuple[str, Any]]:
    """The annotator and the answer of each response that was submitted."""
    given = row.get(question) or []
    if not isinstance(given, list):
        raise RowDroppedError(UNREADABLE, f'"{question}" is {type_of(given)}')
    users, states = (row.get(f"{question}.{part}") or [None] * len(given) for part in ("users", "status"))
    if not all(isinstance(part, list) and len(part) == len(given) for part in (users, states)):
        raise RowDroppedError(UNREADABLE, f'"{question}" has not as many users or states as responses'[:80])
    for response, user, state in zip(given, users, states, strict=True):
        if isinstance(response, dict) and "value" in response and "rank" not in response:
            response, user, state = response["value"], response.get("user_id"), response.get("status")
        if state in (None, "submitted"):
            yield str(user or ""), response


def _ranks(value: object, names: Sequence[str], reader: Verdicts | None) -> Sequence[float]:
    if isinstance(value, list):
        items = [item for item in value if isinstance(item, dict) and {"value", "rank"} <= item.keys()]
        by_name = {_plain(item["value"]): item["rank"] for item in items}
        ranks = [by_name.get(_plain(name)) for name in names]
        if not all(isinstance(rank, int) for rank in ranks):
            raise RowDroppedError(UNREADABLE, "a ranking does not name every answer")
        return [rank for rank in ranks if rank is not None]
    if reader is None:
        raise RowDroppedError(UNREADABLE, "one verdict on more than two answers")
    return RANKS[reader.read(value)]


def _plain(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name).casefold())
