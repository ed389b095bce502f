"""Settings of retraining, and what it remembers in a real MLflow store."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf import artifacts, registry, retraining, tracking
from rlhf.config import DataConfig, PipelineConfig, RetrainConfig, SafetyGate
from rlhf.errors import ConfigError
from rlhf.references import ModelCardRef, Proposal

POLITE = SafetyGate(name="polite", threshold=0.5, maximum_rate=0.1)


class TestSettings:
    def test_defaults(self) -> None:
        retrain = RetrainConfig()
        assert (retrain.source, retrain.ask, retrain.approval_timeout_hours) == ("local", False, 7 * 24)
        assert RetrainConfig.model_validate_json(retrain.model_dump_json()) == retrain

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"branch": "feedback"}, "branch is set but source is local"),
            ({"source": "branch"}, "source is branch but branch is not set"),
            ({"source": "branch", "branch": "b", "inbox": "inbox"}, "inbox is set but source is branch"),
            ({"source": "branch", "branch": "--upload-pack=x"}, "pattern"),
            ({"approval_timeout_hours": 1.0}, "approval_timeout_hours is set but ask is false"),
            ({"safety": (POLITE, POLITE)}, "two gates have one name"),
            ({"minimum_win_rate": 1.1}, "less than or equal to 1"),
            ({"maximum_length_growth": 0.0}, "greater than 0"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            RetrainConfig(**settings)

    def test_a_revision_needs_a_reward_model(self) -> None:
        with pytest.raises(ValidationError, match="revision is set but path is not"):
            SafetyGate(name="polite", threshold=0.0, maximum_rate=0.1, revision="abc")

    def test_limits_are_no_part_of_what_is_judged(self) -> None:
        strict = POLITE.model_copy(update={"maximum_rate": 0.0, "threshold": 9.0})
        assert RetrainConfig(safety=(POLITE,)).judges == RetrainConfig(safety=(strict,)).judges

    @pytest.mark.parametrize(
        ("data", "retrain", "message"),
        [
            ({"path": "other"}, {"source": "inbox", "inbox": "inbox"}, r"so data.path \(other\) would be ignored"),
            ({"path": "other"}, {"source": "branch", "branch": "b"}, r"so data.path \(other\) would be ignored"),
            (
                {"embedded": "calibrated_arithmetic"},
                {"source": "inbox", "inbox": "inbox"},
                "set data.embedded to none",
            ),
            ({}, {"safety": (POLITE,)}, "^retrain.safety: no installed package offers a reward function 'polite'"),
        ],
    )
    def test_what_does_not_go_with_the_recipe(
        self, data: dict[str, Any], retrain: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            retraining.check_settings(PipelineConfig(data=DataConfig(**data)), RetrainConfig(**retrain))


@pytest.fixture
def proposal(project_root: Path, tmp_path: Path) -> Proposal:
    """A registered candidate of the flow run `asking`, recorded."""
    run_id = tracking.open_pipeline("demo", "asking", {}, {registry.DATA_TAG: "1.dir"})
    stage = tracking.open_stage(run_id, "model_card", "f", {}, {})
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights").write_text("w")
    uri, sha256 = artifacts.save_output(stage, tmp_path / "made")
    card = ModelCardRef(run_id=stage, uri=uri, sha256=sha256)
    tracking.finish_stage(stage, card)
    version = tracking.register_policy(card)
    proposal = Proposal(run_id=run_id, candidate=version, champion=None, data_md5="1.dir", gates=())
    retraining.record_proposal(proposal)
    return proposal


class TestQuestions:
    def test_a_proposal_alone_is_no_question(self, proposal: Proposal) -> None:
        assert retraining.question_of("asking") is None
        assert retraining.open_questions() == []
        assert retraining.proposal_of("asking") == proposal
        assert retraining.proposal_of("other") is None

    def test_a_question_is_found_again_until_it_is_answered(self, proposal: Proposal) -> None:
        asked = retraining.open_question(proposal, "asking", 2.0)
        assert retraining.question_of("asking") == asked
        assert retraining.open_questions() == [asked]
        assert asked.proposal == proposal
        assert timedelta(hours=1.9) < asked.until - datetime.now(UTC) < timedelta(hours=2)
        assert not asked.is_over
        retraining.record_answer(asked, "reject", "too curt")
        assert retraining.open_questions() == []
        assert retraining.question_of("asking") == asked

    def test_an_answer_is_kept_with_run_and_version(self, proposal: Proposal) -> None:
        asked = retraining.open_question(proposal, "asking", 2.0)
        assert retraining.refusal_of(proposal.candidate) is None
        retraining.record_answer(asked, "reject", "too curt")
        for tags in (tracking.tags_of(proposal.run_id), registry.version_tags(proposal.candidate)):
            assert (tags["rlhf.approval"], tags["rlhf.approval_reason"]) == ("reject", "too curt")
            assert tags["rlhf.approval_at"].startswith(str(datetime.now(UTC).year))
        assert (retraining.refusal_of(proposal.candidate) or "").startswith("too curt (")

    def test_time_passes(self, proposal: Proposal) -> None:
        assert retraining.open_question(proposal, "asking", 1e-9).is_over
