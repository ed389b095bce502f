import json
import shutil

import pytest
from stage_runs import KilledError, Run

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.config.supervised import RewardModelConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import DataError
from rlhf.modeling.models import save_model
from rlhf.progress import watching
from rlhf.supervised import learning_curve
from rlhf.supervised.learning_curve import audit_with_learning_curve
from rlhf.supervised.reward_model import train_reward_models

TRAINING = RewardModelConfig(num_epochs=2, batch_size=8, learning_rate=5e-3)
"""8 steps on 32 pairs; 1, 2 and 4 on the parts."""
AUDIT = RewardAuditConfig(learning_curve=True, num_perturbed=0)
SECONDS = "reward_audit/learning_curve_seconds"


@pytest.fixture
def made(tmp_path, tiny_policy, tiny_tokenizer, tiny_setup, arithmetic_data):
    """Outputs of the stages before the audit: data, SFT, reward models."""
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "sft" / "policy")
    (arithmetic_data / "report.json").write_text("{}")
    run = Run(tmp_path / "models")
    train_reward_models(TRAINING, tiny_setup, arithmetic_data, tmp_path / "sft", run.workspace)
    return arithmetic_data, tmp_path / "sft", run.output


def audit(tiny_setup, made, run, training=TRAINING):
    audit_with_learning_curve(AUDIT, training, tiny_setup, *made, run.workspace)
    return json.loads((run.output / "audit.json").read_text())


@pytest.fixture
def trained(monkeypatch):
    """The rows that each model of a curve was trained on."""
    seen, train = [], learning_curve.train_to_end

    def seeing(context, name, rows, *rest):
        seen.append([prompt_key(row["prompt"]) for row in rows])
        train(context, name, rows, *rest)

    monkeypatch.setattr(learning_curve, "train_to_end", seeing)
    return seen


def test_parts_are_nested_and_the_last_point_is_the_reward_model(tiny_setup, made, tmp_path, trained):
    run, heard = Run(tmp_path / "audit"), []
    with watching(lambda *report: heard.append(report)):
        found = audit(tiny_setup, made, run)
    assert [len(part) for part in trained] == [4, 8, 16]
    assert set(trained[0]) < set(trained[1]) < set(trained[2])
    curve = found["learning_curve"]
    assert curve["num_pairs"] == [4, 8, 16, 32]
    assert curve["accuracy"][3] == found["models"]["reward_model"]["accuracy"]
    assert sorted(path.name for path in run.output.iterdir()) == ["audit.json", "reliability.png", "scores.png"]
    assert list(run.curves[SECONDS]) == [4, 8, 16]
    assert min(run.curves[SECONDS].values()) > 0
    assert set(run.curves) == {SECONDS, "reward_audit/learning_curve_accuracy"}
    assert {stage for stage, _, _ in heard} == {"reward_audit"}
    assert heard[-1][1] == heard[-1][2]


def test_a_killed_curve_goes_on_with_the_next_part_and_ends_with_the_same_bits(tiny_setup, made, tmp_path, trained):
    whole = audit(tiny_setup, made, Run(tmp_path / "whole"))
    with pytest.raises(KilledError):
        audit(tiny_setup, made, Run(tmp_path / "killed", killed_at=(SECONDS, 8)))
    del trained[:]
    resumed = Run(tmp_path / "killed")
    assert audit(tiny_setup, made, resumed) == whole
    assert [len(part) for part in trained] == [8, 16]
    assert list(resumed.curves[SECONDS]) == [4, 8, 16]


def test_of_an_ensemble_the_first_members_pairs_are_parted(tiny_setup, made, tmp_path, trained):
    models = made[2]
    shutil.copytree(models / "reward_model", models / "reward_model_2")
    found = audit(tiny_setup, made, Run(tmp_path / "audit"), TRAINING.model_copy(update={"num_members": 2}))
    assert [len(part) for part in trained] == [2, 4, 8]
    assert found["learning_curve"]["num_pairs"] == [2, 4, 8, 16]
    assert found["ensemble"]["num_members"] == 2


def test_too_few_prompts_are_refused_before_anything_is_trained(tiny_setup, made, tmp_path, trained):
    path = made[0] / "preferences" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    run = Run(tmp_path / "audit")
    with pytest.raises(DataError, match=r"train.jsonl: pairs of 5 prompts make no parts of 0.125, 0.25, 0.5, 1; give"):
        audit(tiny_setup, made, run)
    assert not trained
    assert not list(run.output.iterdir())
