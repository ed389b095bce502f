import json
import math
import shutil

import matplotlib.image
import pytest
from known_models import (
    EASY,
    HARD,
    HEDGED,
    LOGIT,
    PLAIN,
    SETUP,
    make_tokenizer,
    saying_policy,
    user,
    write_jsonl,
)

from rlhf.config.evaluation import EvaluationConfig
from rlhf.errors import DataError
from rlhf.evaluation.policy import evaluate_policy
from rlhf.modeling.models import save_model

CONFIG = EvaluationConfig(num_prompts=48, batch_size=7, num_side_by_side=5, num_bootstrap=500)


def evaluate(folder, workspace, config=CONFIG, setup=SETUP, max_response_tokens=16):
    evaluate_policy(
        config,
        setup,
        max_response_tokens,
        folder / "data",
        folder / "policy",
        folder / "sft",
        folder / "reward_models",
        workspace,
    )
    return json.loads((workspace.output / "evaluation.json").read_text())


@pytest.fixture
def evaluated(world, workspace):
    return evaluate(world, workspace)


@pytest.fixture
def own_world(world, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


def test_gold_figures_by_hand(evaluated):
    # 16 easy questions, of which "3" answers four, and 32 hard ones. The baseline is plain: 4 * 1 - 44 * 1.
    # The policy hedges: 4 * 0.5 + 44 * 0. It loses where plain was right, and wins everywhere else.
    policy, baseline = evaluated["models"]["policy"], evaluated["models"]["baseline"]
    assert (evaluated["judge"], evaluated["num_prompts"]) == ("gold", 48)
    assert evaluated["num_prompts_by_kind"] == {"easy": 16, "hard": 32}
    assert policy["gold"]["value"] == pytest.approx(2 / 48)
    assert baseline["gold"]["value"] == pytest.approx(-40 / 48)
    assert evaluated["gains"]["gold"]["value"] == pytest.approx(42 / 48)
    assert evaluated["gains"]["gold"]["low"] < 42 / 48 < evaluated["gains"]["gold"]["high"]
    won = evaluated["win_rate"]
    assert (won["wins"], won["ties"], won["losses"], won["rate"]["value"]) == (44, 0, 4, 44 / 48)


def test_behaviour_by_hand(evaluated):
    policy, baseline = evaluated["models"]["policy"], evaluated["models"]["baseline"]
    for name, ours, theirs in (
        ("hedging_easy", 1, 0),
        ("hedging_hard", 1, 0),
        ("accuracy_easy", 4 / 16, 4 / 16),
        ("accuracy_hard", 0, 0),
        ("eos_rate", 1, 1),
    ):
        assert (policy[name]["value"], baseline[name]["value"]) == (ours, theirs)
        assert policy[name]["low"] <= ours <= policy[name]["high"]
    # "I believe the answer is 3 , but please verify ." has eleven words and as many tokens; EOS is one more.
    assert (policy["response_tokens"]["value"], baseline["response_tokens"]["value"]) == (12, 6)
    assert policy["distinct_1"] == pytest.approx(11 / (48 * 11))
    assert baseline["distinct_2"] == pytest.approx(4 / (48 * 4))


def test_kl_by_hand(evaluated):
    # On "I" and on "," the baseline wants another token; seven more tokens follow one that it knows nothing about.
    expected = 2 * LOGIT + 7 * math.log(len(make_tokenizer()))
    assert evaluated["kl"]["value"] == pytest.approx(expected, rel=1e-4)
    assert evaluated["kl"]["low"] <= evaluated["kl"]["value"] <= evaluated["kl"]["high"]


def test_both_reward_models_give_their_verdict(evaluated):
    rates = {judge: one["rate"]["value"] for judge, one in evaluated["win_rates"].items()}
    assert rates == {"gold": 44 / 48, "reward_model": 1, "selection_reward_model": 0}
    assert evaluated["gains"]["reward_model"]["low"] > 0
    assert evaluated["gains"]["selection_reward_model"]["high"] < 0
    assert set(evaluated["score_gold_correlation"]) == {"policy", "baseline"}


def test_curve_by_hand(evaluated, workspace):
    points = json.loads((workspace.output / "curve.json").read_text())["points"]
    assert [(point["update"], point["chosen"], point["num_responses"]) for point in points] == [
        (0, False, 12),
        (4, True, 12),
        (8, False, 12),
    ]
    # Four easy questions, one of them answered by "3", and eight hard ones: (1 - 11) / 12, (0.5 - 6) / 12, 0.5 / 12.
    assert [point["gold"]["value"] for point in points] == pytest.approx([-10 / 12, -5.5 / 12, 0.5 / 12])
    assert [point["shares"]["hedging_easy"]["value"] for point in points] == [0, 1, 1]
    assert [point["shares"]["hedging_hard"]["value"] for point in points] == [0, 0.25, 1]
    assert [point["sqrt_kl"] for point in points] == pytest.approx([0.05**0.5, 1.05**0.5, 2.05**0.5])
    assert any("chosen checkpoint (update 4)" in warning for warning in evaluated["warnings"])


def test_where_the_run_turned_is_told_and_checked(evaluated, logged):
    # The score rises by 1 each time; the selection score is 0, 1 and 0; gold reward rises.
    found = evaluated["overoptimization"]
    turn = found["turn"]
    assert (turn["state"], turn["update"], turn["earliest"], turn["latest"]) == ("over_optimized", 4, 4, 4)
    assert (turn["fall"]["mean"], turn["rise"]["mean"]) == pytest.approx((1, 1))
    assert found["gold_turn"]["state"] == "none"
    assert found["best_of_n"] is None
    assert found["fits"] == {"score": None, "selection_score": None, "gold": None}, "two points besides the start"
    metrics = next(metrics for metrics, step in logged if step is None)
    assert metrics["evaluation/over_optimized"] == 1
    assert metrics["evaluation/over_optimized_from"] == metrics["evaluation/over_optimized_from_high"] == 4


def test_best_of_n_of_the_baseline_is_set_beside_the_policy(own_world, workspace, logged):
    save_model(saying_policy(make_tokenizer(), HEDGED, logit=3.0), make_tokenizer(), own_world / "sft" / "policy")
    config = CONFIG.model_copy(update={"best_of_n": 8})
    found = evaluate(own_world, workspace, config)["overoptimization"]["best_of_n"]
    assert [point["num_samples"] for point in found["points"]] == [1, 2, 4, 8]
    assert found["num_prompts"] == 12, "the validation prompts of the curve"
    steps = {step: metrics for metrics, step in logged if "evaluation/best_of_n_gold" in metrics}
    assert steps[8]["evaluation/best_of_n_score"] == found["points"][-1]["values"]["score"]["value"]
    (final,) = [metrics for metrics, step in logged if step is None]
    assert final["evaluation/best_of_n_seconds"] > 0
    first = {path.name: path.read_bytes() for path in workspace.output.iterdir()}
    evaluate(own_world, workspace, config)
    assert {path.name: path.read_bytes() for path in workspace.output.iterdir()} == first


def test_metrics_are_declared_and_equal_the_file(evaluated, logged):
    final = [metrics for metrics, step in logged if step is None]
    assert len(final) == 1
    expected = {
        "win_rate": 44 / 48,
        "policy_gold": 2 / 48,
        "gold_gain": 42 / 48,
        "policy_hedging_hard": 1,
        "policy_accuracy_easy": 0.25,
        "kl": evaluated["kl"]["value"],
        "gold_gain_low": evaluated["gains"]["gold"]["low"],
        "selection_score_win_rate": 0,
    }
    assert {name: final[0][f"evaluation/{name}"] for name in expected} == pytest.approx(expected)
    gold = {step: metrics["evaluation/curve_gold"] for metrics, step in logged if step is not None}
    assert gold == pytest.approx({0: -10 / 12, 4: -5.5 / 12, 8: 0.5 / 12})


def test_files_for_people(evaluated, workspace):
    picture = matplotlib.image.imread(workspace.output / "overoptimization.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05
    for folder in (workspace.output, workspace.report):
        rows = [json.loads(line) for line in (folder / "side_by_side.jsonl").read_text().splitlines()]
        assert len(rows) == 5
        assert all((row["policy"]["response"], row["baseline"]["response"]) == (HEDGED, PLAIN) for row in rows)
        table = (folder / "side_by_side.md").read_text()
        assert table.count("I believe the answer is 3 , but please verify .<br>") == 5


def test_every_prompt_is_kept_with_what_the_judges_gave(evaluated, workspace):
    rows = [json.loads(line) for line in (workspace.output / "judgements.jsonl").read_text().splitlines()]
    assert len(rows) == evaluated["num_prompts"]
    for side, model in (("policy", "policy"), ("baseline", "baseline")):
        mean = sum(row[side]["gold"] for row in rows) / len(rows)
        assert mean == pytest.approx(evaluated["models"][model]["gold"]["value"])


def test_the_same_input_gives_the_same_bytes(world, workspace, evaluated):
    first = {path.name: path.read_bytes() for path in workspace.output.iterdir()}
    evaluate(world, workspace)
    assert {path.name: path.read_bytes() for path in workspace.output.iterdir()} == first


def test_a_policy_like_its_baseline_ties_everywhere(world, own_world, workspace):
    shutil.rmtree(own_world / "policy" / "policy")
    save_model(saying_policy(make_tokenizer(), PLAIN, logit=2.0), make_tokenizer(), own_world / "sft" / "policy")
    save_model(saying_policy(make_tokenizer(), PLAIN, logit=2.0), make_tokenizer(), own_world / "policy" / "policy")
    found = evaluate(own_world, workspace)
    assert found["kl"] == {"value": 0, "low": 0, "high": 0}
    assert all(one["ties"] == 48 and one["rate"]["value"] == 0.5 for one in found["win_rates"].values())
    assert all(gain == {"value": 0, "low": 0, "high": 0} for gain in found["gains"].values())
    text = "\n".join(found["warnings"])
    assert "does not lie above one half" in text
    assert "not above zero by its interval (+0.000 to +0.000)" in text
    assert "responses end by themselves" in text


def test_batches_do_not_change_what_is_sampled(world, own_world, workspace):
    """With a policy that has more than one thing to say, and against sampling noise keyed by the batch."""
    save_model(saying_policy(make_tokenizer(), HEDGED, logit=3.0), make_tokenizer(), own_world / "policy" / "policy")
    config = CONFIG.model_copy(update={"num_side_by_side": 48})
    evaluate(own_world, workspace, config)
    first = (workspace.output / "side_by_side.jsonl").read_text()
    evaluate(own_world, workspace, config.model_copy(update={"batch_size": 48}))
    responses = [
        [(json.loads(line)[side]["response"]) for line in text.splitlines() for side in ("policy", "baseline")]
        for text in (first, (workspace.output / "side_by_side.jsonl").read_text())
    ]
    assert responses[0] == responses[1]
    assert len(set(responses[0])) > 10


def test_without_a_rule_the_selection_reward_model_judges(own_world, workspace, logged):
    report = json.loads((own_world / "data" / "report.json").read_text())
    (own_world / "data" / "report.json").write_text(json.dumps(report | {"gold": None}))
    found = evaluate(own_world, workspace)
    assert found["judge"] == "selection_reward_model"
    assert found["win_rate"]["rate"]["value"] == 0
    assert list(found["gains"]) == list(found["win_rates"]) == ["selection_reward_model", "reward_model"]
    assert found["win_rates"]["reward_model"]["rate"]["value"] == 1
    assert "gold" not in found["models"]["policy"]
    assert found["score_gold_correlation"] == {}
    assert "The win rate's interval (0.000 to 0.074) does not lie above one half." in found["warnings"]
    metrics = next(metrics for metrics, step in logged if step is None)
    assert (metrics["evaluation/win_rate"], metrics["evaluation/score_win_rate"]) == (0, 1)
    assert matplotlib.image.imread(workspace.output / "overoptimization.png")[..., :3].std() > 0.05


def test_a_rule_that_the_settings_name_judges_other_data(own_world, workspace):
    report = json.loads((own_world / "data" / "report.json").read_text())
    (own_world / "data" / "report.json").write_text(json.dumps(report | {"gold": None}))
    found = evaluate(own_world, workspace, CONFIG.model_copy(update={"gold": "pleasant_words"}))
    # "I believe the answer is 3 , but please verify ." against "The answer is 3 .": of 8 words "please" is not rated
    # as high as 1.5, and of 3 none is.
    assert (found["judge"], found["num_prompts_by_kind"]) == ("gold", {})
    assert found["gold_meaning"].startswith("the share of pleasant words")
    assert found["models"]["policy"]["gold"]["value"] == 0
    assert found["win_rate"]["ties"] == found["num_prompts"]
    assert "hedging_easy" not in found["models"]["policy"]


def test_real_world_markup_stays_text(own_world, workspace):
    """Prompts that look like Markdown or HTML do not break the table."""
    report = json.loads((own_world / "data" / "report.json").read_text())
    (own_world / "data" / "report.json").write_text(json.dumps(report | {"gold": None}))
    texts = ["| a | b |\n| --- |", "<img src=x onerror=alert(1)>", "[x](http://example.org) `code` **b**", "a" * 100]
    write_jsonl(own_world / "data" / "prompts" / "test.jsonl", [{"prompt": user(text[:30])} for text in texts])
    evaluate(own_world, workspace)
    table = (workspace.output / "side_by_side.md").read_text().splitlines()[4:]
    assert len(table) == 2 + 4
    unescaped = [line.replace("\\|", "") for line in table]
    assert {line.count("|") for line in unescaped} == {4}
    assert not any("<img" in line or "[x]" in line for line in table)


def test_responses_that_never_end_are_seen(world, workspace):
    found = evaluate(world, workspace, max_response_tokens=4)
    assert found["models"]["policy"]["eos_rate"]["value"] == 0
    assert found["models"]["policy"]["response_tokens"]["value"] == 4
    assert any("Only 0.0% of the policy's responses end by themselves" in warning for warning in found["warnings"])


@pytest.mark.parametrize("questions", [EASY[:1], []])
def test_too_few_prompts_are_an_error(own_world, workspace, questions):
    write_jsonl(own_world / "data" / "prompts" / "test.jsonl", [{"prompt": user(q)} for q in questions])
    with pytest.raises(DataError, match=r"at least 2 prompts|file is empty"):
        evaluate(own_world, workspace)
    assert not (workspace.output / "evaluation.json").exists()


def test_no_generations_is_an_error(own_world, workspace):
    shutil.rmtree(own_world / "policy" / "generations")
    with pytest.raises(DataError, match="no kept generations"):
        evaluate(own_world, workspace)


def test_hard_questions_only_are_noted(own_world, workspace):
    write_jsonl(own_world / "data" / "prompts" / "test.jsonl", [{"prompt": user(q)} for q in HARD])
    found = evaluate(own_world, workspace)
    assert found["num_prompts"] == 32
    assert any("hard prompts only" in note for note in found["notes"])
    assert "hedging_easy" not in found["models"]["policy"]
