import json
from pathlib import Path
from typing import Any

import pytest
from data_rows import assistant, demonstration, preference, user, write_lines
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data.schema import check_row, is_tie, pairs_of, read_rows, validate_file, validate_folder
from rlhf.errors import DataError

texts = st.text(st.characters(exclude_categories=["Cs"]))
spoken = texts.filter(lambda text: bool(text.strip()))


def test_counts_the_rows_of_each_file(data_folder: Path) -> None:
    assert validate_folder(data_folder) == {"demonstrations": 1, "preferences": 1, "prompts": 1}


@pytest.mark.parametrize("name", ["demonstrations.jsonl", "preferences.jsonl", "prompts.jsonl", "datasheet.md"])
def test_names_a_missing_file(data_folder: Path, name: str) -> None:
    (data_folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: the file is missing; .*rlhf data import"):
        validate_folder(data_folder)


def test_names_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: there is no such folder; make it with"):
        validate_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["demonstrations", "preferences", "prompts"])
def test_refuses_an_empty_file(data_folder: Path, name: str) -> None:
    (data_folder / f"{name}.jsonl").write_text("")
    with pytest.raises(DataError, match=rf"{name}.jsonl: the file is empty; "):
        validate_folder(data_folder)


LINES = {
    "not JSON": (b'{"prompt": [', "the line is not JSON"),
    "blank": (b"  ", "the line is blank; put one JSON object on every line"),
    "a list": (b"[1]", "the line is a list, not an object"),
    "null": (b"null", "the line is null, not an object"),
    "not UTF-8": (b'{"prompt": "caf\xe9"}', r"byte 16 of the line \(0xe9\) is not UTF-8; save the file as UTF-8"),
    "nested without end": (b"[" * 100_000, "the line is not JSON"),
}


@pytest.mark.parametrize("name", LINES)
def test_names_the_line_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    line, message = LINES[name]
    good = json.dumps({"prompt": user("Hi")}).encode()
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b"\n".join([good, good, line, good]) + b"\n")
    with pytest.raises(DataError, match=rf"^prompts.jsonl:3: {message}"):
        validate_file(path, "prompts")


def _with(**changes: Any) -> dict[str, Any]:
    return {**preference(), **changes}


ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "field missing": ({"prompt": user("Hi"), "chosen": assistant("Yes")}, 'the field "rejected" is missing'),
    "field unknown": (_with(score=1), '"score" is not a field of preferences; remove it'),
    "prompt is text": (_with(prompt="Hi"), '"prompt" is text, not a list of messages'),
    "prompt without messages": (_with(prompt=[]), '"prompt" is an empty list'),
    "message is text": (_with(prompt=["Hi"]), 'message 1 of "prompt" is text; give a list of'),
    "message with other keys": (_with(prompt=[{"from": "human"}]), 'message 1 of "prompt" has the keys "from"'),
    "message with more keys": (
        _with(prompt=[{"role": "user", "content": "Hi", "weight": 1}]),
        'has the keys "role", "content", "weight"',
    ),
    "content is a number": (_with(prompt=[{"role": "user", "content": 3}]), "is a number, not text"),
    "role unknown": (
        _with(prompt=[{"role": "tool", "content": "Hi"}]),
        'message 1 of "prompt" has the unknown role "tool"; use one of "assistant", "system", "user"',
    ),
    "role is a list": (_with(prompt=[{"role": [], "content": "Hi"}]), "unknown role"),
    "prompt is blank": (_with(prompt=user("  \n")), '"prompt" is empty'),
    "prompt ends with an answer": (_with(prompt=[*user("Hi"), *assistant("Yes")]), "ends with the assistant's turn"),
    "chosen is blank": (_with(chosen=assistant(" ")), '"chosen" is an empty response'),
    "rejected is blank": (_with(rejected=assistant("")), '"rejected" is an empty response'),
    "response of the user": (_with(chosen=user("Yes")), '"chosen" must be one message of the assistant'),
    "two responses": (_with(chosen=[*assistant("a"), *assistant("b")]), "must be one message of the assistant"),
    "same responses": (_with(rejected=assistant("2")), '"chosen" and "rejected" are the same text; remove the row'),
    "half a surrogate pair": (_with(prompt=user("\ud83d")), r"holds half of a surrogate pair \('\\ud83d'\)"),
    "annotator is a number": (_with(annotator=7), '"annotator" is a number, not text'),
    "margin is text": (_with(margin="1"), '"margin" is text, not a number'),
    "margin is a boolean": (_with(margin=True), '"margin" is true or false, not a number'),
    "margin is negative": (_with(margin=-0.5), '"margin" is -0.5; give a finite number of at least 0'),
    "margin is infinite": (_with(margin=float("inf")), '"margin" is inf'),
    "margin is no number": (_with(margin=float("nan")), '"margin" is nan'),
    "margin is beyond floats": (_with(margin=10**400), '"margin" is 1000'),
    "probability is text": (_with(probability="1"), '"probability" is text, not a number'),
    "probability of the other": (_with(probability=0.4), '"probability" is 0.4; give .* or swap chosen and rejected'),
    "probability above 1": (_with(probability=1.5), '"probability" is 1.5; give a number from 0.5 to 1'),
    "probability is no number": (_with(probability=float("nan")), '"probability" is nan'),
}


@pytest.mark.parametrize("name", ROWS)
def test_names_the_row_at_fault(tmp_path: Path, name: str) -> None:
    row, message = ROWS[name]
    path = write_lines(tmp_path / "preferences.jsonl", [preference(), row])
    with pytest.raises(DataError, match=rf"^preferences.jsonl:2: .*{message}"):
        validate_file(path, "preferences")


def ranking(*ranks: Any, **changes: Any) -> dict[str, Any]:
    responses = [assistant(f"answer {number}") for number in range(len(ranks))]
    return {"prompt": user("Hi"), "responses": responses, "ranks": list(ranks), **changes}


RANKINGS: dict[str, tuple[dict[str, Any], str]] = {
    "one response": (ranking(1), '"responses" is not a list of at least two responses'),
    "a rank too few": (ranking(1, 2, ranks=[1]), '"ranks" is not a list of 2 ranks; give one for each'),
    "a rank of 0": (ranking(0, 1), '"ranks" are not whole numbers from 1'),
    "a rank that is true": (ranking(True, 2), '"ranks" are not whole numbers from 1'),
    "a pair as well": (ranking(1, 2, chosen=assistant("a")), '"chosen" is not a field of preferences; remove it'),
    "a margin": (ranking(1, 2, margin=1.0), '"margin" is not a field of a ranking'),
    "a probability": (ranking(1, 2, probability=1.0), '"probability" is not a field of a ranking'),
    "an empty response": (ranking(1, 2, responses=[assistant("a"), assistant(" ")]), '"responses 2" is an empty resp'),
    "no ranks": ({"prompt": user("Hi"), "responses": [assistant("a"), assistant("b")]}, 'the field "ranks" is missing'),
}


@pytest.mark.parametrize("name", RANKINGS)
def test_names_the_ranking_at_fault(name: str) -> None:
    row, message = RANKINGS[name]
    with pytest.raises(DataError, match=rf"^x:1: .*{message}"):
        check_row(row, "preferences", "x:1")


def test_a_ranking_stands_for_its_pairs() -> None:
    row = ranking(2, 1, 2, annotator="a")
    check_row(row, "preferences", "x:1")
    first, second, third = row["responses"]
    rest = {"prompt": user("Hi"), "annotator": "a"}
    assert list(pairs_of(row)) == [
        {**rest, "chosen": second, "rejected": first},
        {**rest, "chosen": second, "rejected": third},
    ]
    tie = {**rest, "chosen": first, "rejected": third, "probability": 0.5}
    assert [pair for pair in pairs_of(row, with_ties=True) if pair not in list(pairs_of(row))] == [tie]
    assert [is_tie(pair) for pair in pairs_of(row, with_ties=True)] == [False, True, False]
    check_row(tie, "preferences", "x:1")
    assert list(pairs_of(ranking(1, 1))) == []
    assert list(pairs_of(preference())) == [preference()]


def test_labels_are_checked_where_there_are_any(data_folder: Path) -> None:
    row = {**demonstration(), "label": True, "annotator": "a"}
    write_lines(data_folder / "labels.jsonl", [row, {**row, "label": False}])
    assert validate_folder(data_folder)["labels"] == 2
    write_lines(data_folder / "labels.jsonl", [{**row, "label": 1}])
    with pytest.raises(DataError, match=r'labels.jsonl:1: "label" is a number; give true for a response that is w'):
        validate_folder(data_folder)


def test_every_message_says_what_to_do(tmp_path: Path) -> None:
    for row, _ in ROWS.values():
        with pytest.raises(DataError, match=r"preferences.jsonl:1: .+; \w+"):
            check_row(row, "preferences", "preferences.jsonl:1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " "}, '"text" is empty; remove the row'),
        ({"text": 3}, '"text" is a number, not text'),
        ({"prompt": user("Hi")}, 'the field "text" is missing'),
        ({"text": "a", "label": True}, '"label" is not a field of corpus'),
    ],
)
def test_a_corpus_is_checked_where_there_is_any(data_folder: Path, row: dict[str, Any], message: str) -> None:
    write_lines(data_folder / "corpus.jsonl", [{"text": "Once upon a time."}, {"text": "The end.", "source": "s"}])
    assert validate_folder(data_folder)["corpus"] == 2
    write_lines(data_folder / "corpus.jsonl", [row])
    with pytest.raises(DataError, match=rf"corpus.jsonl:1: {message}"):
        validate_folder(data_folder)


def test_margin_belongs_to_preferences_only() -> None:
    with pytest.raises(DataError, match='"margin" is not a field of demonstrations'):
        check_row({**demonstration(), "margin": 1.0}, "demonstrations", "x:1")


def test_reads_no_further_than_it_must(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "prompts.jsonl", [{"prompt": user("Hi")}, {"prompt": user("Ho")}, "broken"])
    rows = read_rows(path, "prompts")
    assert [next(rows)[0], next(rows)[0]] == [1, 2]
    with pytest.raises(DataError, match=":3: "):
        next(rows)


@given(
    prompt=spoken,
    system=texts,
    chosen=spoken,
    rejected=spoken,
    margin=st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
    source=texts,
)
def test_takes_any_text(
    prompt: str, system: str, chosen: str, rejected: str, margin: float | None, source: str
) -> None:
    row = preference(prompt, chosen, rejected + "!" if rejected == chosen else rejected) | {"source": source}
    row["prompt"] = [{"role": "system", "content": system}, *row["prompt"]]
    check_row(row if margin is None else row | {"margin": margin}, "preferences", "x:1")
