"""The pipeline on configs/stories.yaml: a base writes, a rule labels, and the report says what the rule finds."""

from pathlib import Path

import pytest
from made_story_base import save_story_base

from flows import stages
from flows.pipeline import rlhf_pipeline
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.metrics import METRICS
from rlhf.provenance.storage import read_record
from rlhf.runs.audit.target import find_target
from rlhf.runs.audit.verify import verify
from rlhf.tracking.client import client

STORIES = Path(__file__).parents[2] / "configs" / "stories.yaml"
SMALL = {
    "compute.num_threads": 1,
    "compute.dtype": "fp32",
    "data.max_rows": 160,
    "sft.num_epochs": 1,
    "sft.num_samples": 4,
    "reward_model.num_epochs": 1,
    "rl.num_updates": 4,
    "rl.rollout_size": 32,
    "rl.num_minibatches": 2,
    "rl.num_critic_warmup_updates": 1,
    "rl.max_response_tokens": 24,
    "rl.evaluate_every": 2,
    "rl.num_validation_prompts": 16,
    "evaluation.num_prompts": 24,
    "evaluation.num_bootstrap": 200,
    "evaluation.num_side_by_side": 4,
}

pytestmark = pytest.mark.usefixtures("prefect_server")


def config(base: Path, **settings: object) -> PipelineConfig:
    return load_config(STORIES, {**SMALL, "model.base": str(base), **settings})


def test_from_a_base_to_a_card(project_root: Path, tmp_path: Path):
    base = save_story_base(tmp_path / "base")
    report = rlhf_pipeline(config(base))
    assert {stage.state for stage in report.stages} == {"trained"}

    evaluation = {name: value for name, value in report.metrics.items() if name.startswith("evaluation/")}
    assert 0 < evaluation["evaluation/baseline_gold"] < 1
    assert evaluation["evaluation/gold_gain_low"] <= evaluation["evaluation/gold_gain"]
    assert "evaluation/policy_hedging_easy" not in evaluation
    stage = next(stage for stage in report.stages if stage.name == "evaluation")
    points = client().get_metric_history(stage.run_id, "evaluation/curve_distinct_2")
    assert [point.step for point in points] == [0, 2, 4]
    assert "evaluation/curve_distinct_2" in METRICS

    card = Path(report.model_card or "").read_text(encoding="utf-8")
    for said in (
        "a gold rule that is behind the raters' labels",
        "Gold reward is the share of pleasant words in the response, by the ratings of VADER's lexicon.",
        "4,000 openings of children's stories",
        "(Bradley-Terry), and 5% of the labels",
        "| Distinct-2 |",
        "the responses under comparison are the base's own",
    ):
        assert said in card
    record = read_record(report.run_id)
    assert record.data is not None
    assert (record.data.embedded, record.data.path) == ("stories", "embedded/stories")
    assert verify(find_target(report.run_id)).findings == []

    # Another seed has the same data, another base has other data.
    assert stages.data_stage(config(base, seed=1)).state == "cached"
    assert stages.data_stage(config(save_story_base(tmp_path / "other", seed=1))).state == "trained"
