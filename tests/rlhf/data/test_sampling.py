"""Stories: prompts that a generator makes, and responses and labels that come from a base model and a rule."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_story_base import save_story_base

from rlhf.config.data import DataConfig
from rlhf.config.model import ComputeConfig, ModelConfig
from rlhf.data import stories
from rlhf.data.preparation.leaks import NGRAM_WORDS
from rlhf.data.preparation.prepare import prepare_data
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.sampling import LABEL_NOISE, LABEL_TEMPERATURE, NUM_SAMPLES, preference_rate, whole_sentences
from rlhf.data.schema import read_rows
from rlhf.data.versions.resolve import check, resolve
from rlhf.errors import DataError
from rlhf.gold.pleasant_words import share_of_pleasant_words
from rlhf.provenance.fingerprint import stage_fingerprint
from rlhf.workspace import Workspace

CONFIG = DataConfig(embedded="stories", sampled_from="base", max_rows=80, test_fraction=0.2, validation_fraction=0.2)
COMPUTE = ComputeConfig(dtype="fp32", num_threads=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = save_story_base(tmp_path_factory.mktemp("base"))
    return ModelConfig(base=str(folder), chat_template="continuation", max_length=64)


def prepare(
    folder: Path, model: ModelConfig, config: DataConfig = CONFIG, checkpoints: Path | None = None, tokens: int = 24
) -> Path:
    workspace = Workspace(folder / "output", folder / "report", checkpoints or folder / "checkpoints", lambda *_: None)
    workspace.checkpoints.mkdir(parents=True, exist_ok=True)
    prepare_data(config, model, tokens, resolve(config, folder), folder, workspace, COMPUTE)
    return workspace.output


@pytest.fixture(scope="module")
def prepared(base: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("prepared"), base)


def rows_of(output: Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    return {file.stem: [row for _, row in read_rows(file, kind)] for file in sorted((output / kind).glob("*.jsonl"))}


class TestPrompts:
    def test_are_the_same_at_every_call(self, tmp_path: Path) -> None:
        for name in ("one", "other"):
            stories.generate(tmp_path / name)
        for file in ("prompts.jsonl", "datasheet.md"):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()

    def test_are_different_and_too_short_to_share_a_run_of_words(self, tmp_path: Path) -> None:
        stories.generate(tmp_path)
        texts = [row["prompt"][0]["content"] for _, row in read_rows(tmp_path / "prompts.jsonl", "prompts")]
        assert len(set(texts)) == len(texts) == stories.NUM_PROMPTS
        assert max(len(text.split()) for text in texts) < NGRAM_WORDS
        assert not [text for text in texts if " a old" in text or "{" in text]

    def test_are_generated_at_the_first_run(self, tmp_path: Path) -> None:
        check(CONFIG, tmp_path)
        found = resolve(CONFIG, tmp_path)
        assert (found.path, found.embedded, found.tracked, found.dirty) == ("embedded/stories", "stories", True, False)
        assert found == resolve(CONFIG, tmp_path)
        assert sorted(path.name for path in (tmp_path / found.path).iterdir()) == ["datasheet.md", "prompts.jsonl"]


class TestLabels:
    def test_follow_bradley_terry_and_some_are_flipped(self) -> None:
        assert preference_rate(0.3, 0.3) == 0.5
        assert preference_rate(1.0, 0.0) == pytest.approx(1 - LABEL_NOISE)
        assert preference_rate(0.0, 1.0) == pytest.approx(LABEL_NOISE)
        one_temperature = preference_rate(LABEL_TEMPERATURE, 0.0)
        assert one_temperature == pytest.approx(0.731059 * 0.95 + 0.268941 * 0.05, abs=1e-6)

    def test_are_those_of_the_rule_more_often_than_not(self, prepared: Path) -> None:
        pairs = [row for rows in rows_of(prepared, "preferences").values() for row in rows]
        gains = [
            share_of_pleasant_words(row["chosen"][0]["content"])
            - share_of_pleasant_words(row["rejected"][0]["content"])
            for row in pairs
        ]
        assert len(pairs) > 100
        assert all(gains)  # pairs of equal value are not asked
        expected = sum(preference_rate(abs(gain), 0.0) for gain in gains) / len(gains)
        assert sum(gain > 0 for gain in gains) / len(gains) == pytest.approx(expected, abs=0.1)


class TestSamples:
    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ("He ran. She sat", "He ran."),
            (' "Go!" he said. Then', '"Go!" he said.'),
            ('\nShe said "No." And', 'She said "No."'),
            ("it costs 3.5 pounds", ""),
            (" . ! the", ""),
            ("", ""),
        ],
    )
    def test_end_with_a_whole_sentence(self, text: str, kept: str) -> None:
        assert whole_sentences(text) == kept

    def test_of_a_prompt_stay_in_its_split(self, prepared: Path) -> None:
        keys: dict[str, set[str]] = {}
        for kind in ("demonstrations", "preferences", "prompts"):
            for split, rows in rows_of(prepared, kind).items():
                keys.setdefault(split, set()).update(prompt_key(row["prompt"]) for row in rows)
        trained = keys.pop("train") | keys.pop("selection")
        held_out = [key for split in keys.values() for key in split]
        assert keys.keys() == {"validation", "test", "gate"}
        assert len(trained) > len(held_out) == len(set(held_out)) > 20
        assert not trained & set(held_out)

    def test_make_one_demonstration_and_no_more_pairs_than_there_are(self, prepared: Path) -> None:
        demonstrations = [row for rows in rows_of(prepared, "demonstrations").values() for row in rows]
        assert len(demonstrations) == len({prompt_key(row["prompt"]) for row in demonstrations}) > 70
        assert all(row["completion"][0]["content"][-1] in ".!?" for row in demonstrations)
        pairs = [prompt_key(row["prompt"]) for rows in rows_of(prepared, "preferences").values() for row in rows]
        assert max(map(pairs.count, pairs)) <= (NUM_SAMPLES - 1) // 2

    def test_are_the_same_bits_after_a_kill_which_loses_one_piece(self, base: ModelConfig, tmp_path: Path) -> None:
        whole = prepare(tmp_path / "whole", base)
        kept = sorted((tmp_path / "whole" / "checkpoints").iterdir())
        assert len(kept) == 3
        left = tmp_path / "left"
        left.mkdir()
        (left / kept[0].name).write_bytes(kept[0].read_bytes())
        (left / kept[1].name).with_suffix(".new").write_bytes(kept[1].read_bytes()[:100])  # cut off as it was written
        before = (left / kept[0].name).stat().st_mtime_ns
        again = prepare(tmp_path / "again", base, checkpoints=left)
        assert (left / kept[0].name).stat().st_mtime_ns == before
        files = [file.relative_to(whole) for file in sorted(whole.rglob("*")) if file.is_file()]
        assert [file for file in files if (again / file).read_bytes() != (whole / file).read_bytes()] == []

    def test_are_told_in_the_datasheet_and_labelled_by_the_rule_of_the_report(self, prepared: Path) -> None:
        datasheet = (prepared / "datasheet.md").read_text()
        assert "sigmoid(difference of values / 0.05) (Bradley-Terry), and 5% of the labels are flipped" in datasheet
        report = json.loads((prepared / "report.json").read_text())
        assert (report["gold"], report["source"]["embedded"]) == ("pleasant_words", "stories")
        assert f"{report['rows']['preferences']:,} preference pairs" in datasheet

    def test_that_hold_no_sentence_are_refused(self, base: ModelConfig, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"wrote a whole sentence within 2 tokens for \d of 80 prompts, and 0 pairs"
        ):
            prepare(tmp_path, base, tokens=2)


def test_the_base_decides_what_the_data_stage_makes(base: ModelConfig, tmp_path: Path) -> None:
    other = ModelConfig(base=str(save_story_base(tmp_path / "other", seed=1)), chat_template="continuation")
    prints = {
        stage_fingerprint(
            "data", "1", {"config": CONFIG, "model": model, "compute": COMPUTE}, "rlhf.data.preparation.prepare"
        )
        for model in (base.model_copy(update={"max_length": 64}), other.model_copy(update={"max_length": 64}))
    }
    assert len(prints) == 2
