"""Recipes that ask for feedback between their rounds, on the smoke recipe: simulated raters, people, a judge."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from flows.pipeline import rlhf_pipeline
from flows.stages import STAGE_FLOWS
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.data.schema import read_rows
from rlhf.errors import ConfigError
from rlhf.feedback.rounds import Round, find_round, item_key
from rlhf.feedback.stage import NotAnsweredError
from rlhf.references import DatasetRef, FeedbackRef, PipelineReport
from rlhf.tracking.artifacts import local_path, output_of
from rlhf.tracking.client import tracking_uri
from rlhf.tracking.queries import find
from rlhf.tracking.reviews import ReviewRound
from rlhf.tracking.stores import open_store
from tasks.plan import plan_run

REPOSITORY = Path(__file__).parents[2]
SMOKE = REPOSITORY / "configs" / "smoke.yaml"
CONSTITUTION = REPOSITORY / "configs" / "constitution"
ASKED = {"num_pairs": 60, "num_responses": 4, "simulated": {"error_rate": 0.4}, "overlap": 0.1}

pytestmark = pytest.mark.usefixtures("prefect_server")


def config(**settings: object) -> PipelineConfig:
    values = load_config(SMOKE, {"compute.num_threads": 1}).model_dump(mode="json")
    return PipelineConfig.model_validate(values | settings)


def in_rounds(**of_last: object) -> PipelineConfig:
    values = config().model_dump(mode="json")
    first = {"method": "ppo", "rl": values["rl"], "feedback": ASKED}
    return config(rounds=[first], start="previous", feedback=ASKED | of_last)


def states(report: PipelineReport) -> dict[str, str]:
    return {stage.name: stage.state for stage in report.stages}


def feedback_of(report: PipelineReport, name: str) -> Path:
    run_id = next(stage.run_id for stage in report.stages if stage.name == name)
    return local_path(output_of(run_id, "feedback", FeedbackRef)[0])


def only_round() -> Round:
    (run,) = find("tags.`rlhf.round` LIKE '%-1-%'")
    return find_round(run.data.tags["rlhf.round"])


def answers_of(asked: Round) -> list[int]:
    """The number of answers of each that was asked."""
    reviews = ReviewRound(asked.name)
    items = [item_key(comparison, who) for comparison in asked.comparisons for who in comparison.annotators]
    answers = reviews.answers([reviews.trace_id(item) for item in items])
    return [len(given) for given in answers.values()]


def test_rounds_of_simulated_raters(embedded_project: Path, monkeypatch: pytest.MonkeyPatch):
    answer, given = ReviewRound.answer, []

    def cut_off(self: ReviewRound, *args: object, **kwargs: object) -> None:
        if len(given) == 20:
            raise KeyboardInterrupt
        given.append(args)
        answer(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ReviewRound, "answer", cut_off)
    with pytest.raises(KeyboardInterrupt):
        rlhf_pipeline(in_rounds())
    monkeypatch.setattr(ReviewRound, "answer", answer)
    assert sum(answers_of(only_round())) == 20
    report = rlhf_pipeline(in_rounds())
    before, again = ["data.0", "sft"], ["feedback", "data", "reward_model", "reward_audit", "policy"]
    asked_twice = [*(f"{name}.1" for name in again), *again]
    assert states(report) == dict.fromkeys(before, "cached") | dict.fromkeys(
        [*asked_twice, "evaluation", "model_card"], "trained"
    )
    assert list(states(report)) == [*before, *asked_twice, "evaluation", "model_card"]
    assert set(answers_of(only_round())) == {1}

    first, second = (feedback_of(report, name) for name in ("feedback.1", "feedback"))
    for folder, number, author in ((first, 1, "SFT policy"), (second, 2, "policy of round 1")):
        rows = [row for _, row in read_rows(folder / "preferences.jsonl", "preferences")]
        assert len(rows) == 60 + 6, "each pair once, and a tenth of them twice"
        assert {row["annotator"] for row in rows} == {"simulated-1", "simulated-2"}
        assert {(row["source"], row["round"]) for row in rows} == {(f"feedback, round {number}", f"round {number}")}
        assert {name for row in rows for name in row["policies"]} == {author}
    run = MlflowClient(tracking_uri()).get_run(report.run_id)
    history = {
        name: [
            (metric.step, metric.value)
            for metric in MlflowClient(tracking_uri()).get_metric_history(run.info.run_id, name)
        ]
        for name in ("rounds/answers_gold", "rounds/earlier_reward_model_accuracy", "rounds/kl")
    }
    assert [[step for step, _ in values] for values in history.values()] == [[1, 2], [2], [1, 2]]
    data = local_path(output_of(report.run_id, "data", DatasetRef)[0])
    assert "No person was asked" in (data / "datasheet.md").read_text()
    assert "simulated" in Path(report.model_card).read_text()

    assert set(states(rlhf_pipeline(in_rounds())).values()) == {"cached"}
    assert all(stage.cached for stage in plan_run(in_rounds(), open_store()).stages)
    changed = plan_run(in_rounds(temperature=0.9), open_store()).stages
    assert [(stage.name, stage.why) for stage in changed if not stage.cached] == [
        ("feedback", "feedback.temperature was 1.0, is 0.9"),
        *((name, "behind feedback") for name in ("data", "reward_model", "reward_audit", "policy")),
        ("evaluation", "behind policy"),
    ]
    run_id = report.run_id
    with pytest.raises(ConfigError, match="recipe smoke has a section feedback, so its policy is made together with"):
        STAGE_FLOWS["policy"](in_rounds(), data_run=run_id, sft_run=run_id, reward_models_run=run_id)


def test_revisions_then_a_judge_that_people_measure(embedded_project: Path):
    for name in ("critiques.yaml", "principles.yaml", "hard_sums.jsonl"):
        (embedded_project / name).write_text((CONSTITUTION / name).read_text())
    judge = {
        "constitution": "principles.yaml",
        "simulated": {"position_bias": 0.3},
        "num_measured": 8,
        "minimum_agreement": 0.0,
    }
    revision = {
        "prompts": "hard_sums.jsonl",
        "constitution": "critiques.yaml",
        "num_prompts": 30,
        "critic": {"simulated": {}},
    }
    asked = {"num_pairs": 60, "num_responses": 4, "annotators": ["ann"], "judge": judge}
    recipe = config(revision=revision, feedback=asked)
    with pytest.raises(NotAnsweredError, match=r"0 of 8 comparisons are answered, and 8 are needed .*ann: \S+review-q"):
        rlhf_pipeline(recipe)
    round_asked = only_round()
    reviews = ReviewRound(round_asked.name)
    for comparison in round_asked.comparisons:
        for _ in comparison.annotators:
            trace_id = reviews.trace_id(item_key(comparison, "ann"))
            reviews.answer(trace_id, round_asked.guidelines.question, "A is better", "ann", is_human=True)
            reviews.complete("ann", trace_id, "ann")
    report = rlhf_pipeline(recipe)
    names = ["data.0", "sft.0", "revision", "data.1", "sft", "feedback", "data", "reward_model", "reward_audit"]
    assert list(states(report)) == [*names, "policy", "evaluation", "model_card"]
    assert [name for name, state in states(report).items() if state == "cached"] == names[:5]
    rows = [row for _, row in read_rows(feedback_of(report, "feedback") / "preferences.jsonl", "preferences")]
    assert len(rows) == 60
    assert {row["annotator"] for row in rows} == {"simulated-judge"}
    data = local_path(output_of(report.run_id, "data", DatasetRef)[0])
    sheet = (data / "datasheet.md").read_text()
    assert "The judge simulated-judge agrees with people on" in sheet
    assert "The critic is simulated" in sheet
    demonstrations = [row for _, row in read_rows(data / "demonstrations" / "train.jsonl", "demonstrations")]
    assert {row.get("source") for row in demonstrations} == {None, "revision"}
    assert set(states(rlhf_pipeline(recipe)).values()) == {"cached"}
