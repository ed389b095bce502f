"""Best-of-n: what is sampled, which response is kept, what is learned, and that a killed run ends the same."""

import json
import math

import numpy as np
import pytest
from stage_runs import KilledError, Run

from rlhf.best_of_n import samples
from rlhf.best_of_n.samples import Samples, gain_by_number
from rlhf.best_of_n.stage import train_on_best_of_n
from rlhf.config.best_of_n import BestOfNConfig
from rlhf.modeling.models import save_model


@pytest.fixture
def best_of_n_run(tmp_path, tiny_setup, tiny_policy, tiny_tokenizer, arithmetic_data, save_reward_model):
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "sft" / "policy")
    for seed, name in enumerate(("reward_model", "selection_reward_model")):
        save_reward_model(name, seed)

    def train(run, earlier=(), **settings):
        defaults = {"num_samples": 4, "batch_size": 16, "num_epochs": 2, "learning_rate": 3e-3, "evaluate_every": 3}
        defaults |= {"max_response_tokens": 8, "checkpoint_every_seconds": 1e-9, "kl_coef": 0.0, "kl_budget": 1e6}
        config = BestOfNConfig(**(defaults | settings))
        inputs = (arithmetic_data, tmp_path / "sft", tmp_path / "reward_models")
        train_on_best_of_n("best_of_n", config, tiny_setup, *inputs, run.workspace, [other.output for other in earlier])

    return train


def read_samples(run):
    paths = sorted((run.checkpoints / "samples").iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def test_the_best_responses_are_learned(best_of_n_run, tmp_path):
    run = Run(tmp_path / "run")
    best_of_n_run(run, num_samples=8, num_epochs=10)
    evaluations = [json.loads(line) for line in (run.output / "evaluations.jsonl").read_text().splitlines()]
    assert len(read_samples(run)) == 64 * 8
    losses = run.curves["policy/policy_loss"]
    assert losses[40] < losses[4]
    assert evaluations[-1]["score"] > evaluations[0]["score"] + 0.2
    assert evaluations[-1]["eos_rate"] > evaluations[0]["eos_rate"] + 0.2  # what the score counts most
    assert evaluations[-1]["kl"] > 0
    assert run.final["policy/best_of_n_kl_bound"] == pytest.approx(math.log(8) - 7 / 8)
    best = run.curves["policy/best_of_n_score"]
    assert list(best) == [1, 2, 4, 8]
    assert sorted(best.values()) == list(best.values())
    assert "| 8 |" in (run.folder / "report" / "best_of_n.md").read_text()


def test_the_best_is_kept_and_of_equal_ones_the_first():
    found = Samples([[[1], [2], [3]], [[4], [5], [6]]], np.array([[0.0, 2.0, 2.0], [1.0, 0.5, -1.0]]))
    assert found.best() == [[2], [4]]
    one, two, three = gain_by_number(found.scores)
    assert (one.best, two.best, three.best) == (0.5, 1.5, 1.5)
    assert (one.median, two.median, three.median) == (0.5, 0.875, 1.25)
    assert one.kl_bound == 0.0


@pytest.mark.parametrize("killed_at", [("policy/validation_score", 3), ("policy/policy_loss", 5)])
def test_a_run_killed_in_training_ends_with_the_same_bits(killed_at, best_of_n_run, tmp_path):
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed", killed_at)
    best_of_n_run(whole)
    with pytest.raises(KilledError):
        best_of_n_run(killed)
    killed.killed_at = None
    best_of_n_run(killed)
    for name in ("evaluations.jsonl", "summary.json", "policy/model.safetensors"):
        assert (killed.output / name).read_bytes() == (whole.output / name).read_bytes()
    assert killed.curves == whole.curves


def test_a_run_killed_while_it_samples_samples_the_rest_alone(best_of_n_run, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "_PROMPTS_IN_A_PART", 16)
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    best_of_n_run(whole, num_prompts=40)
    sample, sampled = samples._sample, []

    def sample_two(context, prompts, seed):
        if len(sampled) == 2:
            raise KilledError
        sampled.append(prompts)
        return sample(context, prompts, seed)

    monkeypatch.setattr(samples, "_sample", sample_two)
    with pytest.raises(KilledError):
        best_of_n_run(killed, num_prompts=40)
    sampled.clear()
    best_of_n_run(killed, num_prompts=40)
    assert sampled == [range(32, 40)]
    assert read_samples(killed) == read_samples(whole)
    assert killed.weights("policy") == whole.weights("policy")


def test_a_later_round_samples_from_the_one_before_and_learns_the_best_of_both(best_of_n_run, tmp_path):
    first, second, again = (Run(tmp_path / name) for name in ("first", "second", "again"))
    best_of_n_run(first, num_prompts=48, learning_rate=1e-2, num_epochs=10)
    best_of_n_run(second, earlier=[first], num_prompts=40)
    best_of_n_run(again, num_prompts=40)
    kept, own = ((run.output / "best.jsonl").read_text().splitlines() for run in (first, second))
    assert (len(kept), len(own)) == (48, 40)
    assert {*map(str, json.loads(own[0]))} == {"prompt", "response", "response_ids"}
    of_first, of_second, of_again = (run.curves["policy/best_of_n_median"][4] for run in (first, second, again))
    assert of_second > of_first + 0.1  # it is the better policy that samples,
    assert abs(of_again - of_first) < 0.1
    starts = [json.loads((run.output / "evaluations.jsonl").read_text().splitlines()[0]) for run in (first, second)]
    assert starts[1] == starts[0]  # and the SFT policy that is fine-tuned
    assert starts[1]["kl"] == 0.0
    assert max(second.curves["policy/policy_loss"]) == math.ceil(2 * (48 + 40) / 16)
    killed = Run(tmp_path / "killed", ("policy/policy_loss", 5))
    with pytest.raises(KilledError):
        best_of_n_run(killed, earlier=[first], num_prompts=40)
    killed.killed_at = None
    best_of_n_run(killed, earlier=[first], num_prompts=40)
    for name in ("best.jsonl", "evaluations.jsonl", "policy/model.safetensors"):
        assert (killed.output / name).read_bytes() == (second.output / name).read_bytes()
