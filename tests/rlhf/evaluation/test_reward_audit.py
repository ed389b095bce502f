import gzip
import json
import shutil

import matplotlib.image
import numpy as np
import pytest
import torch
from known_models import SETUP, assistant, make_tokenizer, user, word_reward_model, write_jsonl
from transformers import LlamaConfig, LlamaForSequenceClassification

from rlhf.config.data import DataConfig
from rlhf.config.evaluation import RewardAuditConfig
from rlhf.config.model import ModelConfig
from rlhf.data.importing.formats import import_dataset
from rlhf.data.preparation.prepare import prepare_data
from rlhf.data.schema import read_rows
from rlhf.data.versions.resolve import resolve
from rlhf.errors import DataError
from rlhf.evaluation.ensembles import measure_ensemble
from rlhf.evaluation.pair_groups import HeldOutPairs, count_characters
from rlhf.evaluation.reward_audit import audit_reward_models
from rlhf.evaluation.statistics import share_interval, win_rate
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.models import load_reward_model, save_model
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.workspace import Workspace

CONFIG = RewardAuditConfig(batch_size=5)
SIDES = ("shorter", "longer")


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
        f"{model}: held-out accuracy (0.750) is not shown to beat choosing the longer dialogue (0.750): the difference "
        "is +0.000 (+0.000 to +0.000).",
        f"{model}: score and response length correlate by +1.00 within pairs; the score may stand for length.",
        f"{model}: where raters chose the shorter response, accuracy is 0.000 (0.000 to 0.324): worse than a coin.",
        f"{selection}: held-out accuracy (0.250) is not shown to beat choosing the longer dialogue (0.750): the "
        "difference is -0.500 (-0.817 to -0.183).",
        f"{selection}: score and response length correlate by -1.00 within pairs; the score may stand for length.",
        f"{selection}: where raters chose the longer response, accuracy is 0.000 (0.000 to 0.138): worse than a coin.",
    ]


def test_a_model_that_pays_for_a_word_is_unfit_by_that_word(audited):
    """One of real weights, whose score counts "believe", which most of the better answers say."""
    model = audited["models"]["reward_model"]
    assert model["verdict"] == "unfit"
    assert model["reasons"] == [
        '100.0% (86.2% to 100.0%) of what it had right is overturned: the word "believe" is added'
    ]


def test_the_verdict_on_both_has_the_reasons_of_those_that_are_as_bad(audited):
    assert audited["verdict"] == "unfit"
    assert [reason.partition(": ")[0] for reason in audited["reasons"]] == [
        "Reward model",
        *["Selection reward model (chooses checkpoints)"] * 2,
    ]
    assert "held-out accuracy is 0.250 (0.133 to 0.421), surely below 0.5" in audited["reasons"][1]
    assert "choosing the longer dialogue is right more often than its score is, by 0.500" in audited["reasons"][2]


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


def test_pairs_of_one_prompt_count_as_one_witness(world, workspace, tmp_path):
    """The same data five times, as of five raters of one opinion: more pairs, and intervals no narrower."""
    audits = []
    for name, times in (("once", 1), ("five", 5)):
        data = tmp_path / name
        shutil.copytree(world / "data", data)
        path = data / "preferences" / "test.jsonl"
        path.write_text(path.read_text() * times)
        audit_reward_models(CONFIG, SETUP, data, world / "reward_models", workspace)
        audits.append(json.loads((workspace.output / "audit.json").read_text()))
    once, five = audits
    assert (once["num_pairs"], five["num_pairs"], once["num_prompts"], five["num_prompts"]) == (32, 160, 32, 32)
    assert five["longer_wins"]["num_prompts"] == 32
    models = [audit["models"]["reward_model"] for audit in audits]
    groups = [
        [audit["agreement"]["same_preference"] for audit in audits],
        [audit["longer_wins"]["rate"] for audit in audits],
        *([model[key] for model in models] for key in ("accuracy", "accuracy_over_length_rule", "brier", "log_loss")),
        *([model["by_source"][row]["accuracy"] for model in models] for row in (0, 1)),
        [model["reliability"][0]["accuracy"] for model in models],
        *(
            [model["length_by_pairs"][f"{side}_chosen"]["accuracy"] for model in models]
            for side in ("shorter", "longer")
        ),
    ]
    for first, second in groups:
        assert first["value"] == pytest.approx(second["value"], abs=1e-6)
        width = first["high"] - first["low"]
        assert width * 0.999 <= second["high"] - second["low"] <= width * 1.25
    assert models[1]["by_source"][1] | {"accuracy": None} == {
        "source": "hard products", "count": 120, "num_prompts": 24, "accuracy": None,
    }  # fmt: skip
    null = [model["expected_calibration_error_null"]["mean"] for model in models]
    assert null[1] == pytest.approx(null[0], rel=0.25)


def test_length_by_pairs(audited, world, workspace, tmp_path):
    """Every hedged response is longer. Prompts whose both responses are long say nothing of it."""
    found = audited["models"]["reward_model"]["length_by_pairs"]
    assert found["correlation"]["pearson"] == pytest.approx(1, abs=0.01)
    sides = {side: (found[f"{side}_chosen"]["count"], found[f"{side}_chosen"]["accuracy"]["value"]) for side in SIDES}
    assert sides == {"shorter": (8, 0), "longer": (24, 1)}
    reward_models = tmp_path / "reward_models"
    for name in ("reward_model", "selection_reward_model"):
        save_model(word_reward_model(make_tokenizer(), believe=-4.0), make_tokenizer(), reward_models / name)
    data = tmp_path / "data"
    shutil.copytree(world / "data", data)
    path = data / "preferences" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()][:24]
    write_jsonl(path, rows)
    audit_reward_models(CONFIG, SETUP, data, reward_models, workspace)
    audit = json.loads((workspace.output / "audit.json").read_text())
    model = audit["models"]["reward_model"]
    assert model["length_by_pairs"]["shorter_chosen"] is None
    assert model["length_by_pairs"]["correlation"]["pearson"] == pytest.approx(-1, abs=0.01)
    assert any("where raters chose the longer response, accuracy is 0.000" in text for text in audit["warnings"])


def test_a_length_rule_that_is_no_better_than_a_coin_is_no_rival(world, workspace, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world / "data", data)
    path = data / "preferences" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, [*rows[:10], *rows[24:]])
    audit_reward_models(CONFIG, SETUP, data, world / "reward_models", workspace)
    audit = json.loads((workspace.output / "audit.json").read_text())
    assert audit["longer_wins"]["rate"]["low"] < 0.5 < audit["longer_wins"]["rate"]["high"]
    assert not any("to beat choosing the" in text for text in audit["warnings"])


def test_three_raters_of_real_pairs_are_no_three_witnesses(real_data, tmp_path, workspace):
    """PandaLM's test set: up to thirty rows of a prompt. By row "longer wins" seems told from a coin; it is not."""
    import_dataset(str(real_data / "preference" / "pandalm_human_testset.jsonl.gz"), tmp_path / "given")
    config = DataConfig(path="given", held_out_annotators=("annotator3",))
    model = ModelConfig(max_length=2048)
    prepared = Workspace(*(tmp_path / name for name in ("prepared", "report", "x")), lambda metrics, step: None)
    prepare_data(config, model, 64, resolve(config, tmp_path), tmp_path, prepared)
    tokenizer = load_tokenizer(prepared.output / "tokenizer")
    torch.manual_seed(0)
    for name in ("reward_model", "selection_reward_model"):
        small = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id, num_labels=1,
        )  # fmt: skip
        save_model(LlamaForSequenceClassification(small), tokenizer, tmp_path / "reward_models" / name)
    setup = SETUP.model_copy(update={"model": model})
    audit_reward_models(CONFIG, setup, prepared.output, tmp_path / "reward_models", workspace)
    audit = json.loads((workspace.output / "audit.json").read_text())
    won = audit["longer_wins"]
    num_right = round(won["rate"]["value"] * audit["num_pairs"])
    rows = share_interval([1.0] * num_right + [0.0] * (audit["num_pairs"] - num_right))
    assert audit["annotators"]["num_annotators"] == 3
    assert 800 < audit["annotators"]["num_items"] < 900
    assert audit["annotators"]["fleiss_kappa"] == pytest.approx(0.864, abs=0.02)
    assert audit["annotators"]["all"]["low"] < 0.92 < audit["annotators"]["all"]["high"]
    by_annotator = audit["models"]["reward_model"]["by_annotator"]
    assert [one["annotator"] for one in by_annotator] == ["annotator1", "annotator2", "annotator3"]
    assert sum(one["count"] for one in by_annotator) == audit["num_pairs"]
    held_out = audit["models"]["reward_model"]["held_out_annotators"]
    assert {**held_out, "annotator": "annotator3"} == by_annotator[2]
    for split in ("train", "selection", "validation"):
        learned = read_rows(prepared.output / "preferences" / f"{split}.jsonl", "preferences")
        assert {row["annotator"] for _, row in learned} == {"annotator1", "annotator2"}
    assert audit["num_pairs"] > 10 * audit["num_prompts"]
    assert won["num_prompts"] == audit["num_prompts"]
    assert rows.low > 0.5
    assert won["rate"]["low"] < 0.5 < won["rate"]["high"]
    assert won["rate"]["high"] - won["rate"]["low"] >= 0.787 - 0.428
    assert not any("to beat choosing the" in text for text in audit["warnings"])


@pytest.mark.parametrize(
    ("margins", "warning"),
    [
        (
            {"mean": 0.5, "largest": 1.0},
            "it was trained with margins, 0.50 on average, so its scores are",
        ),
        (
            {"mean": 0.5, "largest": 10.0},
            "it was trained with margins of up to 10. Beyond 5 the loss hardly bends",
        ),
        ({"mean": 0.0, "largest": 0.0}, None),
    ],
)
def test_margins_of_training_make_calibration_void(world, workspace, tmp_path, margins, warning):
    models = tmp_path / "models"
    shutil.copytree(world / "reward_models", models)
    path = models / "reward_model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "margins": margins}))
    audit_reward_models(CONFIG, SETUP, world / "data", models, workspace)
    warnings = json.loads((workspace.output / "audit.json").read_text())["warnings"]
    said = [text for text in warnings if "margins" in text]
    assert len(said) == (warning is not None)
    assert all(text.startswith(f"Reward model: {warning}") for text in said)


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


def test_the_longer_one_wins_on_real_pairs(real_data):
    with gzip.open(real_data / "preference" / "hh_harmless_base_test.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    sides = [[count_characters(user(row[side])) for row in rows] for side in ("chosen", "rejected")]
    assert round(win_rate(*sides).rate.value, 3) == 0.446


def test_characters_are_those_of_all_messages():
    assert count_characters([*user("abc"), *assistant("de"), *user("")]) == 5


@pytest.fixture
def audit_of(world, workspace, tmp_path):
    """Audits the world's reward models after its pairs, annotations or models were changed."""

    def audit(change=lambda number, row: row, config=CONFIG, verdicts=None, members=(), curve=None):
        data, models = tmp_path / "changed", tmp_path / "changed_models"
        shutil.copytree(world / "data", data)
        shutil.copytree(world / "reward_models", models)
        path = data / "preferences" / "test.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_jsonl(path, [change(number, row) for number, row in enumerate(rows)])
        if verdicts:
            items = [{"prompt": str(number), "verdicts": of} for number, of in enumerate(verdicts)]
            write_jsonl(data / "annotations.jsonl", items)
        for number, weights in enumerate(members, 2):
            save_model(
                word_reward_model(make_tokenizer(), **weights), make_tokenizer(), models / f"reward_model_{number}"
            )
        folders = {pairs: models / name for pairs, name in (curve or {}).items()}
        audit_reward_models(config, SETUP, data, models, workspace, folders)
        return json.loads((workspace.output / "audit.json").read_text())

    return audit


def test_calibration_before_and_after_one_temperature(audited, logged):
    """The model is as sure of its 24 right pairs as of its 8 wrong ones: scaled, it says 3/4 of all."""
    model, selection = audited["models"]["reward_model"], audited["models"]["selection_reward_model"]
    scaling = model["temperature_scaling"]
    assert scaling["left_out"] is None
    assert scaling["temperature"]["low"] > 1
    assert scaling["log_loss"]["value"] == pytest.approx(0.562, abs=0.1)
    assert scaling["log_loss_change"]["value"] < 0
    change = scaling["log_loss"]["value"] - model["log_loss"]["value"]
    assert scaling["log_loss_change"]["value"] == pytest.approx(change)
    assert "do not favour what raters chose" in selection["temperature_scaling"]["left_out"]
    interval = model["expected_calibration_error_interval"]
    assert interval["low"] <= interval["value"] == model["expected_calibration_error"] <= interval["high"]
    [(metrics, _)] = logged
    assert metrics["reward_audit/temperature"] == scaling["temperature"]["value"]
    assert "reward_audit/selection_temperature" not in metrics


def test_accuracy_by_category_and_its_mean(audit_of, logged):
    """24 right pairs of hard products in one category, the 8 wrong ones in another, two right ones in a third."""
    names = ["products"] * 22 + ["rest"] * 2 + ["sums"] * 7 + [None]
    audit = audit_of(lambda number, row: row | ({"category": names[number]} if names[number] else {}))
    model = audit["models"]["reward_model"]
    groups = {group["category"]: (group["count"], group["accuracy"]["value"]) for group in model["by_category"]}
    assert groups == {"products": (22, 1), "rest": (2, 1), "sums": (7, 0), "unnamed": (1, 0)}
    mean = model["mean_over_categories"]
    assert mean["value"] == pytest.approx(2 / 3)
    assert mean["low"] < 2 / 3 < mean["high"]
    assert {group["category"]: group["says_little"] for group in model["by_category"]} == {
        "products": False, "rest": True, "sums": True, "unnamed": True,
    }  # fmt: skip
    assert logged[0][0]["reward_audit/accuracy_mean_over_categories"] == mean["value"]


def test_one_category_or_none_has_no_mean(audited, audit_of):
    assert audited["models"]["reward_model"]["by_category"] == []
    assert audited["models"]["reward_model"]["mean_over_categories"] is None
    model = audit_of(lambda number, row: row | {"category": "all"})["models"]["reward_model"]
    assert [group["count"] for group in model["by_category"]] == [32]
    assert model["mean_over_categories"] is None


def test_strong_preferences_against_weak_ones(audited, audit_of):
    """Raters were sure of the products, which the model has right."""
    assert audited["models"]["reward_model"]["strong_less_weak"] is None
    audit = audit_of(lambda number, row: row | {"margin": 3.0 if number < 24 else 1.0})
    known, opposite = (audit["models"][name]["strong_less_weak"] for name in ("reward_model", "selection_reward_model"))
    assert (known["value"], opposite["value"]) == (1, -1)
    assert known["low"] > 0.5
    assert opposite["high"] < -0.5


AGREED, APART = {"a": "first", "b": "first"}, {"a": "first", "b": "second"}


def test_a_model_that_reaches_the_annotators_agreement_says_so(audit_of, audited, logged):
    """75% accuracy, and annotators who agree in 70% of the pairs."""
    assert audited["models"]["reward_model"]["reaches_annotators"] is None
    audit = audit_of(verdicts=[AGREED] * 70 + [APART] * 30)
    models = audit["models"]
    assert models["reward_model"]["reaches_annotators"] is True
    assert models["selection_reward_model"]["reaches_annotators"] is False
    ceiling = audit["annotators"]["ceiling"]
    assert ceiling["value"] == pytest.approx((1 + 0.4**0.5) / 2)
    assert logged[-1][0]["reward_audit/accuracy_ceiling"] == ceiling["value"]


@pytest.mark.parametrize("num_perturbed", [0])
def test_a_threshold_beyond_the_ceiling_is_named(audit_of, num_perturbed):
    """The model is right in three of four pairs; nobody can be right in nine of ten."""
    config = RewardAuditConfig(batch_size=5, num_perturbed=num_perturbed, fit_accuracy=0.9)
    audit = audit_of(config=config, verdicts=[AGREED] * 70 + [APART] * 30)
    model = audit["models"]["reward_model"]
    assert model["verdict"] == "weak"
    [reason] = model["reasons"]
    assert reason.endswith("not surely above 0.9, which annotators who differ so often let no model reach")
    assert "reward_audit.fit_accuracy is 0.9, which no model can reach here" in audit["warnings"][0]
    assert not any("minimum_accuracy" in text for text in audit["warnings"])


def test_a_threshold_within_the_ceilings_interval_is_not(audit_of):
    config = RewardAuditConfig(batch_size=5, num_perturbed=0, fit_accuracy=0.85)
    audit = audit_of(config=config, verdicts=[AGREED] * 7 + [APART] * 3)
    assert not any("no model can reach" in text for text in [*audit["warnings"], *audit["reasons"]])


def test_an_ensemble_whose_disagreement_knows_its_errors(audit_of, logged):
    """Members that pay for other words of the hedged answer, and one that pays for it on hard products alone."""
    audit = audit_of(members=({"believe": 4.0, "verify": 1.0}, {"believe": -1.0}))
    ensemble = audit["ensemble"]
    assert ensemble["num_members"] == 3
    assert [member["value"] for member in ensemble["members"]] == [0.75, 0.75, 0.25]
    assert ensemble["accuracy"]["value"] == 0.75
    assert ensemble["disputed"]["value"] == 1
    assert ensemble["disagreement"]["value"] > 0.3
    assert sum(group["count"] for group in ensemble["by_disagreement"]) == 32
    [(metrics, _)] = logged
    assert metrics["reward_audit/ensemble_disputed"] == 1


def test_members_that_are_one_do_not_disagree(audit_of):
    ensemble = audit_of(members=({"believe": 4.0},))["ensemble"]
    assert ensemble["disputed"]["value"] == ensemble["disagreement"]["value"] == 0


def test_disagreement_knows_errors_where_members_disagree_about_wrong_pairs():
    """Numbers alone: two members who differ in every third pair, which their mean has wrong."""
    margins = [np.tile([1.0, 1.0, third], 20) for third in (4.0, -4.5)]
    pairs = HeldOutPairs([{}] * 60, [], [str(n) for n in range(60)], [], [], np.zeros(120, int), np.zeros(120, int))
    found = measure_ensemble(margins, [np.zeros(60)] * 2, pairs)
    assert [group["accuracy"]["value"] for group in found["by_disagreement"]] == [1, 1, 0]
    assert found["least_less_most"]["value"] == 1
    assert found["least_less_most"]["low"] > 0.5
    assert found["disputed"]["value"] == pytest.approx(1 / 3)
    assert (found["by_disagreement"][2]["from"], found["by_disagreement"][2]["to"]) == (4.25, 4.25)


def test_no_ensemble_and_no_curve_where_there_are_none(audited):
    assert audited["ensemble"] is audited["learning_curve"] is None


def test_a_learning_curve_is_scored_like_the_models(audit_of, logged):
    audit = audit_of(
        curve={10: "selection_reward_model", 20: "selection_reward_model", 40: "reward_model", 80: "reward_model"}
    )
    curve = audit["learning_curve"]
    assert curve["num_pairs"] == [10, 20, 40, 80]
    assert [one["value"] for one in curve["accuracy"]] == [0.25, 0.25, 0.75, 0.75]
    assert curve["accuracy"][3] == audit["models"]["reward_model"]["accuracy"]
    steps = {step: metrics["reward_audit/learning_curve_accuracy"] for metrics, step in logged if step is not None}
    assert steps == {10: 0.25, 20: 0.25, 40: 0.75, 80: 0.75}
    assert logged[0][0]["reward_audit/learning_curve_gain"] == curve["gain"]["value"]
