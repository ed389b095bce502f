"""The real files: public data that nobody on this project wrote."""

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from data_rows import user

from rlhf.config.data import DataConfig
from rlhf.config.model import ModelConfig
from rlhf.data.importing.formats import Sources, import_dataset
from rlhf.data.preparation.leaks import find_leaks
from rlhf.data.preparation.prepare import NEEDED, prepare_data
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import is_tie, pairs_of, read_rows, validate_folder
from rlhf.data.versions.resolve import resolve
from rlhf.workspace import Workspace


def raw(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def hh(real_data: Path) -> Path:
    return real_data / "preference" / "hh_harmless_base_test.jsonl.gz"


@pytest.fixture(scope="module")
def hh_prompts(real_data: Path) -> Path:
    return real_data / "sft" / "hh_prompts_harmless_20k.jsonl.gz"


def test_anthropics_file_with_its_bad_rows(tmp_path: Path, hh: Path) -> None:
    report = import_dataset(str(hh), tmp_path / "data")
    assert (report.sources[0].form.format, report.sources[0].num_read) == ("hh", 2312)
    assert {reason: found.rows for reason, found in report.sources[0].dropped.items()} == {
        "a response is empty": [87, 517, 926, 1104],
        "the contexts of chosen and rejected differ": [1255, 1689, 1951, 1953, 2037],
    }
    assert validate_folder(tmp_path / "data") == dict.fromkeys(("demonstrations", "preferences", "prompts"), 2303)
    datasheet = (tmp_path / "data" / "datasheet.md").read_text()
    assert "they are the chosen responses of the preferences" in datasheet
    assert "ebfaaed21162a4de120ae85366075b34425e2a6303fac59b99555002f7016f03" in datasheet
    assert "lines 1255, 1689, 1951, 1953, 2037" in datasheet


def test_no_text_of_a_dialogue_is_lost(tmp_path: Path, hh: Path) -> None:
    import_dataset(str(hh), tmp_path / "data")
    bad = {87, 517, 926, 1104, 1255, 1689, 1951, 1953, 2037}
    originals = [row for number, row in enumerate(raw(hh), start=1) if number not in bad]
    imported = [row for _, row in read_rows(tmp_path / "data" / "preferences.jsonl", "preferences")]
    names = {"user": "Human", "assistant": "Assistant"}
    for original, row in zip(originals, imported, strict=True):
        for side in ("chosen", "rejected"):
            text = "".join(f"\n\n{names[m['role']]}: {m['content']}" for m in [*row["prompt"], *row[side]])
            assert text.split() == original[side].split()


FILES = {
    "preference/llamafactory_dpo_en_demo.jsonl.gz": ("sharegpt", 300, {"pairs": 300}),
    "preference/llmbar_natural.jsonl.gz": ("judgments", 100, {"pairs": 100}),
    "eval/alpacaeval1_alpaca-7b_gpt4_annotations.jsonl.gz": ("judgments", 805, {"pairs": 789, "ties": 16}),
    "preference/finegrained_rlhf_dev_feedback.jsonl.gz": (
        "finegrained",
        610,
        # 30 rows whose six verdicts contradict each other are kept as single verdicts.
        {"pairs": 72, "ties": 72, "rankings": 466, "pairs of rankings": 2544},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_preferences_in_other_conventions(tmp_path: Path, real_data: Path, name: str) -> None:
    report = import_dataset(str(real_data / name), tmp_path / "data")
    source = report.sources[0]
    assert (source.form.format, report.counts["preferences"], source.composition) == FILES[name]
    assert validate_folder(tmp_path / "data")["preferences"] == FILES[name][1]


def test_rankings_of_four_keep_their_ties(tmp_path: Path, real_data: Path) -> None:
    """384 of 3,000 verdicts are ties; the others of a question never go round in a circle."""
    import_dataset(str(real_data / "preference" / "finegrained_rlhf_dev_feedback.jsonl.gz"), tmp_path / "data")
    rows = [row for _, row in read_rows(tmp_path / "data" / "preferences.jsonl", "preferences")]
    pairs = [pair for row in rows for pair in pairs_of(row, with_ties=True)]
    num_ties = sum(is_tie(pair) for pair in pairs)
    assert (len(pairs) - num_ties, num_ties) == (2616, 384)
    better: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for pair in pairs:
        if not is_tie(pair):
            better[prompt_key(pair["prompt"])].add((pair["chosen"][0]["content"], pair["rejected"][0]["content"]))
    chains = [(wins, a, c) for wins in better.values() for a, b in wins for middle, c in wins if b == middle]
    assert len(chains) > 1000
    assert not any((c, a) in wins for wins, a, c in chains)


def test_every_annotators_verdict_is_a_pair(tmp_path: Path, real_data: Path) -> None:
    path = real_data / "preference" / "pandalm_human_testset.jsonl.gz"
    import_dataset(str(path), tmp_path / "data")
    rows = [row for _, row in read_rows(tmp_path / "data" / "preferences.jsonl", "preferences") if "chosen" in row]
    usable = [
        r
        for r in raw(path)
        if all(isinstance(r[name], str) and r[name].strip() for name in ("response1", "response2"))
        and r["response1"] != r["response2"]
    ]
    annotators = ("annotator1", "annotator2", "annotator3")
    assert Counter(row["annotator"] for row in rows) == Counter(a for r in usable for a in annotators if r[a])
    first = next(r for r in usable if r["annotator1"])
    better = first["response1"] if first["annotator1"] == 1 else first["response2"]
    assert rows[0]["chosen"][0]["content"] == better


DEMONSTRATIONS = {
    "sft/alpaca_en_demo_999.jsonl.gz": ("alpaca", 999),
    "sft/gsm8k_train.jsonl.gz": ("qa", 7473),
    "sft/self_instruct_seed_tasks.jsonl.gz": ("self_instruct", 175),
    "preference/llamafactory_kto_en_demo.jsonl.gz": ("kto", 150),
}


@pytest.mark.parametrize("name", DEMONSTRATIONS)
def test_demonstrations(tmp_path: Path, real_data: Path, name: str) -> None:
    pairs = str(real_data / "preference" / "llmbar_natural.jsonl.gz")
    report = import_dataset(Sources(pairs, demonstrations=str(real_data / name)), tmp_path / "data")
    assert (report.sources[1].form.format, report.counts["demonstrations"]) == DEMONSTRATIONS[name]
    assert validate_folder(tmp_path / "data")["demonstrations"] == DEMONSTRATIONS[name][1]


def test_prompts_of_a_csv_file(tmp_path: Path, real_data: Path) -> None:
    pairs = str(real_data / "preference" / "llmbar_natural.jsonl.gz")
    prompts = real_data / "safety" / "xstest_prompts.csv"
    assert import_dataset(Sources(pairs, prompts=str(prompts)), tmp_path / "data").counts["prompts"] == 450


def test_the_leak_between_the_two_files_is_found(tmp_path: Path, hh: Path, hh_prompts: Path) -> None:
    """All of the 1504 test rows whose first turn is a training prompt, and a few that are spelt otherwise."""
    import_dataset(Sources(str(hh), prompts=str(hh_prompts)), tmp_path / "data")
    prompts = prompts_in(tmp_path / "data" / "prompts.jsonl", "prompts")
    held_out = prompts_in(tmp_path / "data" / "preferences.jsonl", "preferences")
    leaks = find_leaks({prompt_key(p): p for p in prompts}, {prompt_key(p): p for p in held_out})
    exact = {row["prompt"].strip() for row in raw(hh_prompts)}
    first_turns = [row["chosen"].split("\n\nAssistant:")[0].removeprefix("\n\nHuman:").strip() for row in raw(hh)]
    assert sum(turn in exact for turn in first_turns) == 1504
    assert all(prompt_key(user(turn)) in leaks for turn in first_turns_of(held_out) if turn in exact)
    found = [prompt for prompt in held_out if prompt_key(prompt[:1]) in leaks]
    assert 1500 <= len(found) <= 1600


def prompts_in(path: Path, kind: str) -> list[Any]:
    return [row["prompt"] for _, row in read_rows(path, kind)]


def first_turns_of(prompts: list[Any]) -> list[str]:
    return [prompt[0]["content"] for prompt in prompts]


def test_the_data_stage_on_dialogues_and_a_real_model(
    tmp_path: Path, real_data: Path, hh: Path, hh_prompts: Path
) -> None:
    import_dataset(Sources(str(hh), prompts=str(hh_prompts)), tmp_path / "given")
    config = DataConfig(path="given", overlong="drop")
    model = ModelConfig(base=str(real_data / "model" / "stories260K-hf"), max_length=512)
    logged: dict[str, float] = {}
    workspace = Workspace(tmp_path / "out", tmp_path / "report", tmp_path / "x", lambda new, step: logged.update(new))
    prepare_data(config, model, 64, resolve(config, tmp_path), tmp_path, workspace)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert round(report["longer_wins_accuracy"], 3) == 0.446
    for path in (tmp_path / "out").rglob("*.*"):
        assert str(real_data).encode() not in path.read_bytes(), f"{path.name} says where the model lay"
    assert report["tokenizer"]["origin"] == "stories260K-hf"
    assert report["tokenizer"]["pad_token_choice"] in ("chosen", "added")
    assert logged["data/num_cut_dialogues"] > 500
    assert logged["data/num_too_long"] < 150
    # A dialogue that was cut shows another turn first; the prompts that are whole show that no turn is on both sides.
    whole = set(first_turns_of(prompts_in(tmp_path / "given" / "prompts.jsonl", "prompts")))
    turns = {
        (kind, split): set(first_turns_of(prompts_in(tmp_path / "out" / kind / f"{split}.jsonl", kind)))
        for kind, splits in NEEDED.items()
        for split in splits
    }
    training = set().union(*(found for (_, split), found in turns.items() if split in ("train", "selection")))
    held_out = set().union(*(found for (_, split), found in turns.items() if split in ("validation", "test", "gate")))
    assert len(whole & training) > 9000
    assert len(whole & held_out) > 1500
    assert not whole & training & held_out


def test_longer_wins_on_the_file_as_it_is(hh: Path) -> None:
    """The figure that everybody quotes: characters of the whole dialogue, markers included, a tie counting half."""
    lengths = [(len(row["chosen"]), len(row["rejected"])) for row in raw(hh)]
    points = sum(1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0 for chosen, rejected in lengths)
    assert round(points / len(lengths), 3) == 0.446
