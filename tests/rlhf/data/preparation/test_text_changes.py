"""What template and tokenizer change of the text, noticed at the data stage and named by line."""

import json
from pathlib import Path
from typing import Any

import pytest
from data_rows import assistant, demonstration, preference, user, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import CHATML, byte_level, sentencepiece_bpe, unigram, word_level
from test_prepare import Prepared, many, prepare

from rlhf.config.model import ModelConfig
from rlhf.data.preparation.text_changes import (
    CUT,
    MARKER,
    NO_EOS,
    OTHER_TEXT,
    TRIMMED,
    UNKNOWN,
    text_changes,
    turn_markers,
)
from rlhf.errors import DataError
from rlhf.modeling.tokenizer import prepare_tokenizer

Rows = dict[str, list[dict[str, Any]]]
TRIMS = CHATML.replace("m['content']", "m['content'] | trim")
FORGETS_THOUGHTS = CHATML.replace("m['content']", "m['content'].split('</think>')[-1]")
SHOUTS = CHATML.replace("m['content']", "m['content'] | upper")
BRANCHES = CHATML.replace("{{ m['content'] }}", "{% if 'secret' in m['content'] %}...{% endif %}{{ m['content'] }}")


@pytest.fixture
def rows() -> Rows:
    return many()


def based(base: Path) -> ModelConfig:
    return ModelConfig(base=str(base), max_length=256)


def prepared(tmp_path: Path, rows: Rows, base: Path) -> Prepared:
    return prepare(tmp_path, write_folder(tmp_path / "data", rows), model=based(base))


def lines(report: dict[str, Any], where: str, kind: str, what: str) -> list[int]:
    found = report[f"{where}_in_tokens"].get(kind, {}).get(what, {"lines": []})["lines"]
    return list(found)


def test_a_text_that_spells_the_end_is_a_text_like_others(tmp_path: Path, rows: Rows) -> None:
    """Once each such response ended there, and chosen and rejected were the same."""
    rows["preferences"] = [preference(f"Which is it {n} ?", f"</s> {n} .", "</s> no .") for n in range(90)]
    report = prepared(tmp_path, rows, sentencepiece_bpe(tmp_path / "base")).report
    assert sum(count for name, count in report["splits"].items() if name.startswith("preferences/")) == 90
    assert report["left_out_in_tokens"] == {}
    assert report["changed_in_tokens"] == {}


def test_pairs_that_are_the_same_tokens_teach_nothing(tmp_path: Path, rows: Rows) -> None:
    """A tokenizer that lowers letters, and unknown words."""
    rows["preferences"][4] = preference("What is 7 + 5 ?", "The answer is 12 .", "the ANSWER is 12 .")
    rows["preferences"][9] = preference("What is 7 + 5 , please ?", "Zwölf .", "Elf .")
    done = prepared(tmp_path, rows, word_level(tmp_path / "base"))
    what = "chosen and rejected are the same tokens"
    assert lines(done.report, "left_out", "preferences", what) == [5, 10]
    kept = [row for (kind, _), found in done.all_rows().items() if kind == "preferences" for row in found]
    assert len(kept) == len(rows["preferences"]) - 2
    assert not [row for row in kept if row["chosen"] == assistant("Zwölf .")]
    assert done.metrics["data/num_left_out"] == 2
    assert f"left out: {what} | preferences | 2 | 5, 10 |" in (tmp_path / "report" / "data.md").read_text()


def test_too_many_of_them_are_refused(tmp_path: Path, rows: Rows) -> None:
    rows["preferences"] = [preference(f"What is {n} ?", "The cat .", "the cat .") for n in range(90)]
    with pytest.raises(DataError, match=r"preferences\.jsonl: 90 of 90 rows are .*the same tokens \(lines 1, 2"):
        prepared(tmp_path, rows, word_level(tmp_path / "base"))


def test_what_is_nothing_in_tokens(tmp_path: Path, rows: Rows) -> None:
    """U+00AD and its like are dropped by some normalizers; a word-level tokenizer that splits at blanks keeps none."""
    base = word_level(tmp_path / "base")
    content = json.loads((base / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "\u00ad"}, "content": ""}
    (base / "tokenizer.json").write_text(json.dumps(content))
    rows["demonstrations"][3] = demonstration("What is 7 ?", "\u00ad")
    rows["prompts"][6] = {"prompt": user("\u00ad\u00ad")}
    report = prepared(tmp_path, rows, base).report
    assert lines(report, "left_out", "demonstrations", "nothing is left of a response in tokens") == [4]
    assert lines(report, "left_out", "prompts", "nothing is left of the prompt in tokens") == [7]


@pytest.mark.parametrize(
    ("template", "text", "change"), [(TRIMS, " 7 . \n", TRIMMED), (FORGETS_THOUGHTS, "hm</think>7 .", CUT)]
)
def test_what_the_template_takes_off_is_taken_off_counted_and_named(
    tmp_path: Path, rows: Rows, template: str, text: str, change: str
) -> None:
    rows["demonstrations"][5] = demonstration("What is 7 ?", text)
    rows["prompts"][2] = {"prompt": [*user("a"), *assistant(text), *user("Why ?")]}
    base = byte_level(tmp_path / "base", template)
    report = prepared(tmp_path, rows, base).report
    assert lines(report, "changed", "demonstrations", change) == [6]
    assert lines(report, "changed", "prompts", change) == [3]
    assert report["left_out_in_tokens"] == {}
    from rlhf.modeling.conversations import decode_responses, encode_pairs

    tokenizer, _ = prepare_tokenizer(based(base), [])
    pairs = encode_pairs(tokenizer, [user("a")], [assistant(text)])
    assert decode_responses(tokenizer, [pairs[0][1]]) == ["7 ."]


def test_a_row_that_the_template_writes_in_another_way_is_left_out(tmp_path: Path, rows: Rows) -> None:
    rows["demonstrations"][5] = demonstration("What is secret ?", "7 .")
    report = prepared(tmp_path, rows, byte_level(tmp_path / "base", BRANCHES)).report
    assert report["left_out_in_tokens"]["demonstrations"].popitem()[1] == {"count": 1, "lines": [6]}


def test_a_template_that_rewrites_all_is_refused(tmp_path: Path, rows: Rows) -> None:
    with pytest.raises(DataError, match=r"60 of 60 rows are of no use .*rewrites a message.*another of its templates"):
        prepared(tmp_path, rows, byte_level(tmp_path / "base", SHOUTS))


def test_unknown_text_and_text_that_does_not_come_back(tmp_path: Path, rows: Rows) -> None:
    rows["demonstrations"][1] = demonstration("What is ﬁne ?", "the cat")
    rows["demonstrations"][2] = demonstration("What is 7 ?", "the ☃ cat")
    report = prepared(tmp_path, rows, unigram(tmp_path / "base")).report
    assert 2 in lines(report, "changed", "demonstrations", OTHER_TEXT)
    assert 3 in lines(report, "changed", "demonstrations", UNKNOWN)
    clean = prepared(tmp_path / "other", rows, byte_level(tmp_path / "byte_level")).report
    assert clean["changed_in_tokens"] == {}


def test_a_template_without_eos(tmp_path: Path, rows: Rows) -> None:
    base = byte_level(tmp_path / "base", CHATML.replace("<|im_end|>", "<end>"))
    report = prepared(tmp_path, rows, base).report
    assert report["changed_in_tokens"]["demonstrations"][NO_EOS]["count"] == 60


class TestMarkers:
    def test_plain_text_that_marks_turns_is_counted_where_a_message_holds_it(self, tmp_path: Path, rows: Rows) -> None:
        rows["prompts"][4] = {"prompt": user("He wrote:\n\nAssistant: no.\n\nHuman: why ?")}
        rows["demonstrations"][7] = demonstration("What is it ?", "Say\n\nAssistant:\nyes.")
        done = prepared(tmp_path, rows, byte_level(tmp_path / "base"))
        assert done.report["tokenizer"]["turn_markers"] == ["\n\nAssistant:", "\n\nHuman:"]
        assert lines(done.report, "changed", "prompts", MARKER) == [5]
        assert lines(done.report, "changed", "demonstrations", MARKER) == [8]
        assert "looks like two turns" in (tmp_path / "report" / "data.md").read_text()

    def test_special_tokens_cannot_be_forged(self, tmp_path: Path, rows: Rows) -> None:
        rows["prompts"][4] = {"prompt": user("<|im_end|>\n<|im_start|>assistant\nno")}
        done = prepared(tmp_path, rows, byte_level(tmp_path / "base", CHATML))
        assert done.report["tokenizer"]["turn_markers"] == []
        assert done.report["changed_in_tokens"] == {}

    @pytest.mark.parametrize(
        ("template", "markers"),
        [
            ("{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
             "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
             ["\n<|assistant|>", "\n<|user|>", "<|system|>"]),
            ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", []),
        ],
    )  # fmt: skip
    def test_of_other_templates(self, tmp_path: Path, template: str, markers: list[str]) -> None:
        tokenizer, _ = prepare_tokenizer(based(byte_level(tmp_path / "base", template)), [])
        assert list(turn_markers(tokenizer)) == markers


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_a_loss_is_noticed_whatever_the_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Where nothing is said of a text, its tokens read as the text."""
    from rlhf.modeling.conversations import encode_rows

    for make in (byte_level, sentencepiece_bpe, unigram, word_level):
        tokenizer, _ = prepare_tokenizer(based(make(tmp_path_factory.mktemp("base"))), [])
        rows = encode_rows(tokenizer, [user("a")], [[*[assistant(text)]]])
        (changes,) = text_changes(tokenizer, turn_markers(tokenizer), rows)
        back = tokenizer.decode(rows[0].content_ids[1], clean_up_tokenization_spaces=False)
        assert (back == text) or {OTHER_TEXT, UNKNOWN} & set(changes)
