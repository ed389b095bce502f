"""What chooses a checkpoint is what PPO climbs, in its units, with a judge that it did not climb."""

import json
import math
from dataclasses import asdict

import pytest
import torch

from rlhf.config.rl import RLConfig
from rlhf.policy.kl import kl_exact, kl_k1
from rlhf.policy.objective import Units, best_evaluation, climbed_and_held_out, paired_gain, units_of
from rlhf.rewards.sources import Source

ENDED, LENGTHS = torch.tensor([True, True, False]), torch.tensor([2, 3, 4])


def scores(rewards, raw, selection, start=None, start_selection=None, **settings):
    config = RLConfig(**{"rewards": rewards, "missing_eos_penalty": 0.0} | settings)
    sources = [Source(source) for source in config.rewards]
    raw = {name: torch.tensor(values) for name, values in raw.items()}
    start = raw if start is None else {name: torch.tensor(values) for name, values in start.items()}
    units = units_of(config, sources, start, torch.tensor(selection if start_selection is None else start_selection))
    restored = Units.from_dict(asdict(units))
    assert restored == units
    return climbed_and_held_out(config, sources, raw, torch.tensor(selection), restored, ENDED, LENGTHS)


TRAINED = {"kind": "trained"}
POLITE = {"kind": "function", "name": "polite"}


def test_the_selection_model_stands_where_the_trained_one_stood_in_its_units():
    raw, selection = {"reward_model": [10.0, 14.0, 18.0]}, [-1.0, 3.0, 1.0]
    climbed, held_out = scores([TRAINED], raw, selection)
    assert climbed.tolist() == [10.0, 14.0, 18.0]
    assert held_out.mean() == pytest.approx(14.0)
    assert held_out.std(correction=0) == pytest.approx(climbed.std(correction=0))
    assert held_out.argsort().tolist() == [0, 2, 1], "its order is its own"


def test_units_are_those_of_the_start_whatever_comes_later():
    later = {"reward_model": [20.0, 24.0, 28.0]}
    _, held_out = scores([TRAINED], later, [9.0, 9.0, 9.0], {"reward_model": [1.0, 2.0, 3.0]}, [4.0, 5.0, 6.0])
    assert held_out.tolist() == pytest.approx([6.0, 6.0, 6.0]), "four of its points above the start are four of theirs"


def test_weights_normalization_and_penalties_are_ppos_own():
    rewards = [{**TRAINED, "weight": 10.0}, {**POLITE, "normalize": True, "weight": -2.0}]
    raw = {"reward_model": [0.0, 1.0, 2.0], "polite": [5.0, 5.0, 8.0]}
    climbed, held_out = scores(
        rewards, raw, [0.0, 1.0, 2.0], missing_eos_penalty=4.0, length_penalty=0.5, length_penalty_free_tokens=2
    )
    z = [(value - 6.0) / math.sqrt(2.0) for value in raw["polite"]]
    expected = [0 - 2 * z[0], 10 - 2 * z[1] - 0.5, 20 - 2 * z[2] - 1.0 - 4.0]
    assert climbed.tolist() == pytest.approx(expected, rel=1e-5)
    assert held_out.tolist() == pytest.approx(expected, rel=1e-5), "a judge that agrees changes nothing"
    clipped, _ = scores(rewards, raw, [0.0, 1.0, 2.0], score_clip=3.0)
    assert clipped.tolist() == pytest.approx([-2 * z[0], 3.0, 3.0], rel=1e-5)


def test_without_a_trained_source_the_score_itself_is_the_evidence():
    climbed, held_out = scores([POLITE], {"polite": [1.0, 2.0, 3.0]}, [9.0, -9.0, 0.0])
    assert held_out.tolist() == climbed.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("trained", "selection"), [([1.0, 1.0, 1.0], [0.0, 2.0, 4.0]), ([0.0, 2.0, 4.0], [1.0] * 3)])
def test_a_judge_that_tells_nothing_apart_sets_no_scale(trained, selection):
    _, held_out = scores([TRAINED], {"reward_model": trained}, selection)
    mean = sum(trained) / 3
    assert held_out.tolist() == pytest.approx([mean + value - sum(selection) / 3 for value in selection])


def test_each_member_of_an_ensemble_is_replaced_in_its_own_units():
    rewards = [TRAINED, {**TRAINED, "name": "second", "member": 2}]
    raw = {"reward_model": [0.0, 1.0, 2.0], "second": [10.0, 0.0, 20.0]}
    climbed, held_out = scores(
        rewards, raw, [-2.0, 0.0, 2.0], rewards_combination="mean_less_variance", variance_coef=0
    )
    assert climbed.tolist() == [5.0, 0.5, 11.0]
    step = math.sqrt(200 / 3) / math.sqrt(8 / 3) * 2
    assert held_out.tolist() == pytest.approx([(0 + 10 - step) / 2, (1 + 10) / 2, (2 + 10 + step) / 2])


def test_a_gated_score_keeps_the_units_of_the_start():
    """Whitened by the SFT policy's combined scores throughout; else every evaluation would have a mean of 0."""
    rewards = [TRAINED, {"kind": "function", "name": "safe"}]
    settings = {"rewards_combination": "safety_first", "safety_source": "safe"}
    start = {"reward_model": [0.0, 2.0, 4.0], "safe": [5.0, 5.0, -3.0]}
    later = {"reward_model": [6.0, 8.0, 9.0], "safe": [5.0, 5.0, -3.0]}
    climbed, held_out = scores(rewards, later, [7.0, 7.0, 7.0], start, [0.0, 2.0, 4.0], **settings)
    mean = -1 / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in (0, 2, -3)) / 3)
    assert climbed.tolist() == pytest.approx([(value - mean) / deviation for value in (6, 8, -3)])
    assert held_out.tolist() == pytest.approx([(value - mean) / deviation for value in (7, 7, -3)])


def evaluation(update, objectives, kl=1.0):
    return {"update": update, "kl": kl, "objective": sum(objectives) / len(objectives), "objectives": objectives}


def test_a_gain_within_its_standard_error_is_none():
    start = evaluation(0, [0.0, 1.0, 2.0, 3.0], kl=0.0)
    lucky = evaluation(4, [9.0, 1.0, 2.0, 2.0])
    assert asdict(paired_gain(lucky, start)) == pytest.approx({"mean": 2.0, "standard_error": 2.34520788})
    assert best_evaluation([start, lucky], 20.0) is start
    sure = evaluation(8, [0.5, 1.6, 2.5, 3.6])
    assert best_evaluation([start, lucky, sure], 20.0) is sure
    assert best_evaluation([start, sure, evaluation(12, sure["objectives"])], 20.0) is sure, "of equals the first"


def test_one_prompt_shows_nothing():
    assert best_evaluation([evaluation(0, [0.0]), evaluation(4, [9.0])], 20.0)["update"] == 0


def test_the_budget_bounds_the_choice():
    start, near, far = (
        evaluation(0, [0.0, 0.1], kl=0.0),
        evaluation(4, [1.0, 1.2], kl=1.0),
        evaluation(8, [2.0, 2.2], 1.01),
    )
    assert best_evaluation([start, near, far], 1.0) is near
    assert best_evaluation([start, far], 1.0) is start
    assert best_evaluation([start, near, far], 1.01) is far


def test_the_exact_kl_is_what_k1_estimates_and_never_negative():
    torch.manual_seed(0)
    logits, ref = 3 * torch.randn(2, 3, 7), 3 * torch.randn(2, 3, 7)
    exact = kl_exact(logits, ref, 0.7)
    policy = (logits / 0.7).log_softmax(-1)
    tokens = torch.distributions.Categorical(logits=policy).sample((200_000,))
    logprobs, ref_logprobs = (
        log.expand(200_000, -1, -1, -1).gather(-1, tokens[..., None])[..., 0]
        for log in (policy, (ref / 0.7).log_softmax(-1))
    )
    torch.testing.assert_close(kl_k1(logprobs, ref_logprobs).mean(0), exact, rtol=0.02, atol=0.02)
    assert kl_exact(logits, logits, 0.7).abs().max() < 1e-6
    assert kl_exact(logits, logits + 1e-4 * torch.randn(2, 3, 7), 1.0).min() >= 0.0


def test_the_exact_kl_knows_tokens_that_are_never_said():
    logits = torch.tensor([[[1.0, 2.0, -math.inf]]])
    assert kl_exact(logits, logits, 1.0).item() == 0.0
    assert kl_exact(logits, torch.zeros(1, 1, 3), 1.0).isfinite().all()


WEIGHTS = [{"rewards": [{"weight": w}], "kl_coef": 0.1 * w, "missing_eos_penalty": 0.0} for w in (1.0, 10.0, 30.0)]
LEARNABLE = {"num_updates": 16, "rollout_size": 64, "evaluate_every": 4, "num_minibatches": 4, "num_ppo_epochs": 4}
LEARNABLE |= {"learning_rate": 1e-3, "value_learning_rate": 3e-3}


def chosen(run):
    summary = json.loads((run.folder / "output" / "summary.json").read_text())
    assert not [alarm for alarm in summary["alarms"] if alarm["name"] == "overoptimization"]
    return summary


def test_the_same_problem_in_other_units_chooses_the_same_checkpoint(tiny_run):
    """Values stay 0, so that the advantages, which are whitened, do not know the units either."""
    found = []
    for number, settings in enumerate(WEIGHTS):
        run = tiny_run(f"weight{number}")
        run(**LEARNABLE, sharing="trunk", value_coef=0.0, gae_lambda=1.0, **settings)
        found.append({e["update"]: e["eos_rate"] for e in run.evaluations()} | {"chosen": chosen(run)["chosen_update"]})
    assert found[0]["chosen"] > 0
    assert found[0][found[0]["chosen"]] > 0.9, "the problem is solved"
    assert found == [found[0]] * 3


def test_a_normalized_score_keeps_the_policy_that_solves_the_problem(tiny_run, tiny_tokenizer, like_last_token):
    """The reward models' scores are small beside a KL penalty in units of normalized ones."""
    run = tiny_run()
    for name in ("reward_model", "selection_reward_model"):
        like_last_token(run.reward_models / name, tiny_tokenizer.eos_token_id, 0.05)
    run(**LEARNABLE, rewards=[{"normalize": True}], kl_coef=0.1, missing_eos_penalty=0.0)
    evaluations = {e["update"]: e for e in run.evaluations()}
    assert evaluations[chosen(run)["chosen_update"]]["eos_rate"] > 0.9


def test_what_a_function_alone_taught_is_kept(tiny_run, install):
    install(
        "def short(p, responses):\n    return [4 - len(t.split()) for t in responses]\n", "short = my_rewards:short"
    )
    run = tiny_run()
    run(**LEARNABLE, rewards=[{"kind": "function", "name": "short"}], kl_coef=0.05, missing_eos_penalty=0.0)
    summary = chosen(run)
    assert summary["chosen_update"] > 0
    assert not any("SFT policy was kept" in flag for flag in summary["flags"])
    scores = [e["score"] for e in run.evaluations()]
    assert scores[-1] > scores[0] + 2
