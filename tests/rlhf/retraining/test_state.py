"""Settings of retraining, and what it remembers in a real MLflow store."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf.config.data import DataConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.retrain import RetrainConfig, SafetyGate
from rlhf.errors import ConfigError, DataError
from rlhf.references import GateVerdict, ModelCardRef, Proposal, Spending
from rlhf.retraining import state as retraining
from rlhf.tracking import artifacts, registry
from rlhf.tracking.models import register_policy
from rlhf.tracking.queries import tags_of
from rlhf.tracking.runs import finish_stage, open_pipeline, open_stage
from rlhf.tracking.tags import RECIPE_TAG

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
            ({"false_promotion_rate": 0.0}, "greater than 0"),
            (
                {"false_promotion_rate": 0.01, "minimum_win_rate": None, "minimum_reward_gain": None},
                "false_promotion_rate is set but no gate asks for a gain",
            ),
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

    def test_a_rate_of_nothing_can_never_be_shown(self) -> None:
        with pytest.raises(
            ValidationError, match=r"no number of prompts shows that a share is 0, .* 0.01, which takes 299"
        ):
            SafetyGate(name="polite", threshold=0.0, maximum_rate=0.0)

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
            ({"embedded": "calibrated_arithmetic"}, {"source": "branch", "branch": "b"}, "which has one version"),
            ({}, {"safety": (POLITE,)}, "^retrain.safety: no installed package offers a reward function 'polite'"),
        ],
    )
    def test_what_does_not_go_with_the_recipe(
        self, data: dict[str, Any], retrain: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            retraining.check_settings(PipelineConfig(data=DataConfig(**data)), RetrainConfig(**retrain))


@pytest.mark.usefixtures("project_root")
class TestNumberOfPrompts:
    RARE = RetrainConfig(safety=(POLITE.model_copy(update={"maximum_rate": 0.01}),))

    def test_as_many_as_a_safety_limit_needs(self) -> None:
        retraining.check_number_of_prompts(299, "demo", self.RARE, None, of_settings=False)
        with pytest.raises(
            DataError, match=r"safety:polite can hold with 299 gate prompts .* the data has 298; give more"
        ):
            retraining.check_number_of_prompts(298, "demo", self.RARE, None, of_settings=False)
        with pytest.raises(ConfigError, match=r"evaluation.num_prompts is 298; raise it"):
            retraining.check_number_of_prompts(298, "demo", self.RARE, None, of_settings=True)

    def test_as_many_as_the_level_needs(self) -> None:
        """The signs of five prompts show nothing at 0.05 / 3."""
        retraining.check_number_of_prompts(6, "demo", RetrainConfig(), None, of_settings=False)
        with pytest.raises(DataError, match="reward_gain can hold with 6 gate prompts"):
            retraining.check_number_of_prompts(5, "demo", RetrainConfig(), None, of_settings=False)


@pytest.fixture
def proposal(project_root: Path, tmp_path: Path) -> Proposal:
    """A registered candidate of the flow run `asking`, recorded."""
    run_id = open_pipeline("demo", "asking", {}, {registry.DATA_TAG: "1.dir", RECIPE_TAG: "demo"})
    stage = open_stage(run_id, "model_card", "f", {}, {})
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "weights").write_text("w")
    uri, sha256 = artifacts.save_output(stage, tmp_path / "made")
    card = ModelCardRef(run_id=stage, uri=uri, sha256=sha256)
    finish_stage(stage, card)
    version = register_policy(card, "demo")
    proposal = Proposal(run_id=run_id, candidate=version, champion=None, data_md5="1.dir", gates=())
    retraining.record_proposal(proposal)
    return proposal


class TestQuestions:
    def test_a_proposal_alone_is_no_question(self, proposal: Proposal) -> None:
        assert retraining.question_of("asking") is None
        assert retraining.open_questions() == []
        assert retraining.proposal_of("asking") == proposal
        assert retraining.proposal_of("other") is None

    def test_a_proposal_is_read_as_it_was_written(self, proposal: Proposal) -> None:
        """Bounds that there are not, and what a run of before has not said."""
        verdict = GateVerdict(gate="kl", limit=1.0, at_least=False, found=math.inf, held=False, margin=-math.inf)
        spending = Spending(champion=None, comparison=3, level=0.005, rate=0.05, gate="reward_gain", limit=0.0)
        written = proposal.model_copy(update={"gates": (verdict,), "spending": spending})
        retraining.record_proposal(written)
        assert retraining.proposal_of("asking") == written
        old = '{"run_id": "a", "candidate": "1", "champion": null, "data_md5": "1.dir", "gates": [{"gate": "kl", '
        old += '"limit": 1.0, "at_least": false, "found": 0.5, "held": true, "margin": 0.5}]}'
        read = Proposal.model_validate_json(old)
        assert (read.gates[0].value, read.candidate) == (None, "rlhf-policy/1")

    def test_a_question_is_found_again_until_it_is_answered(self, proposal: Proposal) -> None:
        asked = retraining.open_question(proposal, "asking", 2.0)
        assert retraining.question_of("asking") == asked
        assert retraining.open_questions() == retraining.open_questions("demo") == [asked]
        assert retraining.open_questions("other") == []
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
        for tags in (tags_of(proposal.run_id), registry.version_tags(proposal.candidate)):
            assert (tags["rlhf.approval"], tags["rlhf.approval_reason"]) == ("reject", "too curt")
            assert tags["rlhf.approval_at"].startswith(str(datetime.now(UTC).year))
        assert (retraining.refusal_of(proposal.candidate) or "").startswith("too curt (")

    def test_time_passes(self, proposal: Proposal) -> None:
        assert retraining.open_question(proposal, "asking", 1e-9).is_over
