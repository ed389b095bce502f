import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from data_rows import assistant, demonstration, preference, user, write_folder, write_lines

from rlhf.data.importing.formats import FORMATS, ImportReport, Sources, import_dataset
from rlhf.data.importing.reading import SourceOptions
from rlhf.data.schema import validate_folder
from rlhf.errors import DataError

SYSTEM = {"role": "system", "content": "Be brief."}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How are you?\n\nAssistant: Fine",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How are you?\n\nAssistant: Human: no",
}
HH_PROMPT = [*user("Hi"), *assistant("Hello"), *user("How are you?")]
PAIR = {"chosen": assistant("Yes"), "rejected": assistant("No")}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs_of(report: ImportReport) -> list[dict[str, Any]]:
    rows = read(report.destination / "preferences.jsonl")
    return [{name: value for name, value in row.items() if name != "source"} for row in rows]


PREFERENCES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Anthropic's dialogues": (
        "hh",
        HH,
        {"prompt": HH_PROMPT, "chosen": assistant("Fine"), "rejected": assistant("Human: no")},
    ),
    "Alpaca with two outputs": (
        "alpaca",
        {"instruction": "Add", "input": "1 1", "chosen": "Yes", "rejected": "No"},
        {"prompt": user("Add\n\n1 1"), **PAIR},
    ),
    "ShareGPT": (
        "sharegpt",
        {
            "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Yes"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        {"prompt": [SYSTEM, *user("Hi")], **PAIR},
    ),
    "ShareGPT with a system field": (
        "sharegpt",
        {
            "system": "Be brief.",
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Yes"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        {"prompt": [SYSTEM, *user("Hi")], **PAIR},
    ),
    "TRL, explicit and conversational": ("trl", {"prompt": user("Hi"), **PAIR}, {"prompt": user("Hi"), **PAIR}),
    "TRL, implicit prompt": (
        "trl",
        {"chosen": [*user("Hi"), *assistant("Yes")], "rejected": [*user("Hi"), *assistant("No")]},
        {"prompt": user("Hi"), **PAIR},
    ),
    "TRL, plain text": (
        "trl",
        {"prompt": "Hi", "chosen": " Yes", "rejected": " No"},
        {"prompt": user("Hi"), "chosen": assistant(" Yes"), "rejected": assistant(" No")},
    ),
    "UltraFeedback: a prompt and whole dialogues": (
        "trl",
        {"prompt": "Hi", "chosen": [*user("Hi"), *assistant("Yes")], "rejected": [*user("Hi"), *assistant("No")]},
        {"prompt": user("Hi"), **PAIR},
    ),
    "a dialogue as prompt, answers apart": (
        "hh",
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": " Yes", "rejected": " No"},
        {"prompt": user("Hi"), **PAIR},
    ),
    "TRL with all that is optional": (
        "trl",
        {
            "prompt": "Hi",
            "chosen": "Yes",
            "rejected": "No",
            "margin": 2,
            "annotator": "a",
            "criteria": "c",
            "more": 1,
            "probability": 0.9,
        },
        {"prompt": user("Hi"), **PAIR, "margin": 2.0, "annotator": "a", "criteria": "c", "probability": 0.9},
    ),
    "a judge's verdict": (
        "judgments",
        {"instruction": "Hi", "output_1": "No", "output_2": "Yes", "preference": 2, "annotator": "judge"},
        {"prompt": user("Hi"), **PAIR, "annotator": "judge"},
    ),
    "a verdict on an input without instruction": (
        "judgments",
        {"input": "Hi", "output_1": "No", "output_2": "Yes", "label": 2},
        {"prompt": user("Hi"), **PAIR},
    ),
    "a verdict of an annotator": (
        "judgments",
        {"instruction": "Hi", "input": "", "response1": "No", "response2": "Yes", "annotator1": 2},
        {"prompt": user("Hi"), **PAIR, "annotator": "annotator1"},
    ),
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_finds_out_the_format_and_reads_it(tmp_path: Path, name: str) -> None:
    format_name, row, expected = PREFERENCES[name]
    report = import_dataset(str(write_lines(tmp_path / "theirs.jsonl", [row])), tmp_path / "data")
    assert report.sources[0].form.format == format_name
    assert f"format {format_name} (recognized by its fields)" in report.summary
    assert pairs_of(report) == [expected]
    assert validate_folder(tmp_path / "data") == {"demonstrations": 1, "preferences": 1, "prompts": 1}


DEMONSTRATIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "alpaca": ({"instruction": "Hi", "input": "", "output": "Yes"}, [demonstration("Hi", "Yes")]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
        [demonstration("Hi", "Yes")],
    ),
    "trl": ({"messages": [*user("Hi"), *assistant("Yes")]}, [demonstration("Hi", "Yes")]),
    "trl with an empty column": (
        {"prompt": "Hi", "completion": "Yes", "chosen": None, "label": None},
        [demonstration("Hi", "Yes")],
    ),
    "kto": ({"messages": [*user("Hi"), *assistant("Yes")], "label": True}, [demonstration("Hi", "Yes")]),
    "qa": ({"question": "Hi", "answer": "Yes"}, [demonstration("Hi", "Yes")]),
    "self_instruct": (
        {"instruction": "Add", "instances": [{"input": "1", "output": "a"}, {"input": "", "output": "b"}]},
        [demonstration("Add\n\n1", "a"), demonstration("Add", "b")],
    ),
}


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_takes_demonstrations_from_a_file_of_their_own(tmp_path: Path, name: str) -> None:
    row, expected = DEMONSTRATIONS[name]
    pairs = write_lines(tmp_path / "pairs.jsonl", [preference()])
    extra = write_lines(tmp_path / "extra.jsonl", [row])
    report = import_dataset(Sources(str(pairs), demonstrations=str(extra)), tmp_path / "data")
    assert report.sources[1].form.format == name.split()[0]
    assert read(tmp_path / "data" / "demonstrations.jsonl") == expected
    assert read(tmp_path / "data" / "prompts.jsonl") == [{"prompt": preference()["prompt"]}]


@pytest.mark.parametrize(
    "row", [{"prompt": "Hi"}, {"prompt": "\n\nHuman: Hi\n\nAssistant:"}, {"question": "Hi", "answer": "Yes"}]
)
def test_takes_prompts_from_anything_that_has_them(tmp_path: Path, row: dict[str, Any]) -> None:
    pairs = write_lines(tmp_path / "pairs.jsonl", [preference()])
    extra = write_lines(tmp_path / "extra.jsonl", [row])
    import_dataset(Sources(str(pairs), prompts=str(extra)), tmp_path / "data")
    assert read(tmp_path / "data" / "prompts.jsonl") == [{"prompt": user("Hi")}]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows).encode()


FILES: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "x.jsonl": as_lines,
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + as_lines(rows),
    "x.jsonl.gz": lambda rows: gzip.compress(as_lines(rows)),
    "x.json": lambda rows: json.dumps(rows).encode(),
    "x.json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    "x.csv": as_csv,
    "X.CSV.GZ": lambda rows: gzip.compress(as_csv(rows)),
    "x.parquet": as_parquet,
}


@pytest.mark.parametrize("name", FILES)
def test_reads_files_of_every_kind(tmp_path: Path, name: str) -> None:
    rows = [
        {"prompt": "Größe?\nIn m,", "chosen": '"2"', "rejected": "3", "margin": "0.5", "criteria": "true"},
        {"prompt": "B " * 70_000, "chosen": "2", "rejected": "3", "margin": None, "criteria": None},
    ]
    (tmp_path / name).write_bytes(FILES[name](rows))
    report = import_dataset(str(tmp_path / name), tmp_path / "data")
    first, second = pairs_of(report)
    assert first == preference("Größe?\nIn m,", '"2"', "3") | {"margin": 0.5, "criteria": "true"}
    assert second == preference("B " * 70_000, "2", "3")


def test_reads_a_folder_with_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_lines(tmp_path / "set" / "train.jsonl", [{"prompt": "Hi", "chosen": "Yes", "rejected": "No"}])
    write_lines(tmp_path / "set" / "test.jsonl", [{"prompt": "Ho", "chosen": "Yes", "rejected": "No"}])
    report = import_dataset(
        Sources(str(tmp_path / "set"), options={"preferences": SourceOptions(split="test")}), tmp_path / "data"
    )
    assert pairs_of(report) == [{"prompt": user("Ho"), **PAIR}]
    assert report.sources[0].source.name == "set"


def test_a_corpus_of_a_folder_comes_along_as_it_is(tmp_path: Path, data_folder: Path) -> None:
    corpus = data_folder / "corpus.jsonl"
    write_lines(corpus, [{"text": "Once upon a time."}, {"text": "The end.", "source": "s"}])
    report = import_dataset(str(data_folder), tmp_path / "out")
    assert report.counts["corpus"] == 2
    assert (tmp_path / "out" / "corpus.jsonl").read_bytes() == corpus.read_bytes()
    assert validate_folder(tmp_path / "out")["corpus"] == 2
    write_lines(corpus, [{"txt": "Once upon a time."}])
    with pytest.raises(DataError, match=r'corpus.jsonl:1: the field "text" is missing'):
        import_dataset(str(data_folder), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_reads_a_folder_in_our_own_layout(tmp_path: Path, data_folder: Path) -> None:
    import_dataset(str(data_folder), tmp_path / "data")
    for kind in ("demonstrations", "prompts"):
        assert read(tmp_path / "data" / f"{kind}.jsonl") == read(data_folder / f"{kind}.jsonl")


def test_reads_our_own_rankings_and_labels_again(tmp_path: Path) -> None:
    ranking = {"prompt": user("C"), "responses": [assistant("x"), assistant("y"), assistant("z")], "ranks": [2, 1, 2]}
    tie = {"prompt": user("D"), "responses": [assistant("x"), assistant("y")], "ranks": [1, 1], "annotator": "a"}
    rows = [{**row, "source": "s"} for row in (preference("A"), ranking, tie, preference("B"))]
    given = write_folder(
        tmp_path / "given",
        {"demonstrations": [demonstration()], "preferences": rows, "prompts": [{"prompt": user("Hi")}]},
    )
    labels = [{**demonstration(), "label": label, "source": "s"} for label in (True, False)]
    write_lines(given / "labels.jsonl", labels)
    assert validate_folder(given) == {"demonstrations": 1, "preferences": 4, "prompts": 1, "labels": 2}
    report = import_dataset(str(given), tmp_path / "data")
    assert read(tmp_path / "data" / "preferences.jsonl") == rows
    assert read(tmp_path / "data" / "labels.jsonl") == labels
    assert report.sources[0].composition == {"pairs": 2, "rankings": 1, "pairs of rankings": 2, "ties": 1}


def test_takes_demonstrations_and_prompts_from_the_pairs(tmp_path: Path) -> None:
    pairs = write_lines(tmp_path / "theirs.v2.jsonl", [preference("A", "x", "y"), preference("B", "y", "x")])
    report = import_dataset(str(pairs), tmp_path / "data")
    assert read(tmp_path / "data" / "demonstrations.jsonl") == [demonstration("A", "x"), demonstration("B", "y")]
    assert read(tmp_path / "data" / "prompts.jsonl") == [{"prompt": user("A")}, {"prompt": user("B")}]
    datasheet = (tmp_path / "data" / "datasheet.md").read_text()
    for sentence in report.derived:
        assert sentence in datasheet
    assert "the chosen responses" in datasheet
    assert {row["source"] for row in read(tmp_path / "data" / "preferences.jsonl")} == {"theirs"}


def test_drops_counts_and_names_what_cannot_be_used(tmp_path: Path) -> None:
    other = {**HH, "rejected": HH["rejected"].replace("Hi", "Ho")}
    empty = {**HH, "rejected": HH["rejected"].replace("Human: no", " ")}
    same = {**HH, "rejected": HH["chosen"]}
    unanswered = {**HH, "chosen": "\n\nHuman: Hi"}
    source = write_lines(tmp_path / "hh.jsonl", [HH, other, empty, other, same, unanswered])
    report = import_dataset(anything_goes(source), tmp_path / "data")
    dropped = {reason: found.rows for reason, found in report.sources[0].dropped.items()}
    assert dropped == {
        "the contexts of chosen and rejected differ": [2, 4],
        "a response is empty": [3],
        "chosen and rejected are the same text": [5],
        "the dialogue does not end with one answer of the assistant": [6],
    }
    assert report.counts["preferences"] == 1
    expected = "hh.jsonl: 2 left out, because the contexts of chosen and rejected differ: lines 2, 4"
    assert expected in (tmp_path / "data" / "datasheet.md").read_text()
    assert "2 left out, because the contexts of chosen and rejected differ: lines 2, 4" in report.summary


def anything_goes(source: Path) -> Sources:
    return Sources(str(source), options={"preferences": SourceOptions(max_dropped=1.0)})


def test_names_no_more_rows_than_a_person_reads(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "same.jsonl", [*[preference("A", "x", "x")] * 60, preference()])
    import_dataset(anything_goes(source), tmp_path / "data")
    assert "49, 50 and 10 more" in (tmp_path / "data" / "datasheet.md").read_text()


def test_says_that_unpaired_feedback_was_halved(tmp_path: Path) -> None:
    kto = {"messages": [*user("Hi"), *assistant("Yes")]}
    extra = write_lines(tmp_path / "kto.jsonl", [kto | {"label": True}, kto | {"label": False}])
    pairs = write_lines(tmp_path / "pairs.jsonl", [preference()])
    report = import_dataset(Sources(str(pairs), demonstrations=str(extra)), tmp_path / "data")
    assert report.counts["demonstrations"] == 1
    assert "only the responses marked as wanted were taken" in report.summary


def test_writes_licence_and_guidelines_into_the_datasheet(tmp_path: Path) -> None:
    pairs = write_lines(tmp_path / "pairs.jsonl", [preference()])
    import_dataset(str(pairs), tmp_path / "data", licence="MIT", guidelines="Prefer the true answer.\n")
    datasheet = (tmp_path / "data" / "datasheet.md").read_text()
    assert datasheet.endswith("## Annotation guidelines\nPrefer the true answer.\n\n## Licence\nMIT\n")


def test_the_same_file_gives_the_same_bytes_anywhere(
    tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    for place in ("here", "there"):
        source = write_lines(tmp_path / place / "pairs.jsonl", [preference(), preference("B")])
        import_dataset(str(source), tmp_path / place / "data")
    assert contents(tmp_path / "here" / "data") == contents(tmp_path / "there" / "data")
    assert str(tmp_path) not in (tmp_path / "here" / "data" / "datasheet.md").read_text()


def test_replaces_other_data_only_when_told_to(tmp_path: Path, contents: Callable[[Path], dict[str, bytes]]) -> None:
    first = str(write_lines(tmp_path / "a.jsonl", [preference("A")]))
    second = str(write_lines(tmp_path / "b.jsonl", [preference("B")]))
    data = tmp_path / "project" / "data"
    assert import_dataset(first, data).changed
    before = contents(data)
    assert not import_dataset(first, data).changed
    with pytest.raises(DataError, match=r"data: the folder holds other data; give --replace"):
        import_dataset(second, data)
    assert contents(data) == before
    assert import_dataset(second, data, replace=True).changed
    assert read(data / "prompts.jsonl") == [{"prompt": user("B")}]
    assert [path.name for path in data.parent.iterdir()] == ["data"]


BAD: dict[str, tuple[str, bytes, str]] = {
    "empty": ("x.jsonl", b"", "x.jsonl: the file is empty"),
    "no rows": ("x.json", b"[]", "x.json: there are no rows"),
    "not JSON": ("x.jsonl", as_lines([HH]) + b"{\n", r"1 of 2 rows \(50.0%\) .* the line is not JSON"),
    "not UTF-8": ("x.jsonl", as_lines([HH]) + b"\xff\n", r"the line is not UTF-8 \(byte 1 is 0xff\): lines 2"),
    "CSV that is not UTF-8": (
        "x.csv",
        b"prompt,chosen\na,b\n\xe9,b\n",
        r"x.csv:3: byte 19 of the file \(0xe9\)",
    ),
    "CSV row too long": (
        "x.csv",
        b"prompt,chosen,rejected\na,b,c,d\n",
        r"x.csv: there are no rows \(row 1: the row has not as many cells as the header \(4 and not 3\)\)",
    ),
    "CSV row too short": ("x.csv", b"prompt,chosen,rejected\na,b\n", r"there are no rows .*\(2 and not 3\)"),
    "CSV header with a name twice": ("x.csv", b"prompt,chosen,chosen\na,b,c\n", 'the header names "chosen" twice'),
    "CSV with an open quote": ("x.csv", b'prompt,chosen,rejected\n"a,b,c\n', "is not CSV"),
    "one object": ("x.json", b"{}", "x.json: the file is not a list"),
    "two lists": ("x.json", b'{"train": [{}], "test": [{}, {}]}', "an object with 'train', 'test'; give a list"),
    "a list of texts": ("x.json", b'["a"]', r"there are no rows \(row 1: the row is not an object \(text\)\)"),
    "lines in .json": ("x.json", as_lines([HH, HH]), "x.json: the file is not JSON .* name it .jsonl"),
    "broken archive": (
        "x.jsonl.gz",
        gzip.compress(as_lines([HH] * 99))[:-20],
        "x.jsonl.gz: the file cannot be unpacked",
    ),
    "no archive": ("x.jsonl.gz", b"hello", "x.jsonl.gz: the file cannot be unpacked"),
    "no Parquet": ("x.parquet", b"hello", "x.parquet: the file cannot be read as Parquet"),
    "unknown ending": ("x.xlsx", b"a\tb", "files ending with .xlsx are not read; give .jsonl, .ndjson, .json, .csv"),
    "unknown fields": (
        "x.jsonl",
        as_lines([{"a": 1}]),
        '"a" are in no known format; none of the fields is known; give',
    ),
    "mistyped field": (
        "x.jsonl",
        as_lines([{"prompt": "a", "chosen": "b", "reject": "c"}]),
        r'known fields: "prompt", "chosen"; similar to a known field: "reject" \(did you mean "rejected"\?\)',
    ),
    "field missing": (
        "x.jsonl",
        as_lines([HH, {"chosen": HH["chosen"]}]),
        r'x.jsonl: 1 of 2 rows \(50.0%\) .* 1 because a field is missing \(no "rejected"\): lines 2; correct the file',
    ),
    "field of another type": ("x.jsonl", as_lines([HH, HH | {"chosen": 3}]), '"chosen" is a number.: lines 2'),
    "another format further down": (
        "x.jsonl",
        as_lines([HH, HH, HH, preference()]),
        r'75% of the texts in "chosen" start with a turn .* give --format hh or --format trl',
    ),
    "no turns": ("x.jsonl", as_lines([HH, HH | {"chosen": "Hi"}]), '"chosen" starts with .Hi..: lines 2'),
    "prompts among pairs": ("x.jsonl", as_lines([HH, {"prompt": "Hi"}]), 'no "chosen".: lines 2'),
    "bad margin": (
        "x.jsonl",
        as_lines([preference() | {"margin": -1}]),
        r'the field "margin" is not a finite number of at least 0 \(-1\): lines 1',
    ),
    "half a surrogate pair": (
        "x.jsonl",
        b'{"prompt": "a", "chosen": "\\ud83d", "rejected": "b"}\n',
        "half of a surrogate pair: lines 1",
    ),
    "nothing left": ("x.jsonl", as_lines([HH | {"rejected": HH["chosen"]}]), r"no row is left \(1 because chosen and"),
    "nothing but ties": (
        "x.jsonl",
        as_lines([{"prompt": "a", "response_1": "b", "response_2": "c", "winner": "tie"}]),
        r"no row is left \(1 are ties\)",
    ),
    "demonstrations only": (
        "x.jsonl",
        as_lines([{"question": "a", "answer": "b"}]),
        "x.jsonl: the file holds demonstrations and no preferences, .* give this file with --demonstrations",
    ),
    "prompts only": ("x.jsonl", as_lines([{"prompt": "a"}]), 'known fields: "prompt"; give --format'),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("there_already", [False, True])
def test_a_bad_file_is_named_and_nothing_is_written(
    tmp_path: Path, contents: Callable[[Path], dict[str, bytes]], name: str, there_already: bool
) -> None:
    file, content, message = BAD[name]
    (tmp_path / file).write_bytes(content)
    data = tmp_path / "project" / "data"
    data.parent.mkdir()
    if there_already:
        write_folder(data, {kind: [demonstration()] for kind in ("demonstrations", "preferences", "prompts")})
    before = contents(data.parent)
    with pytest.raises(DataError, match=message):
        import_dataset(str(tmp_path / file), data, replace=True)
    assert contents(data.parent) == before
    assert [path.name for path in data.parent.iterdir()] == (["data"] if there_already else [])


def test_a_preference_file_is_no_file_of_demonstrations(tmp_path: Path) -> None:
    pairs = str(write_lines(tmp_path / "pairs.jsonl", [preference()]))
    with pytest.raises(DataError, match=r"pairs.jsonl: the file holds preferences, no demonstrations"):
        import_dataset(Sources(pairs, demonstrations=pairs), tmp_path / "data")


@pytest.mark.parametrize("source", ["nowhere.jsonl", "folder/nowhere.jsonl", "word", "a/b/c"])
def test_names_a_missing_file(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=rf"{source}: there is no such file; give a file \(.jsonl"):
        import_dataset(source, tmp_path / "data")


def test_an_empty_name_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="an empty name was given for a file"):
        import_dataset("", tmp_path / "data")


def test_says_when_the_hub_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        DataError, match=r"organization/name: .* the hub gives no such data set .*; give another path or hub id"
    ):
        import_dataset("organization/name", tmp_path / "data")


def test_names_an_unknown_format(tmp_path: Path) -> None:
    assert FORMATS[0] == "auto"
    with pytest.raises(DataError, match="--format xml: there is no such format; give one of auto, trl, hh"):
        import_dataset(as_format(Path("x.jsonl"), "xml"), tmp_path / "data")


def as_format(source: Path, name: str) -> Sources:
    return Sources(str(source), options={"preferences": SourceOptions(name)})


def test_a_told_format_is_not_guessed_at(tmp_path: Path) -> None:
    row = {"question": "a", "answer": "b"}
    extra = write_lines(tmp_path / "qa.jsonl", [row])
    with pytest.raises(DataError, match="holds demonstrations and no preferences"):
        import_dataset(as_format(extra, "qa"), tmp_path / "data")
    with pytest.raises(DataError, match=r"qa.jsonl: the fields .* do not make rows of the format sharegpt"):
        import_dataset(as_format(extra, "sharegpt"), tmp_path / "data")
