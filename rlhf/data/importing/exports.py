"""Exports of labelling tools: Label Studio and Argilla."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.importing.columns import Column, GivenColumns, Survey, looks_like_verdict
from rlhf.data.importing.dialogues import NO_VERDICT, NOT_MESSAGES, UNREADABLE, Messages, RowDroppedError, answer_of
from rlhf.data.importing.form import Form, comparison
from rlhf.data.importing.prompts import find_prompt
from rlhf.data.importing.verdicts import RANKS, Verdicts
from rlhf.data.schema import Row, type_of

_NUMBER = re.compile(r"(\d+)\D*$")
_ANSWER = re.compile(r"(response|answer|output|completion|text|generation|candidate)[ _-]?(\d+|[ab])", re.IGNORECASE)
_OF_TASKS = re.compile(
    "predictions|drafts|meta|total_annotations|cancelled_annotations|comment_count|agreement|"
    "(created|updated|unresolved|last_|file_|inner_|project).*"
)


def find_label_studio(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Tasks with annotations of kind `pairwise`."""
    if not {"data", "annotations"} <= survey.keys():
        return None
    reader = Verdicts("selected", ("left", "right"), {"left": "first", "right": "second"})

    def convert(row: Row) -> list[Row]:
        data = row.get("data")
        if not isinstance(data, dict) or not isinstance(row.get("annotations"), list):
            raise RowDroppedError(NOT_MESSAGES, "the task has no data or no annotations")
        prompt, names = _task(data)
        made = []
        for who, result in _results(row["annotations"]):
            shown = _as_named(names, result.get("to_name"))
            ranks = RANKS[reader.read((result.get("value") or {}).get("selected"))]
            answers = [answer_of(data[name], name) for name in shown]
            made.append(comparison({"annotator": who}, prompt, answers, ranks))
        return _refuse_none(made, "annotation")

    known = {name for name in survey if _OF_TASKS.fullmatch(name)}
    return Form("label_studio", "preferences", {"data", "annotations"}, convert, known, [reader])


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


def _results(annotations: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The annotator and each result of kind `pairwise`, of all annotations that were not cancelled."""
    for annotation in annotations:
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        by = annotation.get("completed_by")
        who = by.get("email") or by.get("id") if isinstance(by, dict) else by
        results = [r for r in annotation.get("result") or [] if isinstance(r, dict)]
        if results and not any(r.get("type") == "pairwise" for r in results):
            kinds = ", ".join(sorted({str(r.get("type")) for r in results}))
            raise RowDroppedError("an annotation is of another kind than pairwise", kinds[:60])
        yield from ((str(who) if who is not None else "", r) for r in results if r.get("type") == "pairwise")


def _as_named(names: Sequence[str], to_name: object) -> tuple[str, str]:
    """The fields in the order in which the tool showed them, left and right.

    The export names what was shown by the labelling configuration's names, which it does not hold. They are told by
    the names of the fields, or by the same numbers at the end.
    """
    shown = [part.strip() for part in to_name.split(",")] if isinstance(to_name, str) else []
    shown = [str(part) for part in to_name] if isinstance(to_name, list) else shown
    known = {"".join(_NUMBER.findall(name)): name for name in names} | {name: name for name in names}
    order = [known.get(part) or known.get("".join(_NUMBER.findall(part)) or part) for part in shown]
    if len(order) != 2 or order[0] is None or order[1] is None or order[0] == order[1]:
        raise RowDroppedError("it is not clear which answer stood on the left", f'"to_name" is {to_name!r}'[:80])
    return order[0], order[1]


def find_argilla(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Records with the answers of several people to a question about two or more responses, or a ranking of them."""
    names = [name for name in survey if _ANSWER.fullmatch(name)]
    questions = [
        name
        for name, column in survey.items()
        if looks_like_verdict(name.removesuffix(".responses"))
        and (name.endswith(".responses") or column.num_objects)
        and list in column.types
    ]
    prompt = find_prompt(survey, source, format_name, taken=[*names, *questions])
    if len(questions) != 1 or prompt is None or len(names) < 2:
        return None
    question = questions[0]
    reader = Verdicts(question, (names[0], names[1])) if len(names) == 2 else None

    def convert(row: Row) -> list[Row]:
        made = []
        answers = [answer_of(row.get(name), name) for name in names]
        for who, value in _responses(row, question):
            ranks = _ranks(value, names, reader)
            made.append(comparison({"annotator": who}, prompt.of(row), answers, ranks))
        return _refuse_none(made, "response")

    stem = question.removesuffix(".responses")
    known = {name for name in survey if name.startswith((f"{stem}-suggestion", f"{stem}.")) or name == "metadata"}
    # The status of the record, not of its answers, unless it says "rejected".
    if "status" in survey and survey["status"].scalars <= {"completed", "pending", "submitted", "draft"}:
        known.add("status")
    read = {*names, *prompt.read, question}
    return Form("argilla", "preferences", read, convert, known, [reader] if reader else [])


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
