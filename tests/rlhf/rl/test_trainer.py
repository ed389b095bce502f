"""The PPO stage on tiny models: it learns, chooses, stops, resumes and repeats itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interrupted import contents, run_whole_and_broken
from transformers import AutoModelForCausalLM

from rlhf.config.model import ComputeConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import TrainingDivergedError
from rlhf.policy.flags import run_flags


def test_ppo_raises_a_trivially_learnable_score(tiny_run):
    """The reward model likes responses that end; an untrained policy seldom ends one in time."""
    run = tiny_run()
    run(
        num_updates=20,
        rollout_size=64,
        evaluate_every=10,
        checkpoint_every=10,
        learning_rate=3e-3,
        value_learning_rate=3e-3,
        kl_coef=0.0,
        missing_eos_penalty=0.0,
    )
    eos_rate, score = run.curve("policy/eos_rate"), run.curve("policy/score_mean")
    assert eos_rate[1] < 0.5
    assert eos_rate[20] > 0.9
    assert score[20] > score[1] + 0.8
    assert run.curve("policy/value_loss")[20] < run.curve("policy/value_loss")[1]


def test_kl_is_0_at_the_start_and_the_first_ratio_is_1(tiny_run):
    run = tiny_run()
    run()
    assert run.curve("policy/kl_mean")[1] == 0.0
    assert run.curve("policy/kl_mean")[2] == 0.0, "the critic's warm-up must not move the policy"
    assert run.curve("policy/kl_mean")[4] != 0.0
    assert run.curve("policy/ratio_error")[2] < 1e-4
    assert "policy/policy_loss" not in run.logged[1][0]


def test_the_chosen_checkpoint_has_the_best_objective(tiny_run):
    run = tiny_run()
    output = run(num_updates=6, learning_rate=5e-3)
    evaluations = run.evaluations()
    best = max(evaluations, key=lambda e: e["objective"])
    assert best["update"] > 0
    assert best["gain"] > best["gain_standard_error"] > 0
    assert [e["update"] for e in evaluations] == [0, 2, 4, 6]
    assert [e["update"] for e in evaluations if e["chosen"]] == [best["update"]]
    for e in evaluations:
        assert e["objective"] == pytest.approx(e["held_out_score"] - 0.1 * e["kl"], abs=1e-6)
        assert e["kl"] >= 0
        lines = (output / "generations" / f"update_{e['update']:04d}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == 16
        for name in ("score", "objective", "kl"):
            assert sum(row[name] for row in rows) / 16 == pytest.approx(e[name], abs=1e-5)
    assert json.loads((output / "summary.json").read_text())["chosen_update"] == best["update"]
    AutoModelForCausalLM.from_pretrained(output / "policy")


def test_a_validation_prompt_counts_once(tiny_run, tmp_path):
    """However often, and in whichever case, it stands there."""
    run = tiny_run()
    data = tmp_path / "twice"
    shutil.copytree(run.data, data)
    path = data / "prompts" / "validation.jsonl"
    path.write_text(path.read_text() + path.read_text().replace("What", "what") + path.read_text())
    num_rows = [len((run(num_updates=2) / "generations" / "update_0002.jsonl").read_text().splitlines())]
    run.data = data
    shutil.rmtree(run.folder)
    num_rows.append(len((run(num_updates=2) / "generations" / "update_0002.jsonl").read_text().splitlines()))
    assert num_rows[0] == num_rows[1] > 1


def test_the_sft_policy_is_kept_where_held_out_evidence_only_gets_worse(tiny_run, tiny_tokenizer, like_last_token):
    """The reward model likes EOS and the selection reward model does not: what one gains, the other loses."""
    run = tiny_run()
    like_last_token(run.reward_models / "selection_reward_model", tiny_tokenizer.eos_token_id, -2.0)
    output = run(learning_rate=5e-3, num_updates=12, evaluate_every=6, missing_eos_penalty=0.0)
    evaluations = run.evaluations()
    assert evaluations[-1]["score"] > evaluations[0]["score"] + 0.2
    assert json.loads((output / "summary.json").read_text())["chosen_update"] == 0
    start, chosen = (
        AutoModelForCausalLM.from_pretrained(f).state_dict() for f in (run.start / "policy", output / "policy")
    )
    assert all(torch.equal(start[name], chosen[name]) for name in start)


def test_a_seed_decides_every_bit(tiny_run):
    first, second, other = tiny_run("first"), tiny_run("second"), tiny_run("other")
    other.setup = other.setup.model_copy(update={"seed": 1})
    hashes = [contents(run(learning_rate=1e-3, num_updates=2, kl_coef=0.0)) for run in (first, second, other)]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


@pytest.mark.parametrize("interrupt_at", [1, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_bits(tiny_run, interrupt_at):
    settings = {"num_updates": 6, "checkpoint_every": 2, "learning_rate": 1e-3, "kl_target": 1.0, "kl_horizon": 100}
    whole, broken = run_whole_and_broken(tiny_run, interrupt_at, **settings)
    names = (
        "policy/kl_mean",
        "policy/score_mean",
        "policy/value_loss",
        "policy/kl_coef",
        "policy/validation_objective",
    )
    for name in names:
        assert broken.curve(name) == whole.curve(name)


@pytest.mark.parametrize("settings", [{}, {"side_by_side": True}])
def test_in_bf16_on_two_threads_an_interrupted_run_goes_on_to_the_same_bits(tiny_run, settings):
    """The paths of their own that bf16 and several threads have."""

    def make(name):
        run = tiny_run(name)
        run.setup = run.setup.model_copy(update={"compute": ComputeConfig(dtype="bf16", num_threads=2)})
        return run

    whole, broken = run_whole_and_broken(make, 3, num_updates=5, checkpoint_every=2, learning_rate=1e-3, **settings)
    for name in ("policy/kl_mean", "policy/score_mean", "policy/value_loss", "policy/validation_objective"):
        assert broken.curve(name) == whole.curve(name)


def test_adaptive_kl_moves_the_coefficient(tiny_run):
    run = tiny_run()
    run(kl_target=1.0, kl_horizon=32)
    coefs = run.curve("policy/kl_coef")
    assert coefs[1] == 0.1
    assert coefs[2] == pytest.approx(0.1 * (1 - 0.2 * 16 / 32)), "a KL of 0 is below the target"


def test_a_loss_that_is_not_finite_stops_the_run(tiny_run):
    run = tiny_run()
    with pytest.raises(TrainingDivergedError, match=r"step \d: .*the last good checkpoint is .*update_00000") as raised:
        run(learning_rate=1e30, num_updates=6, learning_rate_schedule="constant")
    assert Path(raised.value.checkpoint).is_dir()
    assert not list((run.folder / "output").iterdir()), "nothing half-written"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda weight: weight.fill_(torch.inf),
            r"step 2: the weight \S+ is not finite; the last good .*update_000001",
        ),
        (
            lambda weight: weight.fill_(3e38),
            r"step 2: the policy's logits are not finite; the last good .*update_000001",
        ),
    ],
)
def test_what_the_last_optimizer_step_breaks_is_neither_evaluated_nor_saved(tiny_run, monkeypatch, spoil, message):
    """The metrics of an update are taken before its last step, and say nothing of it."""
    from rlhf.rl import trainer

    taken = trainer.run_update

    def take_and_spoil(learner, update, *rest):
        outcome = taken(learner, update, *rest)
        if update == 1:
            with torch.no_grad():
                spoil(learner.models.policy.lm_head.weight)
        return outcome

    monkeypatch.setattr(trainer, "run_update", take_and_spoil)
    run = tiny_run()
    with pytest.raises(TrainingDivergedError, match=message):
        run(num_updates=4, evaluate_every=2)
    assert not (run.folder / "checkpoints" / "update_000002").exists()


def test_policies_that_may_be_chosen_do_not_pile_up(tiny_run, monkeypatch):
    """Each evaluation is better than the one before it, and no checkpoint comes between them."""
    from rlhf.policy import choice
    from rlhf.rl import trainer

    kept, keep = [], trainer.remove_other_candidates

    def remove_and_count(checkpoints, *arguments):
        keep(checkpoints, *arguments)
        kept.append(sorted(int(path.name[-4:]) for path in (checkpoints / "candidates").iterdir()))

    evaluated = choice.validate

    def better_and_better(context, prompts, update, *arguments):
        evaluation, generations, units = evaluated(context, prompts, update, *arguments)
        objectives = [float(update)] * len(evaluation.objectives)
        return replace(evaluation, objective=float(update), objectives=objectives), generations, units

    for module in (choice, trainer):
        monkeypatch.setattr(module, "remove_other_candidates", remove_and_count)
    monkeypatch.setattr(choice, "validate", better_and_better)
    run = tiny_run()
    run(num_updates=6, evaluate_every=1, checkpoint_every=3)
    assert kept == [[0], [1], [2], [3], [3], [3, 4], [3, 5], [3, 6], [6]]
    assert json.loads((run.folder / "output" / "summary.json").read_text())["chosen_update"] == 6


def test_the_kl_budget_stops_the_run_and_says_so(tiny_run):
    run = tiny_run()
    output = run(num_updates=30, learning_rate=2e-2, kl_coef=0.0, kl_budget=0.5)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["stopped_because"] == "kl_budget"
    assert summary["num_updates"] < 30


def test_micro_batches_change_memory_and_not_the_result(tiny_run):
    settings = {"num_updates": 2, "learning_rate": 1e-3, "num_minibatches": 1}
    whole, cut = tiny_run("whole"), tiny_run("cut")
    whole(**settings)
    cut(**settings, micro_batch_size=4)
    for name in (
        "policy/policy_loss",
        "policy/value_loss",
        "policy/policy_grad_norm",
        "policy/value_grad_norm",
        "policy/kl_mean",
    ):
        assert cut.curve(name) == pytest.approx(whole.curve(name), rel=1e-3, abs=1e-5)


def test_adapters_are_trained_and_merged(tiny_run):
    run = tiny_run()
    output = run(lora={"rank": 2}, learning_rate=1e-2, kl_coef=0.0, num_updates=3, evaluate_every=3)
    assert run.curve("policy/kl_mean")[1] == 0.0
    assert run.curve("policy/validation_kl")[3] != 0.0
    assert not list(output.rglob("adapter*"))
    AutoModelForCausalLM.from_pretrained(output / "policy")


def test_bf16_starts_within_its_bound(tiny_run):
    run = tiny_run()
    run.setup = run.setup.model_copy(update={"compute": run.setup.compute.model_copy(update={"dtype": "bf16"})})
    run(num_updates=3)
    assert run.curve("policy/kl_mean")[1] == 0.0
    assert run.curve("policy/ratio_error")[2] < 0.1


def test_the_value_model_starts_as_the_reward_model(tiny_run, tiny_setup, save_reward_model):
    from rlhf.modeling.batches import pad_sequences
    from rlhf.modeling.models import load_reward_model, score
    from rlhf.rl.value_model import start_value_model

    folder = save_reward_model("offset", seed=5, score_offset=0.75)
    batch = pad_sequences([[6, 7], [8]], [[9, 10, 5], [11, 5]], 0)
    with torch.no_grad():
        values = start_value_model(load_reward_model(folder, tiny_setup.compute))(batch)
        before_last = batch.attention_mask.clone()
        before_last[torch.arange(2), batch.lengths - 1] = False
        scores = score(load_reward_model(folder, tiny_setup.compute), batch.input_ids, before_last)
    torch.testing.assert_close(torch.stack([values[0, 2], values[1, 1]]), scores)


def test_a_reward_model_with_two_labels_is_refused(tiny_run, save_reward_model):
    run = tiny_run()
    save_reward_model("reward_model", num_labels=2)
    with pytest.raises(ValueError, match="one label, this one has 2"):
        run()


def test_no_checkpoint_beyond_the_kl_budget_is_chosen(tiny_run):
    """The newest policy is the best by far, and what it has learned took it too far."""
    run = tiny_run()
    settings = {"num_updates": 30, "rollout_size": 64, "learning_rate": 5e-3, "evaluate_every": 2, "kl_coef": 0.0}
    output = run(**settings, kl_budget=1.0)
    summary = json.loads((output / "summary.json").read_text())
    evaluations = {e["update"]: e for e in run.evaluations()}
    best = max(evaluations.values(), key=lambda e: e["objective"])
    assert best["kl"] > 1.0, "the test shows nothing otherwise"
    assert evaluations[summary["chosen_update"]]["kl"] <= 1.0
    assert summary["chosen_update"] > 0


def evaluation(update, *objectives, kl=1.0):
    return {"update": update, "kl": kl, "objective": sum(objectives) / len(objectives), "objectives": [*objectives]}


def flags(*evaluations, stopped_because="finished", alarms=(), **settings):
    return run_flags(RLConfig(**settings), evaluations, stopped_because, alarms)


def test_flags_say_what_went_wrong():
    sft, later = evaluation(0, 0.0, 0.1, 0.2), evaluation(4, 1.0, 1.2, 1.1)
    alarm = {"name": "negative_kl", "update": 3, "message": "the mean KL fell", "fatal": True}
    assert flags(sft, later) == []
    assert "passed 20 nats" in flags(sft, later, stopped_because="kl_budget")[0]
    (line,) = flags(sft, later, alarms=[alarm])
    assert line == "Alarm `negative_kl` after update 3: the mean KL fell."
    assert flags(sft, later, stopped_because="negative_kl", alarms=[alarm]) == [f"{line} It ended the run."]


def test_a_run_that_chose_the_sft_policy_says_why():
    sft = evaluation(0, 0.0, 0.1, 0.2)
    assert flags(sft, evaluation(4, -1.0, 0.0, 0.1)) == [
        "No checkpoint was better than the SFT policy on held-out evidence, so the SFT policy was kept."
    ]
    (line,) = flags(sft, evaluation(4, 0.5, -0.1, 0.1))
    assert "by more than the standard error (update 4: +0.067, standard error 0.219)" in line
    assert "beyond the KL budget of 0.5 nats" in flags(sft, evaluation(4, 1.0, 1.2, 1.1), kl_budget=0.5)[0]
    assert "With one validation prompt" in flags(evaluation(0, 0.0), evaluation(4, 9.0))[0]


def test_a_run_without_a_trained_source_says_what_chose():
    (line,) = flags(evaluation(0, 0.0, 0.1), evaluation(4, 1.0, 1.2), rewards=[{"kind": "function", "name": "polite"}])
    assert "chosen by the score that training climbs" in line


def test_a_run_that_recovered_says_so():
    alarm = {"name": "overoptimization", "update": 4, "message": "it fell", "fatal": False}
    sft, dip, end = evaluation(0, 0.0, 0.1, 0.2), evaluation(4, -1.0, -1.2, -1.1), evaluation(8, 1.0, 1.2, 1.1)
    assert flags(sft, dip, end, alarms=[alarm]) == [
        "Alarm `overoptimization` after update 4: it fell. The run recovered: held-out evidence was best after update "
        "8, which was chosen."
    ]
    assert not any("recovered" in flag for flag in flags(sft, dip, alarms=[alarm]))
