"""Exports of labelling tools: Label Studio and Argilla."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.importing import dialogues
from rlhf.data.importing.columns import GivenColumns, Survey, looks_like_verdict
from rlhf.data.importing.dialogues import RowDroppedError, answer_of
from rlhf.data.importing.form import Converted, Form, comparison
from rlhf.data.importing.prompts import find_prompt
from rlhf.data.importing.verdicts import NO_VERDICT, RANKS, UNREADABLE, Verdicts
from rlhf.data.schema import Row, type_of

_NUMBER = re.compile(r"(\d+)\D*$")
_ANSWER = re.compile(r"(response|answer|output|completion|text|generation|candidate)[ _-]?(\d+|[ab])", re.IGNORECASE)


def find_label_studio(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Tasks with annotations of kind `pairwise`."""
    if not {"data", "annotations"} <= survey.keys():
        return None
    reader = Verdicts("selected", ("left", "right"), {"left": "first", "right": "second"})

    def convert(row: Row) -> Converted:
        data = row.get("data")
        if not isinstance(data, dict) or not isinstance(row.get("annotations"), list):
            raise RowDroppedError(dialogues.NOT_MESSAGES, "the task has no data or no annotations")
        prompt, names = _task(data)
        made = []
        for who, result in _results(row["annotations"]):
            first, second = _as_named(names, result.get("to_name"))
            ranks = RANKS[reader.read((result.get("value") or {}).get("selected"))]
            answers = [answer_of(data[name], name) for name in (first, second)]
            made.append(comparison({"annotator": who} if who else {}, prompt, answers, ranks))
        if not made:
            raise RowDroppedError(NO_VERDICT, "no annotation that was submitted", is_fault=False)
        return made

    known = {
        "predictions",
        "drafts",
        "meta",
        "total_annotations",
        "cancelled_annotations",
        "comment_count",
        "agreement",
    }
    known |= {
        name
        for name in survey
        if name.startswith(("created", "updated", "unresolved", "last_", "file_", "inner_", "project"))
    }
    return Form(
        "label_studio",
        "preferences",
        frozenset({"data", "annotations"}),
        convert,
        frozenset(known & set(survey)),
        verdicts=(reader,),
    )


def _task(data: Mapping[str, Any]) -> tuple[dialogues.Messages, list[str]]:
    names = sorted(name for name in data if _ANSWER.fullmatch(name))
    prompt = find_prompt(
        {name: _column(value) for name, value in data.items() if value is not None}, "task", "trl", names
    )
    if prompt is None or len(names) != 2:
        raise RowDroppedError(
            "a task has no prompt with two answers", f"its fields are {', '.join(map(str, data))}"[:120]
        )
    return prompt.of(dict(data)), names


def _column(value: object) -> Any:
    from rlhf.data.importing.columns import Column

    column = Column()
    column.add(value)
    return column


def _results(annotations: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Who said it, and each result of kind pairwise of the annotations that were not cancelled."""
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
    by_name = {name: name for name in names}
    by_number = {found[1]: name for name in names if (found := _NUMBER.search(name))}
    order = [by_name.get(part) or by_number.get(found[1] if (found := _NUMBER.search(part)) else "") for part in shown]
    if len(order) != 2 or None in order or order[0] == order[1]:
        raise RowDroppedError("which answer stood on the left cannot be told", f'"to_name" is {to_name!r}'[:80])
    first, second = order
    assert first is not None
    assert second is not None
    return first, second


def find_argilla(survey: Survey, given: GivenColumns, source: str, format_name: str) -> Form | None:
    """Records with the answers of several people to a question about two or more responses, or a ranking of them."""
    names = [name for name in survey if _ANSWER.fullmatch(name)]
    questions = [
        name
        for name in survey
        if looks_like_verdict(name.removesuffix(".responses"))
        and (name.endswith(".responses") or survey[name].num_objects)
        and list in survey[name].types
    ]
    prompt = find_prompt(survey, source, format_name, taken=[*names, *questions])
    if len(questions) != 1 or prompt is None or len(names) < 2:
        return None
    question = questions[0]
    reader = Verdicts(question, (names[0], names[1])) if len(names) == 2 else None

    def convert(row: Row) -> Converted:
        made = []
        answers = [answer_of(row.get(name), name) for name in names]
        for who, value in _responses(row, question):
            ranks = _ranks(value, names, reader)
            made.append(comparison({"annotator": who} if who else {}, prompt.of(row), answers, ranks))
        if not made:
            raise RowDroppedError(NO_VERDICT, "no response that was submitted", is_fault=False)
        return made

    stem = question.removesuffix(".responses")
    known = {name for name in survey if name.startswith((f"{stem}-suggestion", f"{stem}.")) or name == "metadata"}
    # Of the record, not of its answers, unless it says "rejected".
    if "status" in survey and survey["status"].scalars <= {"completed", "pending", "submitted", "draft"}:
        known.add("status")
    return Form(
        "argilla",
        "preferences",
        frozenset({*names, *prompt.read, question}),
        convert,
        frozenset(known),
        verdicts=(reader,) if reader else (),
    )


def is_record(row: Row) -> bool:
    """Whether a row is a record as Argilla writes it to JSON, with its fields and responses apart."""
    return isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict | list)


def flat_record(row: Row) -> Row:
    """A record with its fields and the responses to each question as columns of their own.

    Raises:
        RowDroppedError: it is no record.
    """
    if not is_record(row):
        raise RowDroppedError(dialogues.NOT_MESSAGES, "the record has no fields or no responses")
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
    """Who said it, and what, of those responses that were submitted."""
    given = row.get(question) or []
    if not isinstance(given, list):
        raise RowDroppedError(UNREADABLE, f'"{question}" is {type_of(given)}')
    users, states = (row.get(f"{question}.{part}") or [None] * len(given) for part in ("users", "status"))
    for response, user, state in zip(given, users, states, strict=False):
        if isinstance(response, dict) and "value" in response and "rank" not in response:
            response, user, state = response["value"], response.get("user_id"), response.get("status")
        if state in (None, "submitted"):
            yield str(user or ""), response


def _ranks(value: object, names: Sequence[str], reader: Verdicts | None) -> Sequence[float]:
    if isinstance(value, list):
        found = {
            _plain(item["value"]): item["rank"]
            for item in value
            if isinstance(item, dict) and {"value", "rank"} <= item.keys()
        }
        ranks = [found.get(_plain(name)) for name in names]
        if not all(isinstance(rank, int) for rank in ranks):
            raise RowDroppedError(UNREADABLE, "a ranking does not name every answer")
        return [rank for rank in ranks if rank is not None]
    if reader is None:
        raise RowDroppedError(UNREADABLE, "one verdict on more than two answers")
    return RANKS[reader.read(value)]


def _plain(name: object) -> str:
    return re.sub(r"[\W_]+", "", str(name).casefold())
