"""Inputs that other tools misread, as people reported them: each is read as it was meant, or refused."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from data_rows import assistant, user, write_lines

from rlhf.data.importing.columns import parse_columns
from rlhf.data.importing.formats import ImportReport, Sources, import_dataset
from rlhf.data.importing.reading import SourceOptions
from rlhf.data.schema import pairs_of, validate_folder
from rlhf.errors import DataError

Row = dict[str, Any]
NUMBERS = range(1, 41)
GOOD, BAD = "Take {n} spoons.", "Use {n} knives."


def texts(n: int) -> tuple[str, str, str]:
    """Prompt, the better answer, the worse one."""
    return f"Question {n}?", GOOD.format(n=n), BAD.format(n=n)


def flat(n: int) -> Row:
    prompt, chosen, rejected = texts(n)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def judged(n: int, first: str, second: str, **verdict: Any) -> Row:
    """The better answer stands second where n is even."""
    prompt, better, worse = texts(n)
    answers = (worse, better) if n % 2 == 0 else (better, worse)
    return {"instruction": prompt, first: answers[0], second: answers[1], **verdict}


def read(
    tmp_path: Path, file: Path, columns: str | None = None, format: str = "auto", **options: Any
) -> tuple[ImportReport, list[tuple[str, str, str]]]:
    how = SourceOptions(format, parse_columns(columns), **options)
    report = import_dataset(Sources(str(file), options={"preferences": how}), tmp_path / "data")
    validate_folder(tmp_path / "data")
    rows = rows_in(tmp_path / "data" / "preferences.jsonl")
    pairs = [pair for row in rows for pair in pairs_of(row)]
    return report, [(p["prompt"][-1]["content"], p["chosen"][0]["content"], p["rejected"][0]["content"]) for p in pairs]


def rows_in(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def a_table(rows: list[Row], header: Callable[[str], str] = str, **form: Any) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, **form)
    writer.writerow([header(name) for name in rows[0]])
    writer.writerows([list(row.values()) for row in rows])
    return file.getvalue().encode()


def as_turns(n: int) -> Row:
    prompt, chosen, rejected = texts(n)
    return {"chosen": [*user(prompt), *assistant(chosen)], "rejected": [*user(prompt), *assistant(rejected)]}


def lines(make: Callable[[int], Row]) -> bytes:
    return "".join(json.dumps(make(n), ensure_ascii=False) + "\n" for n in NUMBERS).encode()


def share_gpt(n: int, human: str, bot: str) -> Row:
    prompt, chosen, rejected = texts(n)
    return {
        "conversations": [{"from": human, "value": prompt}],
        "chosen": {"from": bot, "value": chosen},
        "rejected": {"from": bot, "value": rejected},
    }


def in_parts(messages: list[dict[str, str]]) -> list[Row]:
    return [{**m, "content": [{"type": "text", "text": m["content"][:3]}, m["content"][3:]]} for m in messages]


def numpy_repr(n: int) -> Row:
    row = as_turns(n)
    return {name: str(value).replace("}, {", "}\n {") for name, value in row.items()}


def winner(n: int) -> str:
    return "response_2" if n % 2 == 0 else "response_1"


def record(n: int, responses: object) -> Row:
    fields = judged(n, "response_1", "response_2")
    return {"id": str(n), "status": "completed", "fields": fields, "metadata": {"a": 1}, "responses": responses}


READ: dict[str, tuple[str, bytes]] = {
    "who judged is no verdict": (
        "x.jsonl",
        lines(lambda n: judged(n, "response_1", "response_2", preference=2 - n % 2, annotator_id=1 + n % 3)),
    ),
    "who judged stands first": (
        "x.jsonl",
        lines(lambda n: {"worker_id": n % 2, **judged(n, "output_1", "output_2", preference=2 - n % 2)}),
    ),
    "verdicts name a column": (
        "x.jsonl",
        lines(lambda n: judged(n, "answer_a", "answer_b", winner="answer_b" if n % 2 == 0 else "answer_a")),
    ),
    "verdicts are letters": (
        "x.jsonl",
        lines(lambda n: judged(n, "response_a", "response_b", choice="AB"[n % 2 == 0])),
    ),
    "verdicts are in brackets": (
        "x.jsonl",
        lines(lambda n: judged(n, "response_a", "response_b", verdict=f"[[{'AB'[n % 2 == 0]}]]")),
    ),
    "answers are numbered from 0": (
        "x.jsonl",
        lines(lambda n: judged(n, "response_0", "response_1", better_response_id=int(n % 2 == 0), safer_response_id=0)),
    ),
    "scores of both": (
        "x.jsonl",
        lines(lambda n: judged(n, "answer_0", "answer_1", score_0=n % 2, score_1=1 - n % 2)),
    ),
    "cells that hold JSON": ("x.csv", a_table([{k: json.dumps(v) for k, v in as_turns(n).items()} for n in NUMBERS])),
    "cells that hold Python lists": ("x.csv", a_table([{k: str(v) for k, v in as_turns(n).items()} for n in NUMBERS])),
    "lists as text in JSON Lines": (
        "x.jsonl",
        lines(lambda n: {"prompt": texts(n)[0], **{k: json.dumps(v) for k, v in as_turns(n).items()}}),
    ),
    "a header with blanks": ("x.csv", a_table([flat(n) for n in NUMBERS], header=" {} ".format)),
    "semicolons and a byte order mark": (
        "x.csv",
        b"\xef\xbb\xbf" + a_table([flat(n) for n in NUMBERS], delimiter=";"),
    ),
    "tabs": ("x.tsv", a_table([flat(n) for n in NUMBERS], delimiter="\t")),
    "bars": ("x.csv", a_table([flat(n) for n in NUMBERS], delimiter="|")),
    "a blank after each comma": ("x.csv", a_table([flat(n) for n in NUMBERS]).replace(b",", b", ")),
    "content in parts": (
        "x.jsonl",
        lines(lambda n: {k: in_parts(v) for k, v in as_turns(n).items()}),
    ),
    "roles: prompter": ("x.jsonl", lines(lambda n: share_gpt(n, "prompter", "Assistant"))),
    "roles: bot": ("x.jsonl", lines(lambda n: share_gpt(n, "USER", "bot"))),
    "roles: model": ("x.jsonl", lines(lambda n: share_gpt(n, "Human", "model"))),
    "lines of Windows in Anthropic's dialogues": (
        "x.jsonl",
        lines(
            lambda n: {
                side: f"\r\n\r\nHuman: {texts(n)[0]}\r\n\r\nAssistant: {answer}"
                for side, answer in zip(("chosen", "rejected"), texts(n)[1:], strict=True)
            }
        ),
    ),
    "dialogues without the first blank lines": (
        "x.jsonl",
        lines(
            lambda n: {
                side: f"Human: {texts(n)[0]}\n\nAssistant: {answer}"
                for side, answer in zip(("chosen", "rejected"), texts(n)[1:], strict=True)
            }
        ),
    ),
    "a list in an object": ("x.json", json.dumps({"version": 2, "data": [flat(n) for n in NUMBERS]}).encode()),
    "an object of columns": (
        "x.json",
        json.dumps({name: [flat(n)[name] for n in NUMBERS] for name in flat(1)}).encode(),
    ),
    "pandas' object of columns": (
        "x.json",
        json.dumps({name: {str(n): flat(n)[name] for n in NUMBERS} for name in flat(1)}).encode(),
    ),
    "OpenAI's preferences": (
        "x.jsonl",
        lines(
            lambda n: {
                "input": {"messages": user(texts(n)[0]), "tools": [], "parallel_tool_calls": True},
                "preferred_output": assistant(texts(n)[1]),
                "non_preferred_output": assistant(texts(n)[2]),
            }
        ),
    ),
    "a prompt with a line end, and whole dialogues": (
        "x.jsonl",
        lines(lambda n: {"prompt": texts(n)[0] + "\n", **as_turns(n), "score_chosen": 8.0, "score_rejected": 5.0}),
    ),
    "Label Studio's short export": (
        "x.json",
        json.dumps(
            [
                {
                    "id": n,
                    **judged(n, "answer1", "answer2", comparison="right" if n % 2 == 0 else "left"),
                    "annotator": n % 3,
                    "annotation_id": n,
                    "lead_time": 3.5,
                }
                for n in NUMBERS
            ]
        ).encode(),
    ),
    "Argilla's records": ("x.jsonl", lines(lambda n: record(n, {"better": [{"value": winner(n), "user_id": "u"}]}))),
    "Argilla's records of before": (
        "x.jsonl",
        lines(
            lambda n: record(
                n,
                [
                    {"user_id": "u", "status": "submitted", "values": {"preference": {"value": winner(n)}}},
                    {"user_id": "v", "status": "draft", "values": {"preference": {"value": winner(n + 1)}}},
                ],
            )
        ),
    ),
    "the best answer first": (
        "x.json",
        json.dumps([{"instruction": texts(n)[0], "input": "", "output": [*texts(n)[1:]]} for n in NUMBERS]).encode(),
    ),
    "ranks": (
        "x.jsonl",
        lines(lambda n: {"prompt": texts(n)[0], "responses": [texts(n)[2], texts(n)[1]], "ranks": [2, 1]}),
    ),
    "chosen names a column": (
        "x.jsonl",
        lines(
            lambda n: judged(
                n, "response_a", "response_b", chosen=f"response_{'ab'[n % 2 == 0]}", rejected="response_a"
            )
        ),
    ),
    "columns with capitals": ("x.csv", a_table([flat(n) for n in NUMBERS], header=str.capitalize)),
    "a blank line at the end": ("x.jsonl", lines(flat) + b"\n"),
    "messages to be learned from": (
        "x.jsonl",
        lines(lambda n: {k: [{**m, "weight": 1, "train": True} for m in v] for k, v in as_turns(n).items()}),
    ),
    "signed preferences": (
        "x.jsonl",
        lines(
            lambda n: {
                "context": user(texts(n)[0]),
                **{f"response{i}": a for i, a in enumerate(texts(n)[1:][:: 1 if n % 2 else -1], start=1)},
                "overall_preference": -2 if n % 2 else 3,
                "individual_preference": [{"score": 1, "reasoning": "."}],
            }
        ),
    ),
    "scores that come with letters": (
        "x.jsonl",
        lines(
            lambda n: {
                "history": texts(n)[0],
                **{f"human_ref_{c}": a for c, a in zip("AB", texts(n)[1:][:: 1 if n % 2 else -1], strict=True)},
                "labels": n % 2,
                "score_A": 1 + 2 * (n % 2),
                "score_B": 2,
            }
        ),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_is_read_as_it_was_meant(tmp_path: Path, name: str) -> None:
    file, content = READ[name]
    (tmp_path / file).write_bytes(content)
    report, pairs = read(tmp_path, tmp_path / file)
    assert pairs == [texts(n) for n in NUMBERS]
    assert report.sources[0].dropped == {}


def test_a_blank_line_after_a_comma_belongs_to_the_cell_where_quotes_say_so(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('prompt, chosen, rejected\nWhy?, "a, b", c\nHow?, " d", e\n')
    assert read(tmp_path, tmp_path / "x.csv")[1] == [("Why?", "a, b", "c"), ("How?", " d", "e")]


def exported(number: int, users: Any, responses: Sequence[str] = ("response1",)) -> Row:
    """A row of Argilla's export to the hub."""
    prompt, chosen, rejected = texts(number)
    row = {"prompt": prompt, "response1": chosen, "response2": rejected, "preference.responses": list(responses)}
    return {**row, "preference.responses.users": users}


REFUSED: dict[str, tuple[bytes, str]] = {
    "0 and 1": (
        lines(lambda n: judged(n, "response_1", "response_2", label=int(n % 2 == 0))),
        r'"label" holds no other numbers than 0 and 1, so 1 may be the first answer or the second; say which with '
        r"--columns verdict=label:0=first,1=second",
    ),
    "0 and 1 under a name that says more": (
        lines(lambda n: judged(n, "output_1", "output_2", preference=int(n % 2 == 0))),
        "holds no other numbers than 0 and 1",
    ),
    "0 and 1 of answers numbered so, under a label": (
        lines(lambda n: judged(n, "answer_0", "answer_1", label=int(n % 2 == 0))),
        "whether 1 is the second answer or says yes to the first; say it with",
    ),
    "nothing but 1 under a label": (
        lines(lambda n: judged(n, "response_1", "response_2", label=1)),
        "holds no other numbers than 1",
    ),
    "two verdicts": (
        lines(lambda n: judged(n, "response_1", "response_2", winner="1", preference=2)),
        'not understood: "preference"; say what it holds with --columns .* --columns ignored=preference, or give anot',
    ),
    "a verdict on pairs": (lines(lambda n: {**flat(n), "is_better": n % 2}), 'not understood: "is_better"'),
    "a flag on pairs": (lines(lambda n: {**flat(n), "swapped": n % 2 == 0}), 'not understood: "swapped"'),
    "a rating on pairs": (lines(lambda n: {**flat(n), "rating": n}), 'not understood: "rating"'),
    "a label of words on pairs": (lines(lambda n: {**flat(n), "kind": "good" if n % 2 else "bad"}), '"kind"'),
    "a true or false verdict": (
        lines(lambda n: judged(n, "response_1", "response_2", label=n % 2 == 1)),
        r'a verdict cannot be read \("label" is True; "label" is False\)',
    ),
    "verdicts in a language of their own": (
        lines(lambda n: judged(n, "response_1", "response_2", preference="links" if n % 2 else "rechts")),
        "no row is left .40 because a verdict cannot be read .* give another file, --format or --columns",
    ),
    "scores that say the opposite": (
        lines(lambda n: {**flat(n), "score_chosen": 1, "score_rejected": 2}),
        "the scores say that the rejected answer is the better one",
    ),
    "the rank of one side": (
        lines(lambda n: judged(n, "response_a", "response_b", rank_b=1 + n % 2)),
        "no known format",
    ),
    "who agrees": (lines(lambda n: {**flat(n), "annotator_agrees": "no" if n % 2 else "yes"}), "annotator_agrees"),
    "what a reviewer says": (lines(lambda n: {**flat(n), "reviewer_ok": "no" if n % 2 else "yes"}), "reviewer_ok"),
    "a model's rating": (lines(lambda n: {**flat(n), "model_rating": n % 5}), "model_rating"),
    "what was shown first": (lines(lambda n: {**flat(n), "order_shown": "2,1" if n % 2 else "1,2"}), "order_shown"),
    "a flag below the row": (lines(lambda n: {**flat(n), "metadata": {"flipped": n % 2 == 0}}), "metadata.flipped"),
    "a message not to be learned from": (
        lines(lambda n: {k: [{**m, "weight": n % 2} for m in v] for k, v in as_turns(n).items()}),
        '"chosen.weight", "rejected.weight"; say .* --columns ignored=chosen.weight',
    ),
    "a message with calls of tools": (
        lines(lambda n: {k: [{**m, "tool_calls": [{"id": 1}]} for m in v] for k, v in as_turns(n).items()}),
        "chosen.tool_calls",
    ),
    "a scale of five": (
        lines(lambda n: judged(n, "response_1", "response_2", preference=1 + n % 5)),
        "holds 3, 4, 5 beside 1, 2, so it is not a choice between two answers",
    ),
    "a key twice": (
        b"".join(b'{"prompt": "a", "chosen": "b", "chosen": "c", "rejected": "d"}\n' for _ in NUMBERS),
        r'a key stands twice \("chosen"\)',
    ),
    "texts that become messages": (
        lines(flat) * 30 + lines(lambda n: {**flat(n), "chosen": json.dumps(as_turns(n)["chosen"])}) * 3,
        "120 of 1320 rows hold messages spelled as text and the first rows do not",
    ),
    "mistyped": (lines(lambda n: {"prompt": "a", "chosen": "b", "rejectd": "c"}), r'did you mean "rejected"\?'),
    "rated answers to different prompts": (
        lines(lambda n: {"prompt": texts(n)[0], "response": texts(n)[1], "helpfulness": 3, "correctness": 4}),
        "no row is left .40 because the prompt has one rated answer alone",
    ),
    "messages as numpy prints them": (
        a_table([numpy_repr(n) for n in NUMBERS]),
        "were printed as text and cannot be read back .* JSON Lines or Parquet",
    ),
    "tools in the prompt": (
        lines(
            lambda n: {
                "input": {"messages": user("a"), "tools": [{"type": "function"}]},
                "preferred_output": assistant("b"),
                "non_preferred_output": assistant("c"),
            }
        ),
        "the prompt offers tools",
    ),
    "users of an export that are no list": (
        lines(lambda n: exported(n, users=3)),
        '"preference.responses" has not as many users or states as responses',
    ),
    "fewer users than responses": (
        lines(lambda n: exported(n, users=["a"], responses=["response1", "response2"])),
        '"preference.responses" has not as many users or states as responses',
    ),
    "an unknown role": (lines(lambda n: share_gpt(n, "human", "tool")), r'a role that is not known \("tool"\)'),
    "a picture": (
        lines(lambda n: {**as_turns(n), "rejected": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        "a part of kind image_url",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    file = tmp_path / ("x.csv" if name == "messages as numpy prints them" else "x.jsonl")
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, file)
    assert not (tmp_path / "data").exists()


def test_a_person_says_what_the_numbers_mean(tmp_path: Path) -> None:
    rows = [judged(n, "response_1", "response_2", label=int(n % 2 == 0)) for n in NUMBERS]
    file = write_lines(tmp_path / "x.jsonl", rows)
    report, pairs = read(tmp_path, file, "verdict=label:0=first,1=second")
    assert pairs == [texts(n) for n in NUMBERS]
    assert report.sources[0].verdicts == ["verdicts in \"label\": 20 first ('0'), 20 second ('1'), 0 ties, 0 unusable"]


@pytest.mark.parametrize("values", [("+", "-"), ("A>B", "A<B"), ("\U0001f448", "\U0001f449")])
def test_values_that_a_person_gives_are_told_apart_by_symbols_too(tmp_path: Path, values: tuple[str, str]) -> None:
    rows = [judged(n, "a_answer", "b_answer", mark=values[n % 2 == 0]) for n in NUMBERS]
    given = f"first=a_answer,second=b_answer,verdict=mark:{values[0]}=first,{values[1]}=second"
    assert read(tmp_path, write_lines(tmp_path / "x.jsonl", rows), given)[1] == [texts(n) for n in NUMBERS]


def test_what_is_said_of_another_file_names_its_flags(tmp_path: Path) -> None:
    pairs = str(write_lines(tmp_path / "pairs.jsonl", [flat(n) for n in NUMBERS]))
    rows = [{"instruction": texts(n)[0], "output": texts(n)[1], "stars": n % 5} for n in NUMBERS]
    extra = str(write_lines(tmp_path / "stars.jsonl", rows))
    with pytest.raises(
        DataError, match="--demonstrations-columns ignored=stars, or give another --demonstrations-format"
    ):
        import_dataset(Sources(pairs, demonstrations=extra), tmp_path / "data")


def test_a_broken_line_is_one_odd_row(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(lines(flat) + b'{"prompt": "cut o')
    report, pairs = read(tmp_path, tmp_path / "x.jsonl")
    assert len(pairs) == 40
    assert report.sources[0].dropped["the line is not JSON"].rows == [41]


def test_one_blank_after_a_comma_is_taken_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("prompt, chosen, rejected\nWhy?,     y = x, b\nHow?, c, d\n")
    assert read(tmp_path, tmp_path / "x.csv")[1] == [("Why?", "    y = x", "b"), ("How?", "c", "d")]


def test_a_person_says_what_the_columns_hold(tmp_path: Path) -> None:
    rows = [{"q": texts(n)[0], "up": texts(n)[1], "down": texts(n)[2], "score": n, "by": n % 3} for n in NUMBERS]
    file = write_lines(tmp_path / "x.jsonl", rows)
    report, pairs = read(tmp_path, file, "prompt=q,chosen=up,rejected=down,annotator=by,ignored=score")
    assert pairs == [texts(n) for n in NUMBERS]
    assert report.sources[0].unread == ["score"]
    assert '"score' not in (tmp_path / "data" / "preferences.jsonl").read_text()
    assert "columns that were not read: score" in (tmp_path / "data" / "datasheet.md").read_text()


@pytest.mark.parametrize("label", ["label", "kto_tag"])
@pytest.mark.parametrize("words", [(True, False), (1, 0), ("good", "bad"), ("desirable", "undesirable")])
def test_answers_that_nobody_wanted_are_no_demonstrations(tmp_path: Path, label: str, words: tuple[Any, Any]) -> None:
    rows = [
        {"instruction": texts(n)[0], "input": "", "output": texts(n)[1 + n % 2], label: words[n % 2]} for n in NUMBERS
    ]
    pairs = write_lines(tmp_path / "pairs.jsonl", [flat(n) for n in NUMBERS])
    extra = str(write_lines(tmp_path / "kto.jsonl", rows))
    report = import_dataset(Sources(str(pairs), demonstrations=extra, labels=extra), tmp_path / "data")
    said = (tmp_path / "data" / "demonstrations.jsonl").read_text()
    assert "spoons" in said
    assert "knives" not in said
    assert report.counts == {"demonstrations": 20, "preferences": 40, "prompts": 40, "labels": 40}
    kept = rows_in(tmp_path / "data" / "labels.jsonl")
    assert all(row["label"] == ("spoons" in row["completion"][0]["content"]) for row in kept)


def test_texts_that_spell_lists_are_told_apart_by_their_owner(tmp_path: Path) -> None:
    rows = [{"instruction": texts(n)[0], "output": json.dumps(list(texts(n)[1:]))} for n in NUMBERS]
    (tmp_path / "best_first.csv").write_bytes(a_table(rows))
    pairs = str(write_lines(tmp_path / "pairs.jsonl", [flat(n) for n in NUMBERS]))
    sources = Sources(pairs, demonstrations=str(tmp_path / "best_first.csv"))
    with pytest.raises(DataError, match="spells a list, which may be one answer or several; give --demonst"):
        import_dataset(sources, tmp_path / "data")
    told = SourceOptions(columns=parse_columns("completion=output"))
    import_dataset(dataclasses.replace(sources, options={"demonstrations": told}), tmp_path / "data")
    assert rows_in(tmp_path / "data" / "demonstrations.jsonl")[0]["completion"][0]["content"] == rows[0]["output"]


def test_ties_are_kept_and_counted(tmp_path: Path) -> None:
    rows = [{**flat(n), "score_chosen": 8.0, "score_rejected": 5.0 if n > 4 else 8.0} for n in NUMBERS]
    report, pairs = read(tmp_path, write_lines(tmp_path / "x.jsonl", rows))
    assert pairs == [texts(n) for n in NUMBERS if n > 4]
    assert report.sources[0].composition == {"ties": 4, "pairs": 36}
    assert report.counts == {"demonstrations": 36, "preferences": 40, "prompts": 40}


def test_rankings_are_kept_whole(tmp_path: Path) -> None:
    rows = [{"prompt": texts(n)[0], "responses": ["c", "a", "b", "a2"], "ranks": [4, 1, 2, 1]} for n in NUMBERS]
    report, pairs = read(tmp_path, write_lines(tmp_path / "x.jsonl", rows))
    assert report.counts == {"demonstrations": 80, "preferences": 40, "prompts": 40}
    assert report.sources[0].composition == {"rankings": 40, "pairs of rankings": 200}
    assert pairs[:5] == [(texts(1)[0], better, worse) for better, worse in ["ac", "bc", ("a2", "c"), "ab", ("a2", "b")]]
    kept = rows_in(tmp_path / "data" / "preferences.jsonl")[0]
    assert (kept["ranks"], len(kept["responses"])) == ([3, 1, 2, 1], 4)


ODD: dict[str, tuple[Row, str]] = {
    "null": ({**flat(7), "rejected": None}, 'a field is missing (no "rejected")'),
    "an empty list": ({**flat(7), "rejected": []}, "the dialogue does not end with one answer of the assistant"),
    "a number": ({**flat(7), "rejected": 3}, 'something is neither text nor messages ("rejected" is a number)'),
    "another role": ({**flat(7), "rejected": [{"role": "tool", "content": "x"}]}, 'a role that is not known ("tool")'),
    "no text": ({**flat(7), "rejected": [{"role": "assistant"}]}, "a message lacks its role or its text"),
}


@pytest.mark.parametrize("name", ODD)
def test_one_odd_row_is_dropped_counted_and_named(tmp_path: Path, name: str) -> None:
    odd, reason = ODD[name]
    rows = [odd if n == 7 else flat(n) for n in NUMBERS]
    file = write_lines(tmp_path / "x.jsonl", rows)
    report, pairs = read(tmp_path, file)
    assert pairs == [texts(n) for n in NUMBERS if n != 7]
    assert reason in report.summary
    assert "lines 7" in report.summary
    with pytest.raises(DataError, match=r"1 of 40 rows \(2.5%\) cannot be understood or used, read as trl, and 1% are"):
        read(tmp_path / "again", file, max_dropped=0.01)


def test_text_is_kept_as_it_is_given(tmp_path: Path) -> None:
    said = ["    y = x\n    return y\n", " \u2028 a\x85b\x00c\r\n", "a\n\nHuman: b\n\nAssistant: c", "</s> <|end|>"]
    rows = [{"prompt": f"def f{n}():\n", "chosen": said[n % 4] + str(n), "rejected": said[n % 4]} for n in NUMBERS]
    rows[5]["chosen"] = "\n\nHuman: quoted\n\nAssistant: text"
    _, pairs = read(tmp_path, write_lines(tmp_path / "x.jsonl", rows))
    assert pairs == [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]


def test_a_quoted_dialogue_is_text(tmp_path: Path) -> None:
    rows = [flat(n) for n in NUMBERS]
    rows[20] = {**flat(21), "prompt": "\n\nHuman: I quote\n\nAssistant: this. Why?"}
    _, pairs = read(tmp_path, write_lines(tmp_path / "x.jsonl", rows))
    assert pairs[20] == (rows[20]["prompt"], *texts(21)[1:])


def test_the_form_is_the_files_when_a_person_says_so(tmp_path: Path) -> None:
    rows = [{**flat(n), "prompt": f"\n\nHuman: {n}\n\nAssistant:"} for n in NUMBERS]
    file = write_lines(tmp_path / "x.jsonl", rows)
    assert read(tmp_path / "a", file, format="trl")[1][0][0] == "\n\nHuman: 1\n\nAssistant:"
    assert read(tmp_path / "b", file, format="hh")[1][0][0] == "1"


def test_a_column_that_comes_late_and_looks_like_a_verdict_is_refused(tmp_path: Path) -> None:
    rows = [flat(1 + n % 40) for n in range(1200)]
    rows[1100] = {**rows[1100], "rating": 1}
    with pytest.raises(DataError, match='not understood: "rating"'):
        read(tmp_path, write_lines(tmp_path / "x.jsonl", rows))


def test_one_row_is_shown_as_it_will_be_used(tmp_path: Path) -> None:
    report, _ = read(tmp_path, write_lines(tmp_path / "x.jsonl", [flat(n) for n in NUMBERS]))
    assert report.sources[0].example == (
        "x.jsonl:1 as it will be used:",
        "  user: Question 1?",
        "  chosen: Take 1 spoons.",
        "  rejected: Use 1 knives.",
    )
