"""Best-of-n of the SFT policy: the estimator against all subsets, real sampling, a killed evaluation that goes on."""

import itertools
import json
import math

import numpy as np
import pytest
from known_models import HEDGED, SETUP, make_tokenizer, saying_policy, user, word_reward_model

from rlhf.config.evaluation import EvaluationConfig
from rlhf.evaluation import best_of_n
from rlhf.evaluation.best_of_n import best_of_n_kl, best_of_subsets, measure_best_of_n
from rlhf.gold.calibrated_arithmetic import RULE
from rlhf.modeling.context import StageContext
from rlhf.modeling.models import save_model

CONFIG = EvaluationConfig(best_of_n=8, num_bootstrap=200, batch_size=20)
PROMPTS = [user(f"What is {a} + {b} ?") for a in range(3) for b in range(4)]


@pytest.mark.parametrize("num_samples", [1, 2, 3, 6])
def test_the_estimate_is_the_mean_over_all_subsets(num_samples):
    rng = np.random.default_rng(0)
    values, scores = rng.normal(size=(4, 6)), rng.integers(0, 3, size=(4, 6)).astype(float)  # with ties
    for row, found in enumerate(best_of_subsets(values, scores, num_samples)):
        subsets = itertools.combinations(range(6), num_samples)
        best = [max(subset, key=lambda i: (scores[row, i], -i)) for subset in subsets]
        assert found == pytest.approx(np.mean([values[row, i] for i in best]))


def test_the_kl_is_known():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(64) == pytest.approx(math.log(64) - 63 / 64)


@pytest.fixture
def models(tmp_path):
    """An SFT policy that says many things; a reward model that likes hedging, and a selection model that does not."""
    tokenizer = make_tokenizer()
    save_model(saying_policy(tokenizer, HEDGED, logit=3.0), tokenizer, tmp_path / "sft" / "policy")
    for name, weight in (("reward_model", 4.0), ("selection_reward_model", -4.0)):
        save_model(word_reward_model(tokenizer, believe=weight), tokenizer, tmp_path / "reward_models" / name)
    return tmp_path


def measure(models, checkpoints, config=CONFIG, rule=RULE):
    context = StageContext(config, SETUP, make_tokenizer())
    found = measure_best_of_n(context, 8, PROMPTS, models / "sft", models / "reward_models", rule, models / checkpoints)
    return json.loads(json.dumps(found.as_dict(), allow_nan=False))


def test_what_is_ranked_first_is_judged(models):
    found = measure(models, "whole")
    assert [point["num_samples"] for point in found["points"]] == [1, 2, 4, 8]
    assert [point["kl"] for point in found["points"]] == pytest.approx([best_of_n_kl(n) for n in (1, 2, 4, 8)])
    score, selection = (
        [point["values"][name]["value"] for point in found["points"]] for name in ("score", "selection_score")
    )
    assert score == sorted(score)
    assert score[-1] > score[0] + 0.1
    assert selection == pytest.approx([-value for value in score], abs=1e-4)  # which dislikes what is ranked first
    assert all(-1 <= point["values"]["gold"]["value"] <= 1 for point in found["points"])
    assert found["fits"]["score"]["alpha"]["value"] > 0 > found["fits"]["selection_score"]["alpha"]["value"]
    assert found["num_prompts"] == 12
    assert "gold" not in measure(models, "whole", rule=None)["points"][0]["values"]


def test_all_but_three_of_ten_is_a_number_of_its_own(models):
    found = measure(models, "ten", CONFIG.model_copy(update={"best_of_n": 6}))
    assert [point["num_samples"] for point in found["points"]] == [1, 2, 4, 6]


def test_batches_do_not_change_what_is_sampled(models):
    assert measure(models, "one", CONFIG.model_copy(update={"batch_size": 7})) == measure(models, "other")


def test_a_killed_evaluation_samples_the_rest_alone(models, monkeypatch):
    monkeypatch.setattr(best_of_n, "_PROMPTS_IN_A_PART", 5)
    whole = measure(models, "whole")
    sample, calls = best_of_n.sample, []

    def killed(*arguments):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(arguments)
        return sample(*arguments)

    monkeypatch.setattr(best_of_n, "sample", killed)
    with pytest.raises(KeyboardInterrupt):
        measure(models, "killed")
    kept = sorted(path.name for path in (models / "killed" / "samples").iterdir())
    assert kept == ["prompts_00000000.jsonl"]
    before = [(models / "killed" / "samples" / name).stat().st_mtime_ns for name in kept]
    monkeypatch.setattr(best_of_n, "sample", sample)
    assert measure(models, "killed") == whole
    assert [(models / "killed" / "samples" / name).stat().st_mtime_ns for name in kept] == before
