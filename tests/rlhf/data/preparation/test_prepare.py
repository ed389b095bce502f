import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from data_rows import assistant, demonstration, preference, user, write_folder, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.config.data import DataConfig
from rlhf.config.model import ArchitectureConfig, ModelConfig
from rlhf.data.preparation.prepare import ASIDE, NEEDED, prepare_data
from rlhf.data.preparation.report import Counts
from rlhf.data.preparation.report import metrics as report_metrics
from rlhf.data.preparation.splits import is_for_selection, prompt_key, split_of
from rlhf.data.schema import KINDS, validate_file
from rlhf.errors import DataError
from rlhf.metrics import check_declared
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.references import DataSource
from rlhf.workspace import Workspace

Rows = dict[str, list[dict[str, Any]]]

MODEL = ModelConfig(architecture=ArchitectureConfig(hidden_size=16, num_heads=2, feed_forward_size=16), max_length=24)
CONFIG = DataConfig(test_fraction=0.2, validation_fraction=0.2)
SYSTEM = {"role": "system", "content": "Be brief ."}


class Prepared:
    """What the data stage left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: dict[str, float] = {}
        self.workspace = Workspace(folder / "output", folder / "report", folder / "checkpoints", self._log)

    def _log(self, metrics: Mapping[str, float], step: int | None) -> None:
        check_declared(metrics)
        self.metrics |= metrics

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "output" / "report.json").read_text())  # type: ignore[no-any-return]

    def rows(self, kind: str, split: str) -> list[dict[str, Any]]:
        path = self.folder / "output" / kind / f"{split}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def all_rows(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        pairs = [(kind, split) for kind, splits in NEEDED.items() for split in splits] + [*ASIDE]
        return {pair: self.rows(*pair) for pair in pairs}


def prepare(
    folder: Path,
    data: Path,
    config: DataConfig = CONFIG,
    model: ModelConfig = MODEL,
    max_response_tokens: int = 8,
    embedded: Any = None,
) -> Prepared:
    prepared = Prepared(folder)
    source = DataSource(path=str(data), md5="0" * 32, tracked=False, embedded=embedded)
    prepare_data(config, model, max_response_tokens, source, folder, prepared.workspace)
    return prepared


def many(num: int = 60) -> Rows:
    """Different questions in all three files, half of them in common."""
    return {
        "demonstrations": [demonstration(f"How much is {n} ?", f"{n} .") for n in range(num)],
        "preferences": [preference(f"How much is {n} ?", f"{n} .", "no .") for n in range(num // 2, num * 2)],
        "prompts": [{"prompt": user(f"How much is {n} ?")} for n in range(num // 2, num + num // 2)],
    }


@pytest.fixture
def rows() -> Rows:
    return many()


def test_writes_what_the_next_stages_read(tmp_path: Path, rows: Rows) -> None:
    prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows, "# Questions\n"))
    for (kind, split), found in prepared.all_rows().items():
        assert prepared.report["splits"][f"{kind}/{split}"] == len(found)
        if found:
            assert validate_file(tmp_path / "output" / kind / f"{split}.jsonl", kind) == len(found)
    assert (tmp_path / "output" / "datasheet.md").read_text() == "# Questions\n"
    assert load_tokenizer(tmp_path / "output" / "tokenizer").pad_token == "<|pad|>"
    assert "| preferences/train |" in (tmp_path / "report" / "data.md").read_text()
    for kind in KINDS:
        given = {json.dumps(row) for row in rows[kind]}
        left = [json.dumps(row) for (other, _), found in prepared.all_rows().items() if other == kind for row in found]
        assert given == set(left)
        assert len(left) == len(given)


def test_keeps_what_the_rows_say_beside_the_text(tmp_path: Path, rows: Rows) -> None:
    extra = {"margin": 2.0, "annotator": "a", "criteria": "c", "source": "s", "category": "k"}
    rows["preferences"] = [row | extra for row in rows["preferences"]]
    prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows))
    assert all(row.items() >= extra.items() for row in prepared.rows("preferences", "test"))


def test_rankings_are_pairs_of_one_prompt_on_one_side(tmp_path: Path, rows: Rows) -> None:
    rankings = [
        {"prompt": row["prompt"], "responses": [assistant(text) for text in "abc"], "ranks": [1, 2, 2]}
        for row in rows["preferences"]
    ]
    ties = [{**row, "ranks": [1, 1, 1]} for row in rankings[:7]]
    labels = [{**row, "label": True} for row in rows["demonstrations"]]
    data = write_folder(tmp_path / "data", {**rows, "preferences": [*rows["preferences"], *rankings, *ties]})
    write_lines(data / "labels.jsonl", labels)
    prepared = prepare(tmp_path, data)
    assert prepared.report["rankings"] == {"rankings": 90, "pairs": 180, "ties": 7}
    assert prepared.report["rows"]["preferences"] == 90 + 180
    assert prepared.report["labels"] == 60
    report = (tmp_path / "report" / "data.md").read_text()
    assert "90 rankings of several responses count as 180 of the pairs; 7 rows are ties" in report
    assert "60 rows of unpaired feedback" in report
    for row in rows["preferences"]:
        sides = [split for split in (*NEEDED["preferences"], "gate") if row in prepared.rows("preferences", split)]
        pairs = [pair for pair in prepared.rows("preferences", sides[0]) if pair["prompt"] == row["prompt"]]
        assert (len(sides), len(pairs)) == (1, 3)


def test_ties_are_soft_labels_of_training_alone(tmp_path: Path, rows: Rows) -> None:
    texts = [assistant(text) for text in "abc"]
    rankings = [
        {"prompt": row["prompt"], "responses": texts, "ranks": ranks}
        for row, ranks in zip(rows["preferences"], [[1, 2, 2], [1, 1, 1]] * len(rows["preferences"]), strict=False)
    ]
    data = write_folder(tmp_path / "data", {**rows, "preferences": [*rows["preferences"], *rankings]})
    without, prepared = (
        prepare(tmp_path / ties, data, CONFIG.model_copy(update={"ties": ties})) for ties in ("drop", "soft_label")
    )
    for split in (*NEEDED["preferences"], "gate"):
        tied = [row for row in prepared.rows("preferences", split) if row.get("probability") == 0.5]
        decided = [row for row in prepared.rows("preferences", split) if row not in tied]
        assert decided == without.rows("preferences", split)
        assert bool(tied) == (split in ("train", "selection"))
    assert prepared.report["rankings"] == {"rankings": 45, "pairs": 90, "ties": 45, "tied_pairs": 45 + 3 * 45}
    assert prepared.report["label_conflicts"] == without.report["label_conflicts"] == 0
    assert prepared.report["longer_wins_accuracy"] != without.report["longer_wins_accuracy"]
    assert "180 pairs of equal rank are soft labels" in (tmp_path / "soft_label" / "report" / "data.md").read_text()


def test_verdicts_on_the_same_responses_are_kept_together(tmp_path: Path, rows: Rows) -> None:
    """Whichever response a row names first; the first verdict of an annotator counts, and single ones are no item."""
    pairs = [dict(row) for row in rows["preferences"]]
    turned = [{"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    tie = {"prompt": pairs[0]["prompt"], "responses": [pairs[0]["chosen"], pairs[0]["rejected"]], "ranks": [1, 1]}
    said = [
        *({**row, "annotator": "a"} for row in pairs[:9]),
        *({**row, "annotator": "b"} for row in turned[:5]),
        *({**row, "annotator": "a"} for row in turned[:9]),
        {**tie, "annotator": "c"},
    ]
    data = write_folder(tmp_path / "data", {**rows, "preferences": [*pairs, *said]})
    prepared = prepare(tmp_path, data)
    items = [json.loads(line) for line in (prepared.folder / "output" / "annotations.jsonl").read_text().splitlines()]
    judged = [row for row in pairs[:5] if split_of(prompt_key(row["prompt"]), CONFIG) != "gate"]
    assert [item["prompt"] for item in items] == [prompt_key(row["prompt"]) for row in judged]
    for item in items:
        assert {item["verdicts"]["a"], item["verdicts"]["b"]} == {"first", "second"}
    assert items[0]["verdicts"].get("c") == "tie"
    plain = prepare(tmp_path / "none", write_folder(tmp_path / "plain", rows))
    assert not (plain.folder / "output" / "annotations.jsonl").exists()


def test_a_corpus_has_a_held_out_part_and_no_evaluation_prompt(tmp_path: Path, rows: Rows) -> None:
    held_out = next(r for r in rows["prompts"] if split_of(prompt_key(r["prompt"]), CONFIG) == "test")["prompt"]
    texts = [f"Story {n} of a fox ." for n in range(40)]
    data = write_folder(tmp_path / "data", rows)
    corpus = [{"text": text} for text in [*texts, texts[0], held_out[-1]["content"]]]
    write_lines(data / "corpus.jsonl", corpus)
    prepared = prepare(tmp_path, data)
    train, validation = ([row["text"] for row in prepared.rows("corpus", split)] for split in ("train", "validation"))
    assert sorted([*train, *validation]) == sorted(texts)
    assert 0 < len(validation) < len(train)
    assert prepared.report["leaks"]["corpus/prompt"] == 1


def test_annotators_that_are_held_out(tmp_path: Path, rows: Rows) -> None:
    rows["preferences"] = [{**row, "annotator": "ab"[i % 2]} for i, row in enumerate(rows["preferences"])]
    data = write_folder(tmp_path / "data", rows)
    prepared = prepare(tmp_path, data, CONFIG.model_copy(update={"held_out_annotators": ("b",)}))
    names = {
        split: {row["annotator"] for row in prepared.rows("preferences", split)} for split in NEEDED["preferences"]
    }
    assert names == {"train": {"a"}, "selection": {"a"}, "validation": {"a"}, "test": {"a", "b"}}
    assert prepared.report["held_out_annotators"] == ["b"]
    with pytest.raises(DataError, match=r"held_out_annotators names x, but no pair has that .*\(there are: a, b\)"):
        prepare(tmp_path / "x", data, CONFIG.model_copy(update={"held_out_annotators": ("b", "x")}))


def test_labels_are_split_like_preferences(tmp_path: Path, rows: Rows) -> None:
    """None of those that a policy is trained on is to a prompt that the selection reward model learns from."""
    data = write_folder(tmp_path / "data", rows)
    plain = prepare(tmp_path / "plain", data)
    labels = [
        {**row, "label": label, "annotator": "a"} for row in rows["demonstrations"] for label in (True, False, False)
    ]
    write_lines(data / "labels.jsonl", labels)
    prepared = prepare(tmp_path / "labelled", data)
    assert prepared.report["duplicates"]["labels"] == 60
    splits = {split: prepared.rows("labels", split) for split in (*NEEDED["preferences"], "gate")}
    assert sum(map(len, splits.values())) == 120
    for split, found in splits.items():
        assert {row["label"] for row in found} == {True, False}
        for row in found:
            key = prompt_key(row["prompt"])
            expected = split_of(key, CONFIG)
            assert split == ("selection" if expected == "train" and is_for_selection(key, CONFIG) else expected)
    assert not (plain.folder / "output" / "labels").exists()
    assert prepared.all_rows() == plain.all_rows()


def test_names_the_gold_rule(tmp_path: Path, rows: Rows) -> None:
    data = write_folder(tmp_path / "data", rows)
    assert prepare(tmp_path / "a", data).report["gold"] is None
    assert prepare(tmp_path / "b", data, embedded="calibrated_arithmetic").report["gold"] == "calibrated_arithmetic"


def test_the_same_data_gives_the_same_bytes(
    tmp_path: Path, rows: Rows, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    for place in ("here", "there"):
        prepare(tmp_path / place, write_folder(tmp_path / place / "data", rows))
    assert contents(tmp_path / "here" / "output") == contents(tmp_path / "there" / "output")
    assert contents(tmp_path / "here" / "report") == contents(tmp_path / "there" / "report")


# Few words, so that prompts meet: as one another's first turn, after cutting, and in other spelling.
words = st.lists(st.sampled_from(["a", "b", "C", "c", "d "]), min_size=1, max_size=4).map(" ".join)
prompts = st.lists(words, min_size=1, max_size=4).map(
    lambda turns: [message for text in turns for message in (*assistant("x"), *user(text))][1:]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(others=st.lists(st.tuples(st.sampled_from(KINDS), prompts), max_size=60), max_length=st.sampled_from([12, 40]))
def test_a_prompt_never_sits_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory, others: list[tuple[str, Any]], max_length: int
) -> None:
    folder = tmp_path_factory.mktemp("prepared")
    rows = many()
    for kind, prompt in others:
        rows[kind].append({**rows[kind][0], "prompt": prompt})
    model = MODEL.model_copy(update={"max_length": max_length})
    config = CONFIG.model_copy(update={"overlong": "drop"})
    prepared = prepare(folder, write_folder(folder / "data", rows), config, model, max_response_tokens=4)
    keys: dict[str, set[str]] = {}
    for (kind, split), found in prepared.all_rows().items():
        side = "train" if split == "train" and kind != "preferences" else f"{kind}/{split}"
        side = side if split in ("train", "selection") else split
        keys.setdefault(side, set()).update(prompt_key(row["prompt"]) for row in found)
    training = keys["train"] | keys["preferences/train"] | keys["preferences/selection"]
    for split, others in (("validation", training), ("test", training | keys["validation"])):
        assert not keys[split] & others
    assert not keys["gate"] & (training | keys["validation"] | keys["test"])
    assert not keys["preferences/train"] & keys["preferences/selection"]


def test_what_is_added_later_moves_nothing(tmp_path: Path, rows: Rows) -> None:
    before = prepare(tmp_path / "before", write_folder(tmp_path / "before" / "data", rows)).all_rows()
    more = many(90)
    after = prepare(tmp_path / "after", write_folder(tmp_path / "after" / "data", more)).all_rows()
    for (kind, split), found in before.items():
        common = [row for row in found if row in more[kind]]
        assert [row for row in after[kind, split] if row in rows[kind]] == common


def test_removes_exact_duplicates(tmp_path: Path, rows: Rows) -> None:
    rows["prompts"] += rows["prompts"][:3]
    rows["preferences"] += [rows["preferences"][0] | {"source": "elsewhere"}]
    rows["preferences"] += [rows["preferences"][0] | {"annotator": "another"}]
    prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows))
    assert prepared.report["duplicates"] == {"prompts": 3, "preferences": 1}
    assert prepared.metrics["data/num_duplicates"] == 4


def test_counts_pairs_that_stand_in_both_orders(tmp_path: Path, rows: Rows) -> None:
    first, second = rows["preferences"][:2]
    rows["preferences"] += [
        first | {"chosen": first["rejected"], "rejected": first["chosen"]},
        first | {"chosen": first["rejected"], "rejected": first["chosen"], "annotator": "a"},
        second | {"chosen": second["rejected"], "rejected": assistant("another")},
    ]
    prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows))
    assert prepared.report["label_conflicts"] == 1
    assert prepared.metrics["data/num_label_conflicts"] == 1


def test_takes_leaks_out_of_training_only(tmp_path: Path, rows: Rows) -> None:
    clean = prepare(tmp_path / "clean", write_folder(tmp_path / "clean" / "data", rows)).all_rows()
    tested = clean["prompts", "test"][0]["prompt"][0]["content"]
    dialogues = [[*user(tested), *assistant("x"), *user(f"And {n} ?")] for n in range(20)]
    rows["demonstrations"] += [{"prompt": prompt, "completion": assistant("y")} for prompt in dialogues]
    prepared = prepare(tmp_path / "leaky", write_folder(tmp_path / "leaky" / "data", rows))
    found = prepared.report["leaks"]["demonstrations/first_turn"]
    assert prepared.metrics["data/num_leaks"] == found > 0
    assert prepared.rows("demonstrations", "train") == clean["demonstrations", "train"]
    splits = ("validation", "test", "gate")
    held_out = sum(len(prepared.rows("demonstrations", split)) for split in splits)
    assert held_out - sum(len(clean["demonstrations", split]) for split in splits) == 20 - found


def test_training_knows_nothing_of_the_gate(tmp_path: Path, rows: Rows) -> None:
    clean = prepare(tmp_path / "clean", write_folder(tmp_path / "clean" / "data", rows)).all_rows()
    assert min(len(clean[kind, "gate"]) for kind in KINDS) > 0
    asked = clean["prompts", "gate"][0]["prompt"][0]["content"]
    dialogues = [[*user(asked), *assistant("x"), *user(f"And {n} ?")] for n in range(20)]
    rows["demonstrations"] += [{"prompt": prompt, "completion": assistant("y")} for prompt in dialogues]
    prepared = prepare(tmp_path / "leaky", write_folder(tmp_path / "leaky" / "data", rows))
    assert prepared.report["leaks"]["demonstrations/first_turn"] > 10
    assert prepared.rows("demonstrations", "train") == clean["demonstrations", "train"]
    assert prepared.metrics["data/num_prompts_gate"] == len(prepared.rows("prompts", "gate"))


def test_the_longer_one_wins(tmp_path: Path, rows: Rows) -> None:
    for index, row in enumerate(rows["preferences"]):
        row["chosen"], row["rejected"] = assistant("aa"), assistant("bbb" if index % 2 else "bb")
    prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows))
    assert prepared.report["longer_wins_accuracy"] == 0.25


class TestCutting:
    def dialogue(self, turns: int, words: int = 1) -> list[dict[str, str]]:
        said = " ".join(["word"] * words)
        return [m for n in range(turns) for m in (*assistant("yes"), *user(f"{said} {n}"))][1:]

    def test_oldest_turns_go_first_and_are_counted(self, tmp_path: Path, rows: Rows) -> None:
        long = self.dialogue(9)
        rows["demonstrations"].append({"prompt": [SYSTEM, *long], "completion": assistant("good")})
        prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows))
        (cut,) = [r for found in prepared.all_rows().values() for r in found if r["prompt"][0] == SYSTEM]
        kept = cut["prompt"][1:]
        assert kept == long[-len(kept) :]
        assert kept[0]["role"] == "user"
        assert prepared.report["cut_dialogues"] == {"demonstrations": 1}
        assert prepared.report["dropped_messages"] == {"demonstrations": len(long) - len(kept)}
        assert prepared.metrics["data/num_cut_dialogues"] == 1

    def test_everything_fits_and_the_lengths_are_those(self, tmp_path: Path, rows: Rows) -> None:
        from rlhf.modeling.conversations import encode_pairs, encode_prompts

        for n in range(12):
            rows["demonstrations"].append({"prompt": self.dialogue(n + 1), "completion": assistant("yes " * n + "!")})
            rows["preferences"].append(preference() | {"prompt": self.dialogue(n + 1), "chosen": assistant("yes " * n)})
            rows["prompts"].append({"prompt": self.dialogue(n + 1)})
        rows["preferences"] = [row for row in rows["preferences"] if row["chosen"][0]["content"].strip()]
        prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows))
        tokenizer = load_tokenizer(tmp_path / "output" / "tokenizer")
        lengths: dict[str, list[int]] = {}
        for (kind, _), found in prepared.all_rows().items():
            for row in found:
                (prompt,) = encode_prompts(tokenizer, [row["prompt"]])
                fields = [name for name in ("completion", "chosen", "rejected") if name in row]
                responses = [len(encode_pairs(tokenizer, [row["prompt"]], [row[name]])[0][1]) for name in fields]
                assert len(prompt) + max(responses, default=8) <= MODEL.max_length
                lengths.setdefault(f"{kind}/prompt", []).append(len(prompt))
                lengths.setdefault(f"{kind}/response", []).extend([max(responses)] if responses else [])
        for name, found_lengths in prepared.report["lengths_in_tokens"].items():
            assert (found_lengths["min"], found_lengths["max"]) == (min(lengths[name]), max(lengths[name]))
            assert found_lengths["mean"] == pytest.approx(sum(lengths[name]) / len(lengths[name]))

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_last_turn_that_does_not_fit_is_named_or_dropped(self, tmp_path: Path, rows: Rows, kind: str) -> None:
        rows[kind].insert(2, {**rows[kind][0], "prompt": self.dialogue(2, words=30)})
        data = write_folder(tmp_path / "data", rows)
        message = rf"^{kind}.jsonl:3: the last turn alone has \d+ tokens, and \d+ are allowed; .* data.overlong: drop"
        with pytest.raises(DataError, match=message):
            prepare(tmp_path / "error", data)
        assert not (tmp_path / "error" / "output").exists()
        prepared = prepare(tmp_path / "drop", data, CONFIG.model_copy(update={"overlong": "drop"}))
        assert prepared.report["too_long"] == {kind: 1}
        assert prepared.metrics["data/num_too_long"] == 1

    def test_a_response_that_does_not_fit_is_named(self, tmp_path: Path, rows: Rows) -> None:
        rows["preferences"][4]["rejected"] = assistant("word " * 40)
        with pytest.raises(DataError, match=r"preferences.jsonl:5: the response has 42 tokens, and model.max_le"):
            prepare(tmp_path, write_folder(tmp_path / "data", rows))

    def test_prompts_that_are_the_same_once_cut_stay_on_one_side(self, tmp_path: Path, rows: Rows) -> None:
        end = self.dialogue(6)
        for n in range(40):
            rows["prompts"].append({"prompt": [*user(f"Start {n}"), *assistant("x"), *end]})
        prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows))
        assert prepared.report["leaks"]["prompts/after_cutting"] > 20
        sides = [split for split in NEEDED["prompts"] if _ends(prepared.rows("prompts", split), end)]
        assert len(sides) == 1

    def test_pairs_that_are_the_same_once_cut_train_one_reward_model(self, tmp_path: Path, rows: Rows) -> None:
        config = DataConfig(test_fraction=0.1, validation_fraction=0.1)
        end = self.dialogue(6)
        starts = [[*user(f"Start {n}"), *assistant("x"), *end] for n in range(400)]
        training = [s for s in starts if split_of(prompt_key(s), config) == "train"]
        rows["preferences"] += [{**rows["preferences"][0], "prompt": start} for start in training]
        prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows), config)
        counted = prepared.report["leaks"]["preferences/after_cutting"]
        assert counted == sum(is_for_selection(prompt_key(start), config) for start in training) > 50
        assert _ends(prepared.rows("preferences", "train"), end)
        assert not _ends(prepared.rows("preferences", "selection"), end)


def _ends(rows: list[dict[str, Any]], end: list[dict[str, str]]) -> bool:
    return any(len(row["prompt"]) > 1 and row["prompt"][-1] == end[-1] for row in rows)


class TestRoles:
    TEMPLATE = (
        "{% for m in messages %}{% if m.role == 'user' %}U {{ m.content }} {% elif m.role == 'assistant' %}"
        "A {{ m.content }}{{ eos_token }}{% else %}{{ OTHER }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}A {% endif %}"
    )

    def base(self, folder: Path, other: str) -> ModelConfig:
        """A base model whose template knows user and assistant."""
        from rlhf.modeling.tokenizer import prepare_tokenizer

        tokenizer, _ = prepare_tokenizer(MODEL, ["How much is 1 2 3 4 5 6 7 8 9 0 ? no . U A Be brief ."])
        tokenizer.chat_template = self.TEMPLATE.replace("{{ OTHER }}", other)
        tokenizer.save_pretrained(folder)
        return ModelConfig(base=str(folder), max_length=40)

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ("", r'the tokenizer\'s chat template does not know the role "system"; rename the role'),
            (
                "{{ raise_exception('no ' + m.role) }}",
                r"chat template refuses the dialogue \(no system\); rename",
            ),
        ],
    )
    def test_a_role_that_the_template_does_not_know(self, tmp_path: Path, rows: Rows, other: str, message: str) -> None:
        rows["preferences"][7]["prompt"].insert(0, SYSTEM)
        with pytest.raises(DataError, match=rf"^preferences.jsonl:8: .*{message}"):
            prepare(tmp_path, write_folder(tmp_path / "data", rows), model=self.base(tmp_path / "base", other))

    def test_a_dialogue_that_the_template_refuses(self, tmp_path: Path, rows: Rows) -> None:
        refusal = (
            "{% endif %}{% if messages[1] is defined and messages[1].role == 'user' %}{{ raise_exception('twice') }}"
        )
        rows["prompts"][3]["prompt"] = [*user("1"), *user("2")]
        with pytest.raises(DataError, match=r"^prompts.jsonl:4: .*twice"):
            prepare(tmp_path, write_folder(tmp_path / "data", rows), model=self.base(tmp_path / "base", refusal))

    def test_a_role_that_nobody_knows(self, tmp_path: Path, rows: Rows) -> None:
        rows["prompts"][3]["prompt"][0]["role"] = "tool"
        with pytest.raises(DataError, match=r'^prompts.jsonl:4: message 1 of "prompt" has the unknown role "tool"'):
            prepare(tmp_path, write_folder(tmp_path / "data", rows))


def test_where_base_and_tokenizer_do_not_agree(tmp_path: Path, rows: Rows) -> None:
    from transformers import GPT2Config

    model = TestRoles().base(tmp_path / "base", "")
    GPT2Config(vocab_size=3, eos_token_id=1, bos_token_id=None, pad_token_id=0).save_pretrained(tmp_path / "base")
    prepared = prepare(tmp_path, write_folder(tmp_path / "data", rows), model=model)
    eos, size = prepared.report["base"]
    assert eos.startswith("EOS: the base's config.json says 1, its tokenizer 5 ('<|end|>')")
    assert "the base's embedding 3 rows" in size
    shown = (prepared.workspace.report / "data.md").read_text(encoding="utf-8")
    assert "# Base and tokenizer" in shown
    assert "the base's embedding 3 rows" in shown


class TestEmptySplits:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"test_fraction": 0.0001}, r"preferences.jsonl: of 90 rows .*test split, .*raise data.test_fraction"),
            ({"gate_fraction": 0.0001}, r"prompts.jsonl: of \d+ rows .*gate split, .*raise data.gate_fraction or"),
            ({"validation_fraction": 0.0001}, r"demonstrations.jsonl: of 60 rows .*raise data.validation_fraction"),
            ({"selection_fraction": 0.0001}, r"preferences.jsonl: .* the selection split, .*raise data.selection_frac"),
            (
                {"selection_fraction": 0.9999},
                r"preferences.jsonl: .* the train split, .*lower data.test_fraction",
            ),
            ({"max_rows": 1}, r"of 1 rows .*or give more rows \(about \d+ different prompts\)"),
        ],
    )
    def test_are_told_with_what_to_change(
        self, tmp_path: Path, rows: Rows, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(DataError, match=message):
            prepare(tmp_path, write_folder(tmp_path / "data", rows), CONFIG.model_copy(update=changes))
        assert not (tmp_path / "output").exists()

    def test_say_what_was_removed(self, tmp_path: Path, rows: Rows) -> None:
        model = MODEL.model_copy(update={"max_length": 9})
        config = CONFIG.model_copy(update={"overlong": "drop"})
        with pytest.raises(DataError, match=r"demonstrations.jsonl: of 60 rows \(60 removed as too long\) none"):
            prepare(tmp_path, write_folder(tmp_path / "data", rows), config, model, max_response_tokens=2)


class TestSources:
    def test_a_single_file_is_imported(self, tmp_path: Path, rows: Rows) -> None:
        prepared = prepare(tmp_path, write_lines(tmp_path / "pairs.jsonl", rows["preferences"]))
        assert prepared.report["rows"] == dict.fromkeys(KINDS, 90)
        assert "pairs.jsonl, sha256" in (tmp_path / "output" / "datasheet.md").read_text()

    def test_a_fault_in_a_single_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "pairs.jsonl").write_text("{\n")
        with pytest.raises(DataError, match=r"pairs.jsonl: there are no rows .line 1: the line is not JSON"):
            prepare(tmp_path, tmp_path / "pairs.jsonl")

    def test_a_fault_in_a_folder_is_named(self, tmp_path: Path, rows: Rows) -> None:
        data = write_folder(tmp_path / "data", rows)
        (data / "demonstrations.jsonl").unlink()
        with pytest.raises(DataError, match=r"demonstrations.jsonl: the file is missing"):
            prepare(tmp_path, data)

    def test_trials_read_the_first_rows_only(self, tmp_path: Path, rows: Rows) -> None:
        data = write_folder(tmp_path / "data", rows)
        prepared = prepare(tmp_path, data, CONFIG.model_copy(update={"max_rows": 50, "gate_fraction": 0.5}))
        assert prepared.report["rows"] == dict.fromkeys(KINDS, 50)


def test_the_embedded_data_is_as_it_should_be(tmp_path: Path, embedded_data: Path) -> None:
    config = DataConfig(embedded="calibrated_arithmetic", test_fraction=0.15, max_rows=4000)
    model = MODEL.model_copy(update={"max_length": 48})
    prepared = prepare(tmp_path, embedded_data, config, model, 20, "calibrated_arithmetic")
    assert prepared.metrics["data/num_leaks"] == 0
    assert prepared.metrics["data/num_cut_dialogues"] == 0
    assert prepared.report["tokenizer"]["unknown_share"] == 0
    assert prepared.metrics == report_metrics(prepared.report)


def test_counts_start_at_nothing() -> None:
    counts = Counts()
    assert not counts.rows
    assert counts.label_conflicts == 0
