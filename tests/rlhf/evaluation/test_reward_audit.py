import gzip
import json
import shutil

import matplotlib.image
import numpy as np
import pytest
import torch
from known_models import SETUP, assistant, make_tokenizer, user, word_reward_model, write_jsonl

from rlhf.config import RewardAuditConfig
from rlhf.conversations import encode_pairs
from rlhf.data.schema import read_rows
from rlhf.errors import DataError
from rlhf.evaluation.reward_audit import audit_reward_models, count_characters
from rlhf.evaluation.statistics import win_rate
from rlhf.models import load_reward_model, save_model

CONFIG = RewardAuditConfig(batch_size=5)


@pytest.fixture
def audited(world, workspace):
    audit_reward_models(CONFIG, SETUP, world / "data", world / "reward_models", workspace)
    return json.loads((workspace.output / "audit.json").read_text())


def test_accuracy_is_that_of_the_known_preferences(audited):
    # 24 of 32 raters chose the hedged answer. One model always prefers it, the other never.
    model, selection = audited["models"]["reward_model"], audited["models"]["selection_reward_model"]
    assert audited["num_pairs"] == 32
    assert (model["accuracy"]["value"], selection["accuracy"]["value"]) == (0.75, 0.25)
    assert (model["accuracy"]["low"], model["accuracy"]["high"]) == pytest.approx((0.579, 0.867), abs=5e-4)
    by_source = {one["source"]: (one["count"], one["accuracy"]["value"]) for one in model["by_source"]}
    assert by_source == {"easy sums": (8, 0.0), "hard products": (24, 1.0)}
    assert audited["agreement"]["same_preference"]["value"] == 0
    assert audited["agreement"]["margin_correlation"]["pearson"] == pytest.approx(-1)


def test_the_longer_one_is_the_hedged_one(audited):
    assert audited["longer_wins"]["rate"]["value"] == 0.75
    assert audited["longer_wins"]["wins"] == 24


def test_margins_and_scores(audited):
    model = audited["models"]["reward_model"]
    assert [one["count"] for one in model["by_score_margin"]] == [8, 8, 8, 8]
    spans = [(one["from"], one["to"]) for one in model["by_score_margin"]]
    assert all(low <= high for low, high in spans)
    assert spans == sorted(spans)
    assert model["by_annotated_margin"] == []
    assert model["scores"]["chosen"]["mean"] > model["scores"]["rejected"]["mean"]
    assert model["length_correlation"]["pearson"] > 0.9


def test_warnings_say_what_is_wrong(audited):
    model, selection = "Reward model", "Selection reward model (chooses checkpoints)"
    assert audited["warnings"] == [
        f"{model}: held-out accuracy (0.750) does not beat choosing the longer dialogue (0.750).",
        f"{model}: score and response length correlate by +1.00; the score may stand for length.",
        f"{selection}: held-out accuracy is 0.250, and the lower bound of its interval (0.133) is not above 0.5.",
        f"{selection}: held-out accuracy (0.250) does not beat choosing the longer dialogue (0.750).",
        f"{selection}: score and response length correlate by -1.00; the score may stand for length.",
    ]


def test_it_is_the_lower_bound_that_must_pass(world, workspace):
    config = CONFIG.model_copy(update={"minimum_accuracy": 0.6})
    audit_reward_models(config, SETUP, world / "data", world / "reward_models", workspace)
    first = json.loads((workspace.output / "audit.json").read_text())["warnings"][0]
    assert "accuracy is 0.750, and the lower bound of its interval (0.579) is not above 0.6" in first


def test_metrics_are_declared_and_equal_the_file(audited, logged):
    [(metrics, step)] = logged
    assert step is None
    assert metrics["reward_audit/accuracy"] == 0.75
    assert metrics["reward_audit/selection_accuracy"] == 0.25
    assert metrics["reward_audit/longer_wins_accuracy"] == 0.75
    assert metrics["reward_audit/num_warnings"] == len(audited["warnings"])


def test_figures_are_drawn(audited, workspace):
    for name in ("reliability.png", "scores.png"):
        picture = matplotlib.image.imread(workspace.output / name)
        assert picture.shape[1] > 1000
        assert picture[..., :3].std() > 0.05


def test_scores_are_those_of_the_model_row_by_row(world, workspace, audited):
    """Batches, padding and order change nothing: each pair alone gives the same figures."""
    tokenizer = make_tokenizer()
    rows = [row for _, row in read_rows(world / "data" / "preferences" / "test.jsonl", "preferences")]
    model = load_reward_model(world / "reward_models" / "reward_model", SETUP.compute)
    alone = {}
    for side in ("chosen", "rejected"):
        pairs = encode_pairs(tokenizer, [r["prompt"] for r in rows], [r[side] for r in rows])
        with torch.no_grad():
            alone[side] = np.array([model(torch.tensor([p + c])).logits.item() for p, c in pairs])
    found = audited["models"]["reward_model"]["scores"]
    for side, scores in alone.items():
        assert found[side]["mean"] == pytest.approx(scores.mean(), abs=1e-5)
        assert found[side]["quantiles"]["25%"] == pytest.approx(np.quantile(scores, 0.25), abs=1e-5)
    p = 1 / (1 + np.exp(-(alone["chosen"] - alone["rejected"])))
    confidence, right = np.maximum(p, 1 - p), p > 0.5
    bins = np.minimum(((confidence - 0.5) / 0.05).astype(int), 9)
    error = sum(abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in set(bins)) / len(p)
    assert audited["models"]["reward_model"]["expected_calibration_error"] == pytest.approx(error, abs=1e-5)


def test_a_model_that_knows_nothing(world, workspace, tmp_path):
    reward_models = tmp_path / "reward_models"
    for name in ("reward_model", "selection_reward_model"):
        save_model(word_reward_model(make_tokenizer()), make_tokenizer(), reward_models / name)
    audit_reward_models(CONFIG, SETUP, world / "data", reward_models, workspace)
    audit = json.loads((workspace.output / "audit.json").read_text())
    model = audit["models"]["reward_model"]
    assert model["accuracy"]["value"] == 0.5
    assert model["expected_calibration_error"] == 0
    assert model["length_correlation"]["pearson"] is None
    assert audit["agreement"]["margin_correlation"]["spearman"] is None


def test_annotated_margins_are_grouped_by_value_or_by_quarter(world, workspace, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world / "data", data)
    path = data / "preferences" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for distinct, expected in ((3, [8, 8, 8]), (24, [6, 6, 6, 6])):
        marked = [row | ({"margin": float(i % distinct)} if i < 24 else {}) for i, row in enumerate(rows)]
        write_jsonl(path, marked)
        audit_reward_models(CONFIG, SETUP, data, world / "reward_models", workspace)
        groups = json.loads((workspace.output / "audit.json").read_text())["models"]["reward_model"][
            "by_annotated_margin"
        ]
        assert [one["count"] for one in groups] == expected
        assert groups[0]["from"] == 0
        assert all(one["accuracy"]["value"] == 1 for one in groups)


def test_rows_without_source_are_one_group_only_beside_others(world, workspace, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world / "data", data)
    path = data / "preferences" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    bare = [{name: value for name, value in row.items() if name != "source"} for row in rows]
    for kept, expected in ((bare, []), ([rows[0], *bare[1:]], ["hard products", "unnamed"])):
        write_jsonl(path, kept)
        audit_reward_models(CONFIG, SETUP, data, world / "reward_models", workspace)
        audit = json.loads((workspace.output / "audit.json").read_text())
        assert [one["source"] for one in audit["models"]["reward_model"]["by_source"]] == expected


def test_no_pairs_is_an_error(world, workspace, tmp_path):
    shutil.copytree(world / "data", tmp_path / "data")
    (tmp_path / "data" / "preferences" / "test.jsonl").write_text("")
    with pytest.raises(DataError, match=r"test\.jsonl: the file is empty"):
        audit_reward_models(CONFIG, SETUP, tmp_path / "data", world / "reward_models", workspace)
    assert not list(workspace.output.iterdir())


def test_the_same_input_gives_the_same_bytes(world, workspace, audited):
    first = {path.name: path.read_bytes() for path in workspace.output.iterdir()}
    audit_reward_models(CONFIG, SETUP, world / "data", world / "reward_models", workspace)
    assert {path.name: path.read_bytes() for path in workspace.output.iterdir()} == first


def test_the_longer_one_wins_on_real_pairs(realdata):
    with gzip.open(realdata / "preference" / "hh_harmless_base_test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    sides = [[count_characters(user(row[side])) for row in rows] for side in ("chosen", "rejected")]
    assert round(win_rate(*sides).rate.value, 3) == 0.446


def test_characters_are_those_of_all_messages():
    assert count_characters([*user("abc"), *assistant("de"), *user("")]) == 5
