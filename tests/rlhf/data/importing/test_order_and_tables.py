"""What the files of `test_forms.py` have found: orders of columns, tables, and columns that contradict each other."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from data_rows import write_lines

from rlhf.data.importing.columns import parse_columns
from rlhf.data.importing.formats import Sources, convert_dataset
from rlhf.data.importing.reading import SourceOptions
from rlhf.data.schema import pairs_of
from rlhf.errors import DataError

Row = dict[str, Any]
Read = tuple[list[str], str, str]


def read(path: Path, columns: str | None = None, format_name: str = "auto") -> list[Read]:
    """The pairs that a file gives: the turns of the prompt, the better and the worse answer."""
    data = path.parent / "data"
    data.mkdir()
    options = SourceOptions(format_name, parse_columns(columns))
    convert_dataset(Sources(str(path), options={"preferences": options}), data)
    with (data / "preferences.jsonl").open("rb") as lines:
        pairs = [pair for line in lines for pair in pairs_of(json.loads(line))]
    return [
        ([turn["content"] for turn in pair["prompt"]], pair["chosen"][0]["content"], pair["rejected"][0]["content"])
        for pair in pairs
    ]


def table(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows(
            [json.dumps(value) if isinstance(value, list) else value for value in row.values()] for row in rows
        )
    return path


OUT_OF_ORDER: dict[str, Row] = {
    "Argilla": {"response_2": "Yes", "response_1": "No", "prompt": "Hi", "preference.responses": ["response_2"]},
    "fine-grained RLHF": {
        "question": "Hi",
        "prediction 2": "Yes",
        "prediction 3": "No",
        "prediction 1": "No",
        "preference": [2, 0, 1],
    },
    "an arena's flag before the verdict": {
        "anony": True,
        "model_a": "x",
        "model_b": "y",
        "conversation_a": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No"}],
        "conversation_b": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}],
        "winner": "model_b",
    },
}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
def test_the_names_of_columns_decide_and_not_their_order(tmp_path: Path, name: str) -> None:
    assert set(map(str, read(write_lines(tmp_path / "x.jsonl", [OUT_OF_ORDER[name]])))) == {str((["Hi"], "Yes", "No"))}


@pytest.mark.parametrize("verdict", ["output_1", 1])
def test_a_verdict_names_the_answer_that_is_called_so(tmp_path: Path, verdict: object) -> None:
    rows = [
        {"q": "Hi", "output_1": "Yes", "output_2": "No", "mark": verdict},
        {"q": "Ho", "output_1": "No", "output_2": "Yes", "mark": "output_2" if isinstance(verdict, str) else 2},
    ]
    path = write_lines(tmp_path / "x.jsonl", rows)
    assert read(path, "prompt=q,first=output_2,second=output_1,verdict=mark") == [
        (["Hi"], "Yes", "No"),
        (["Ho"], "Yes", "No"),
    ]


def test_a_verdict_that_the_scores_contradict_is_a_fault(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "answer_a": "Yes", "answer_b": "No", "winner": "a", "score_a": 1, "score_b": 2}
    with pytest.raises(DataError, match="the verdict and the scores name different answers"):
        read(write_lines(tmp_path / "x.jsonl", [row]))


def test_a_column_that_names_the_worse_answer_is_no_verdict(tmp_path: Path) -> None:
    """It is one where a person says what its values mean."""
    rows = [{"prompt": "Hi", "answer_a": "Yes", "answer_b": "No", "loser": "b"}]
    path = write_lines(tmp_path / "x.jsonl", rows)
    for columns in (None, "prompt=prompt,first=answer_a,second=answer_b,verdict=loser"):
        with pytest.raises(DataError, match="--columns"):
            read(path, columns)
        (tmp_path / "data").rmdir()
    assert read(path, "first=answer_a,second=answer_b,verdict=loser:a=second,b=first") == [(["Hi"], "Yes", "No")]


def test_a_column_that_is_called_as_a_role_is_not_put_aside_in_silence(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "output_1": "Yes", "output_2": "No", "mark": "x", "verdict": "output_2"}
    path = write_lines(tmp_path / "x.jsonl", [row])
    with pytest.raises(DataError, match=r'also has a column "verdict", .* --columns ignored=verdict'):
        read(path, "verdict=mark:x=first")


def test_the_dialogue_of_a_prompt_is_one_with_the_format_given(tmp_path: Path) -> None:
    answers = [{"answer": "No", "rank": 2}, {"answer": "Yes", "rank": 1}]
    path = write_lines(tmp_path / "x.jsonl", [{"prompt": "\n\nHuman: Hi\n\nAssistant: ", "answers": answers}])
    assert read(path, format_name="nectar") == [(["Hi"], "Yes", "No")]


def test_a_tree_in_a_table(tmp_path: Path) -> None:
    """Ranks are numbers there, and "False" is no reason to leave a message out."""
    post = {"message_tree_id": "t", "deleted": "False", "review_result": "True"}
    rows = [
        {**post, "message_id": "t", "parent_id": "", "role": "prompter", "text": "Hi", "rank": ""},
        {**post, "message_id": "u", "parent_id": "t", "role": "assistant", "text": "No", "rank": "1.0"},
        {**post, "message_id": "v", "parent_id": "t", "role": "assistant", "text": "Yes", "rank": "0.0"},
        {**post, "message_id": "w", "parent_id": "t", "role": "assistant", "text": "Bad", "rank": "2.0"}
        | {"review_result": "False"},
    ]
    assert read(table(tmp_path / "x.csv", rows)) == [(["Hi"], "Yes", "No")]


def thread(tree: str) -> list[Row]:
    answers = [
        {"message_id": f"{tree} {rank}", "parent_id": tree, "role": "assistant", "rank": rank} for rank in (0, 1)
    ]
    root = {"message_id": tree, "parent_id": None, "role": "prompter", "rank": None}
    texts = ("Hi", "Yes", "No")
    return [{**post, "message_tree_id": tree, "text": text} for post, text in zip([root, *answers], texts, strict=True)]


@pytest.mark.parametrize(
    "odd", [{"message_id": {"a": 1}}, {"message_id": "t 1"}, {"parent_id": "nowhere"}, {"text": 1}]
)
def test_a_tree_that_does_not_hold_together_is_left_out(tmp_path: Path, odd: Row) -> None:
    rows = [post for number in range(30) for post in thread(str(number))]
    root, *answers = thread("t")
    path = write_lines(tmp_path / "x.jsonl", [*rows, root | odd, *answers])
    assert read(path) == [(["Hi"], "Yes", "No")] * 30


def test_the_turns_before_in_a_table(tmp_path: Path) -> None:
    rows = [{"instruction": "And?", "history": [["Hi", "Hello"]], "chosen": "Yes", "rejected": "No"}]
    assert read(table(tmp_path / "x.csv", rows)) == [(["Hi", "Hello", "And?"], "Yes", "No")]


def test_the_list_of_a_role_in_a_table(tmp_path: Path) -> None:
    path = table(tmp_path / "x.csv", [{"q": "Hi", "all": ["No", "Yes"], "place": [2, 1]}])
    assert read(path, "prompt=q,responses=all,ranks=place") == [(["Hi"], "Yes", "No")]


def test_many_different_scores_in_a_table(tmp_path: Path) -> None:
    rows = [
        {"history": f"Hi {n}", "human_ref_A": "Yes", "human_ref_B": "No", "labels": 1, "score_A": 40 + n, "score_B": n}
        | {"upvote_ratio": 0.9}
        for n in range(30)
    ]
    assert read(table(tmp_path / "x.csv", rows)) == [([f"Hi {n}"], "Yes", "No") for n in range(30)]


def test_a_list_of_turns_as_text(tmp_path: Path) -> None:
    """LMSYS's competition: dialogues of several turns share the turns before the last, or are left out."""
    won = {"winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}
    rows = [
        {"prompt": ["Hi"], "response_a": ["No"], "response_b": ["Yes"], **won},
        {"prompt": ["Hi", "And?"], "response_a": ["Hello", "No"], "response_b": ["Hello", "Yes"], **won},
    ]
    assert read(table(tmp_path / "x.csv", rows)) == [(["Hi"], "Yes", "No"), (["Hi", "Hello", "And?"], "Yes", "No")]


def test_one_odd_value_does_not_change_what_a_file_is(tmp_path: Path) -> None:
    completions = [{"response": "No", "overall_score": 1.0}, {"response": "Yes", "overall_score": 2.0}]
    rows: list[Row] = [{"instruction": f"Hi {n}", "completions": completions} for n in range(30)]
    rows[3]["completions"] = {"a": 1}
    assert len(read(write_lines(tmp_path / "x.jsonl", rows))) == 29


def test_messages_of_two_conventions_in_one_table(tmp_path: Path) -> None:
    """Parquet gives each object the fields of all."""
    turn = {"role": None, "content": None, "from": "gpt"}
    row = {"prompt": "Hi", "chosen": [{**turn, "value": "Yes"}], "rejected": [{**turn, "value": "No"}]}
    assert read(write_lines(tmp_path / "x.jsonl", [row])) == [(["Hi"], "Yes", "No")]
