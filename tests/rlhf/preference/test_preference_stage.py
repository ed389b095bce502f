"""The stage: what is learned, what it leaves, and that a killed run ends as one that was not."""

import json
import math

import pytest
from stage_runs import KilledError

from rlhf.config.model import ComputeConfig
from rlhf.data.schema import write_rows

METHODS = ("dpo", "ipo", "kto", "simpo")


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_which_response_is_preferred(method, preference_run):
    run = preference_run()
    run.train(method)
    evaluations = run.evaluations()
    num_steps = 16 if method == "kto" else 8  # the responses of a pair are rows of their own
    assert [evaluation["update"] for evaluation in evaluations] == [*range(0, num_steps, 3), num_steps]
    first, last = evaluations[0], evaluations[-1]
    if method != "simpo":  # whose implicit reward is not 0 at the start
        assert first["implicit_accuracy"] == 0.5
    assert last["implicit_accuracy"] > 0.9
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)
    assert last["kl"] > 0.01
    assert last["chosen_log_ratio"] > last["rejected_log_ratio"]
    assert run.curves["policy/validation_kl"] == {e["update"]: e["kl"] for e in evaluations}
    assert list(run.curves["policy/policy_loss"]) == list(range(1, num_steps + 1))
    assert len(list((run.output / "generations").iterdir())) == len(evaluations)
    assert json.loads((run.output / "summary.json").read_text())["num_updates"] == num_steps
    assert (run.output / "policy" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("method", "killed_at"),
    [
        ("dpo", ("policy/validation_score", 0)),
        ("dpo", ("policy/validation_score", 6)),
        ("dpo", ("policy/validation_implicit_accuracy", 8)),
        ("kto", ("policy/policy_loss", 5)),
        ("ipo", ("policy/policy_loss", 6)),
        ("simpo", ("policy/validation_score", 3)),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(method, killed_at, preference_run):
    whole, killed = preference_run("whole"), preference_run("killed", killed_at)
    whole.train(method)
    with pytest.raises(KilledError):
        killed.train(method)
    killed.killed_at = None
    killed.train(method)
    for name in ("evaluations.jsonl", "summary.json", "policy/model.safetensors"):
        assert (killed.output / name).read_bytes() == (whole.output / name).read_bytes()
    assert killed.curves == whole.curves
    assert killed.final == whole.final


@pytest.mark.parametrize(
    ("dtype", "lora"), [("bf16", None), ("fp32", {"rank": 4, "alpha": 8}), ("bf16", {"rank": 4, "alpha": 8})]
)
def test_in_either_precision_and_with_adapters_too(dtype, lora, preference_run, tiny_setup):
    setup = tiny_setup.model_copy(update={"compute": ComputeConfig(dtype=dtype, num_threads=1)})
    whole, killed = preference_run("whole"), preference_run("killed", ("policy/validation_score", 6))
    whole.setup = killed.setup = setup
    whole.train("dpo", lora=lora, learning_rate=1e-2)
    with pytest.raises(KilledError):
        killed.train("dpo", lora=lora, learning_rate=1e-2)
    killed.killed_at = None
    killed.train("dpo", lora=lora, learning_rate=1e-2)
    assert whole.evaluations()[0]["kl"] == pytest.approx(0.0, abs=1e-2)
    assert whole.evaluations()[-1]["implicit_accuracy"] > 0.9
    assert killed.weights("policy") == whole.weights("policy")
    assert killed.evaluations() == whole.evaluations()


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_micro_batches_change_memory_and_not_the_loss(method, preference_run):
    whole, pieces = preference_run("whole"), preference_run("pieces")
    whole.train(method, num_epochs=1)
    pieces.train(method, num_epochs=1, micro_batch_size=2)
    for name in ("policy/policy_loss", "policy/validation_chosen_log_ratio"):
        assert list(pieces.curves[name].values()) == pytest.approx(list(whole.curves[name].values()), abs=1e-4)


def test_a_spent_kl_budget_ends_the_run(preference_run):
    run = preference_run()
    run.train(kl_budget=0.001)
    assert json.loads((run.output / "summary.json").read_text())["stopped_because"] == "kl_budget"
    assert [evaluation["update"] for evaluation in run.evaluations()] == [0, 3]


def test_likelihood_displacement_is_told_and_can_end_the_run(preference_run):
    run = preference_run()
    alarms = {"likelihood_displacement": 0.0, "fatal": ["likelihood_displacement"]}
    run.train(learning_rate=0.1, alarms=alarms)
    summary = json.loads((run.output / "summary.json").read_text())
    assert summary["stopped_because"] == "likelihood_displacement"
    assert "became less likely than under the SFT policy" in summary["alarms"][0]["message"]


def test_kto_takes_labels_where_there_are_some(arithmetic_data, preference_run):
    rows = [json.loads(line) for line in (arithmetic_data / "preferences" / "train.jsonl").read_text().splitlines()]
    labels = [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in rows[:8]]
    labels += [{"prompt": row["prompt"], "completion": row["rejected"], "label": False} for row in rows[8:]]
    (arithmetic_data / "labels").mkdir()
    write_rows(arithmetic_data / "labels" / "train.jsonl", labels)
    run = preference_run()
    run.train("kto", num_epochs=1)
    assert run.evaluations()[-1]["update"] == 4


def test_dpo_ends_where_the_labels_are_as_noisy_as_it_says(arithmetic_data, preference_run):
    """One of twenty raters is wrong about two responses to one prompt: beta * difference = logit(0.95)."""
    path = arithmetic_data / "preferences" / "train.jsonl"
    pair = json.loads(path.read_text().splitlines()[0])
    flipped = {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}
    write_rows(path, [pair] * 19 + [flipped])
    write_rows(arithmetic_data / "preferences" / "validation.jsonl", [pair])
    run = preference_run()
    run.train(beta=0.5, batch_size=20, num_epochs=80, learning_rate=1e-2, evaluate_every=80)
    last = run.evaluations()[-1]
    reward = 0.5 * (last["chosen_log_ratio"] - last["rejected_log_ratio"])
    assert reward == pytest.approx(math.log(0.95 / 0.05), rel=0.01)
