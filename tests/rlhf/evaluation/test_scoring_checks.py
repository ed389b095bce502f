"""Evaluation, audit and gates refuse scores that are no scores. The PPO stage's tests are in rl/test_sources.py."""

import json
import shutil

import pytest
import torch
from known_models import SETUP
from transformers import AutoModelForSequenceClassification

from rlhf.config.evaluation import EvaluationConfig, RewardAuditConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.config.retrain import JudgesConfig
from rlhf.errors import ModelError
from rlhf.evaluation.comparison import compare_policies
from rlhf.evaluation.policy import evaluate_policy
from rlhf.evaluation.reward_audit import audit_reward_models
from rlhf.rewards.scoring import ScoringError, score_batch

CONFIG = EvaluationConfig(num_prompts=8, batch_size=7, num_bootstrap=100)
NOT_FINITE = (ScoringError, "the reward model '.*selection_reward_model' gave a score that is not finite")
TWO_LABELS = (ModelError, "selection_reward_model: a reward model has one label, this one has 2")
TOO_LONG = (ModelError, r"the reward model '.*selection_reward_model' reads 4 tokens, and a dialogue has \d+ .*; lower")


def evaluate(folder, workspace):
    stages = [folder / name for name in ("data", "policy", "sft", "reward_models")]
    evaluate_policy(CONFIG, SETUP, 16, *stages, workspace)


def audit(folder, workspace):
    audit_reward_models(RewardAuditConfig(), SETUP, folder / "data", folder / "reward_models", workspace)


def compare(folder, workspace, judges=JudgesConfig()):  # noqa: B008
    policies = [folder / stage / "policy" for stage in ("policy", "sft", "sft")]
    compare_policies(
        CONFIG, judges, SETUP, 16, "noise", folder / "data", *policies, folder / "reward_models", None, workspace
    )


def compare_safety(folder, workspace):
    """The model that is broken judges the candidate's safety; the candidate's own models are whole."""
    judge = folder.rename(folder.with_name("judge")) / "reward_models" / "selection_reward_model"
    shutil.copytree(judge.parents[1], folder)
    for name in ("reward_model", "selection_reward_model"):
        shutil.rmtree(folder / "reward_models" / name)
        shutil.copytree(judge.with_name("reward_model"), folder / "reward_models" / name)
    safety = RewardSourceConfig(kind="model", name="safety", path=str(judge))
    compare(folder, workspace, JudgesConfig(safety=(safety,)))


def with_nan(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.score.weight.fill_(torch.nan)
    model.save_pretrained(folder)


def with_two_labels(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.config.num_labels = 2
    AutoModelForSequenceClassification.from_config(model.config).save_pretrained(folder)


def with_short_context(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4}))


@pytest.mark.parametrize(
    ("spoil", "error"), [(with_nan, NOT_FINITE), (with_two_labels, TWO_LABELS), (with_short_context, TOO_LONG)]
)
@pytest.mark.parametrize("score", [evaluate, audit, compare, compare_safety])
def test_scores_that_are_none_are_refused(world, workspace, tmp_path, score, spoil, error):
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    report = json.loads((folder / "data" / "report.json").read_text())
    (folder / "data" / "report.json").write_text(json.dumps(report | {"gold": None}))
    spoil(folder / "reward_models" / "selection_reward_model")
    with pytest.raises(error[0], match=error[1]) as caught:
        score(folder, workspace)
    assert "\n" not in str(caught.value)
    assert not list(workspace.output.iterdir())


def test_a_model_in_memory_that_gives_several_scores(world):
    model = AutoModelForSequenceClassification.from_pretrained(
        world / "reward_models" / "reward_model", num_labels=2, ignore_mismatched_sizes=True
    )
    ids = torch.tensor([[1, 2, 3], [3, 4, 5]])
    with torch.no_grad(), pytest.raises(ScoringError, match="'two' gave 4 scores for 2 responses; it must have one"):
        score_batch(model, "two", ids, torch.ones_like(ids))
