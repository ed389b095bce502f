"""Rounds of feedback on the smoke recipe: asked of people, answered as their browsers would, collected into data/."""

import itertools
import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from judge_endpoint import judge_endpoint
from retraining_runs import OPEN, config, last_flow_run, shown_in
from tracking_server import Server

from flows.feedback import ask_feedback, collect_feedback, label_feedback, revise_answers_of
from flows.retrain import retrain
from rlhf.config.feedback import AskConfig, CollectConfig, ReviseConfig
from rlhf.config.judge import JudgeConfig, LabelConfig
from rlhf.data.schema import Row, read_rows
from rlhf.errors import ConfigError
from rlhf.feedback import rounds
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.guidelines import Guidelines
from rlhf.feedback.label import JudgeNotBelievedError
from rlhf.feedback.rounds import find_round, item_key, judge_key, num_asked, num_complete
from rlhf.references import FeedbackReport
from rlhf.tracking.queries import find
from rlhf.tracking.reviews import QueueDeletedError, ReviewRound

ASK = AskConfig(
    round="week-1",
    num_pairs=12,
    max_response_tokens=12,
    annotators=("Ann", "bob"),
    overlap=0.5,
    gold_questions="gold.jsonl",
    guidelines="guidelines.yaml",
)
GUIDELINES = """
question: Which answer is better?
instruction: Right sums first.
flags: [harmful, off topic]
"""
LEVELS = ("A is much better", "A is better", "They are equally good", "B is better", "B is much better")


def write_inputs(project: Path) -> None:
    (project / "guidelines.yaml").write_text(GUIDELINES)
    gold = [
        {"prompt": f"What is {number} + 1 ?", "chosen": f"It is {number + 1} .", "rejected": "I do not know ."}
        for number in range(4)
    ]
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            **{name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")},
        }
        for row in gold
    ]
    (project / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def answer(name: str, person: str, comparison: Comparison, level: str, **more: str) -> None:
    """As the review page does: an answer to each question, and the item is complete."""
    reviews = ReviewRound(name)
    trace_id = reviews.trace_id(item_key(comparison, person))
    reviews.answer(trace_id, "Which answer is better?", level, person.lower(), is_human=True, **more)
    reviews.complete(person, trace_id, person.lower())


def answer_all(name: str, person: str) -> list[Comparison]:
    """Everything that a person is asked, the gold questions rightly; the longer answer is better."""
    own = [comparison for comparison in find_round(name).comparisons if person in comparison.annotators]
    for comparison in own:
        first, second = comparison.responses
        better = comparison.known or ("A" if len(first) > len(second) else "B")
        tie = len(first) == len(second) and comparison.known is None
        answer(name, person, comparison, "They are equally good" if tie else f"{better} is much better")
    return own


def rows_of(project: Path, name: str) -> list[Row]:
    return [
        row for _, row in read_rows(project / "data" / "preferences.jsonl", "preferences") if row.get("round") == name
    ]


@pytest.fixture
def asked(project: Path) -> FeedbackReport:
    write_inputs(project)
    return ask_feedback(config(), ASK)


def test_a_round_from_the_question_to_the_retraining(project: Path, asked: FeedbackReport):
    assert asked.asked == 16
    assert set(asked.queues) == {"Ann", "bob"}
    assert all("/review-queue?" in url for url in asked.queues.values())
    counts = num_asked(find_round("week-1"))
    assert counts["Ann"] + counts["bob"] == 12 + 6 + 2 * 4
    assert num_complete(find_round("week-1")) == {"Ann": 0, "bob": 0}

    with pytest.raises(
        ConfigError, match=r"round week-1 was asked with other settings \(MLflow run \w+, feedback/sett"
    ):
        ask_feedback(config(), ASK.model_copy(update={"num_pairs": 13}))
    with pytest.raises(
        ConfigError, match=r"there is no round week-2 \(there are: week-1\); ask one with `rlhf feedback"
    ):
        collect_feedback(CollectConfig(round="week-2"))

    of_ann, of_bob = answer_all("week-1", "Ann"), []
    changed = next(comparison for comparison in of_ann if comparison.known is None)
    answer("week-1", "Ann", changed, "A is better", rationale="It is right.")
    first = collect_feedback(CollectConfig(round="week-1"))
    assert first.answered == len(of_ann)
    assert first.preferences == len(of_ann) - 4
    assert first.data_md5 is not None
    (row,) = (row for row in rows_of(project, "week-1") if row.get("rationale"))
    assert row["rationale"] == "It is right."
    assert row["chosen"][0]["content"] == changed.responses[0]
    assert (row["annotator"], row["source"]) == ("ann", "feedback, week-1")
    assert row["policies"] == list(changed.policies)
    again = collect_feedback(CollectConfig(round="week-1"))
    assert (again.data_md5, again.preferences) == (None, first.preferences)

    of_bob = answer_all("week-1", "bob")
    # What is none of the levels, and what is not complete, is counted and not used.
    reviews = ReviewRound("week-1")
    reviews.answer(
        reviews.trace_id(item_key(of_bob[0], "bob")), "Which answer is better?", "perhaps", "bob", is_human=True
    )
    last = collect_feedback(CollectConfig(round="week-1", minimum_gold_accuracy=0.9))
    assert last.figures["problems"] == {"an answer that is none of the levels": 1}
    assert last.answered == len(of_ann) + len(of_bob) - 1
    agreement = last.figures["agreement"]
    assert isinstance(agreement, dict)
    assert agreement["num_items"] in (5, 6)
    assert "| ann |" in last.text
    assert "100.0%" in last.text
    sheet = (project / "data" / "datasheet.md").read_text()
    assert sheet.count("## Round week-1") == 1
    assert "question: Which answer is better?" in sheet
    assert shown_in(last_flow_run())["feedback"].startswith("**Round week-1**")
    assert [run.info.status for run in find("tags.`rlhf.kind` = 'feedback'")] == ["FINISHED"]

    report = retrain(config(), OPEN)
    assert report.verdict == "promoted"
    assert report.data_md5 == last.data_md5 or report.proposal is not None


@pytest.mark.usefixtures("project")
def test_cut_off_while_it_asks_a_round_goes_on_and_asks_nothing_twice(project: Path, monkeypatch: pytest.MonkeyPatch):
    write_inputs(project)
    fill, calls = ReviewRound.fill_queue, []

    def killed_at_the_second(self: ReviewRound, *arguments: object) -> str:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fill(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ReviewRound, "fill_queue", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            ask_feedback(config(), ASK)
    comparisons = find_round("week-1").comparisons
    monkeypatch.setattr(rounds, "record_comparisons", None)  # they are made once
    report = ask_feedback(config(), ASK)
    assert find_round("week-1").comparisons == comparisons
    of_ann = answer_all("week-1", "Ann")
    assert num_complete(find_round("week-1")) == {"Ann": len(of_ann), "bob": 0}
    assert len(find("tags.`rlhf.kind` = 'feedback'")) == 1
    assert report.asked == len(comparisons)


def test_a_queue_that_somebody_deleted(project: Path, asked: FeedbackReport):
    of_bob = answer_all("week-1", "bob")
    reviews = ReviewRound("week-1")
    queue = reviews._find_queue("bob")
    assert queue is not None
    reviews._traces._delete_review_queue(queue)
    with pytest.raises(
        QueueDeletedError, match=r"round week-1: the queue of bob was deleted in MLflow, so it is not kn"
    ):
        collect_feedback(CollectConfig(round="week-1"))
    assert rows_of(project, "week-1") == []
    report = collect_feedback(CollectConfig(round="week-1", answered=True))
    assert report.answered == len(of_bob)
    ask_feedback(config(), ASK)
    assert num_complete(find_round("week-1")) == {"Ann": 0, "bob": 0}
    assert asked.run_id == report.run_id


def test_pairs_are_chosen_by_the_reward_models_and_one_queue_is_open_to_all(project: Path):
    ask = AskConfig(round="close", num_pairs=4, pool=2, choose="disagreement", max_response_tokens=12)
    report = ask_feedback(config(), ask)
    assert list(report.queues) == [""]
    comparisons = find_round("close").comparisons
    assert all(comparison.why.startswith("disagreement: the reward models differ by") for comparison in comparisons)
    reviews = ReviewRound("close")
    for comparison in comparisons:
        trace_id = reviews.trace_id(item_key(comparison, ""))
        level = "B is better" if comparison.number == 0 else "I cannot judge this"
        reviews.answer(trace_id, "Which response is better?", level, "default", is_human=True)
        reviews.complete("", trace_id, "default")
    collected = collect_feedback(CollectConfig(round="close"))
    assert collected.answered == 4
    assert "| without a name | 4 |" in collected.text
    (row,) = rows_of(project, "close")
    assert "annotator" not in row
    assert row["chosen"][0]["content"] == comparisons[0].responses[1]


def by_length(_: str, first: str, second: str) -> float:
    return 0.5 if len(first) == len(second) else 0.75 if len(first) > len(second) else 0.25


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_comparisons(project: Path):
    """Asked and collected in five minutes; the answers are put into the store by the test."""
    people = [f"person-{number}" for number in range(5)]
    asked = rounds.open_round(
        AskConfig(round="large", num_pairs=10_000, annotators=tuple(people)), "smoke", Guidelines()
    )
    comparisons = [
        Comparison(
            number,
            [{"role": "user", "content": f"What is {number} + 1 ?"}],
            (f"It is {number + 1} .", "I do not know ."),
            ("run/policy", "run/policy"),
            "at random",
            (people[number % 5],),
        )
        for number in range(10_000)
    ]
    began = time.monotonic()
    rounds.publish(rounds.record_comparisons(asked, comparisons))
    published = time.monotonic() - began
    answer_in_the_store(project, "large")
    began = time.monotonic()
    report = collect_feedback(CollectConfig(round="large"))
    collected = time.monotonic() - began
    print(f"10,000 comparisons: published in {published:.0f} s, collected in {collected:.0f} s")
    assert report.preferences == 10_000
    assert published + collected < 300


def answer_in_the_store(project: Path, name: str) -> None:
    """All that a round asks, by the tables of MLflow's store."""
    reviews = ReviewRound(name)
    traces = [reviews.trace_id(item_key(c, p)) for c in find_round(name).comparisons for p in c.annotators]
    first = traces[0]
    reviews.answer(first, "Which response is better?", "A is better", "person-0", is_human=True)
    with sqlite3.connect(project / "mlruns" / "mlflow.db") as store:
        store.row_factory = sqlite3.Row
        (row,) = store.execute("SELECT * FROM assessments WHERE trace_id = ?", (first,)).fetchall()
        columns = row.keys()
        others = [
            tuple({"trace_id": trace, "assessment_id": f"a-{number}"}.get(column, row[column]) for column in columns)
            for number, trace in enumerate(traces[1:])
        ]
        marks = ", ".join("?" * len(columns))
        store.executemany(f"INSERT INTO assessments ({', '.join(columns)}) VALUES ({marks})", others)
        store.execute("UPDATE review_queue_items SET status = 'complete', completed_by = 'somebody'")


def test_a_judge_is_measured_against_people_before_it_labels(project: Path):
    """The people here prefer the longer answer, and so does one judge; the other prefers the shorter."""
    (project / "constitution.json").write_text('["Prefer what is longer.", "Prefer what says more."]')
    write_inputs(project)
    ask_feedback(config(), ASK.model_copy(update={"num_pairs": 24, "annotators": ("ann", "bob"), "overlap": 0.0}))
    label = LabelConfig(round="week-1", constitution="constitution.json", minimum_agreement=0.5)
    with judge_endpoint(by_length) as judge:
        settings = JudgeConfig(url=judge.url, model="org/long:8b")  # as hubs and servers name models
        with pytest.raises(
            JudgeNotBelievedError, match=r"no person has decided any of its comparisons, so nobody knows"
        ):
            label_feedback(label, settings)
        assert judge.requests == []
        answer_all("week-1", "ann")
        judge.decide = lambda *asked: 1 - by_length(*asked)
        with pytest.raises(JudgeNotBelievedError, match=r"short agrees with people on 0\.0% .* nothing was labelled"):
            label_feedback(label, settings.model_copy(update={"model": "short"}))
        assert len(judge.requests) < 24 * 2  # those that people had decided, and no others
        judge.decide = by_length
        report = label_feedback(label, settings)
        sent = len(judge.requests)
        again = label_feedback(label, settings)
        assert (again.answered, len(judge.requests)) == (report.answered, sent)
    assert report.answered == 24
    agreement = report.figures["agreement"]
    assert isinstance(agreement, dict)
    assert agreement["value"] == 1.0
    assert "The judge org/long:8b agrees with people on 100.0%" in report.text

    collected = collect_feedback(CollectConfig(round="week-1"))
    rows = rows_of(project, "week-1")
    of_judge = [row for row in rows if row["annotator"] == "org/long:8b"]
    assert len(of_judge) == 24
    assert collected.preferences == len(rows)
    assert collected.figures["agreement"] is None  # a judge is no second person
    assert (collected.answered, collected.figures["labels"]) == (len(rows) - 24 + 4, 24)
    decided = [row for row in of_judge if "chosen" in row]
    assert {row["probability"] for row in decided} == {0.75}
    assert {row["source"] for row in of_judge} == {"feedback of a judge, week-1"}
    assert {row["rationale"] for row in of_judge} <= {"Prefer what is longer.", "Prefer what says more."}
    assert all(len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in decided)
    assert all(row["ranks"] == [1, 1] for row in of_judge if "ranks" in row)


def test_a_judge_that_people_contradict_later_counts_no_more(project: Path):
    (project / "constitution.json").write_text('["Prefer what is longer."]')
    write_inputs(project)
    ask_feedback(config(), ASK.model_copy(update={"num_pairs": 24, "overlap": 0.0}))
    label = LabelConfig(round="week-1", constitution="constitution.json", unmeasured_judge=True)
    with judge_endpoint(lambda *asked: 1 - by_length(*asked)) as judge:
        settings = JudgeConfig(url=judge.url, model="short")
        assert label_feedback(label, settings).answered == 24
        answer_all("week-1", "Ann")
        with pytest.raises(JudgeNotBelievedError, match="nothing was labelled"):
            label_feedback(label, settings)
    collected = collect_feedback(CollectConfig(round="week-1"))
    assert {row["annotator"] for row in rows_of(project, "week-1")} == {"ann"}
    assert collected.figures["problems"] == {"a label of a judge that is not believed": 24}


def test_an_unmeasured_judge_is_named_as_one(project: Path):
    (project / "constitution.json").write_text('["Prefer what is longer."]')
    ask_feedback(config(), AskConfig(round="alone", num_pairs=4, max_response_tokens=12))
    label = LabelConfig(round="alone", constitution="constitution.json", unmeasured_judge=True, both_orders=False)
    with judge_endpoint(by_length) as judge:
        report = label_feedback(label, JudgeConfig(url=judge.url, model="long"))
    assert report.text.startswith("**Nobody has measured the judge long against people.**")
    assert "in one order alone, so that a bias for a place is in them" in report.text
    collect_feedback(CollectConfig(round="alone"))
    reviews = ReviewRound("alone")
    (first, *others) = (reviews.trace_id(judge_key(comparison)) for comparison in find_round("alone").comparisons)
    reviews.answer(first, "Probability that A is better", 7, "long", is_human=False)
    reviews.answer(others[0], "Probability that A is better", 0.9, "another", is_human=False)
    assert collect_feedback(CollectConfig(round="alone")).figures["problems"] == {
        "a label of a judge that is not believed": 1,
        "a judge's answer that is no probability": 1,
    }
    assert "**Nobody has measured the judge long against people.**" in (project / "data" / "datasheet.md").read_text()


def revise_settings(**more: object) -> ReviseConfig:
    given = {"round": "red", "prompts": "red.jsonl", "constitution": "critiques.yaml", "num_revisions": 2}
    return ReviseConfig.model_validate(given | more)


def write_red_team(project: Path, critique: str) -> None:
    rows = [{"prompt": [{"role": "user", "content": f"What is {number} + 1 ?"}]} for number in range(6)]
    (project / "red.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (project / "critiques.yaml").write_text(f"plain: {{critique: {critique}, revision: '1 +'}}\n")


def test_an_endpoint_criticizes_and_the_revisions_are_demonstrations(project: Path):
    write_red_team(project, "'What is wrong ?'")
    seen = []

    def write(messages: list[dict[str, str]]) -> str:
        seen.append(messages)
        return "It is wrong ." if messages[-1]["content"] == "What is wrong ?" else f"Better {len(messages)} ."

    with judge_endpoint(by_length, write=write) as judge:
        critic = JudgeConfig(url=judge.url, model="critic")
        report = revise_answers_of(config(), revise_settings(), critic)
        sent = len(judge.requests)
        again = revise_answers_of(config(), revise_settings(), critic)
        assert len(judge.requests) == sent  # the policy's answers are the same again
    assert (report.asked, report.answered, sent) == (6, 6, 24)
    assert again.data_md5 is None
    rows = [row for _, row in read_rows(project / "data" / "demonstrations.jsonl", "demonstrations") if "round" in row]
    assert [row["completion"][0]["content"] for row in rows] == ["Better 5 ."] * 6
    assert {(row["source"], row["round"]) for row in rows} == {("revision", "red")}
    critique = next(messages for messages in seen if messages[-1]["content"] == "What is wrong ?")
    assert [message["role"] for message in critique] == ["user", "assistant", "user"]
    assert "| plain | 12 |" in report.text
    assert "## Revisions red" in (project / "data" / "datasheet.md").read_text()


def test_a_policy_is_its_own_critic(project: Path):
    write_red_team(project, "'1 +'")
    report = revise_answers_of(
        config(**{"model.max_length": 120}), revise_settings(num_revisions=1, max_response_tokens=6)
    )
    assert "by the policy itself" in report.text
    assert report.asked == 6
    with pytest.raises(
        ConfigError, match=r"the critique's dialogue has \d+ tokens, which leaves no room for 20 more in"
    ):
        revise_answers_of(config(**{"model.max_length": 30, "rl.max_response_tokens": 20}), revise_settings())


@pytest.mark.soak
def test_an_mlflow_server_that_dies_in_the_middle_costs_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is killed while questions go into queues, while a judge labels and while answers are read, and comes back."""
    server = Server(tmp_path, project / "mlruns" / "mlflow.db")
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    deaths: list[str] = []

    def dies_before(method: str, number: int) -> None:
        """Before a call of a method of rounds of review, the server is killed, and started again a moment later."""
        original, calls = getattr(ReviewRound, method), itertools.count(1)

        def call(self: ReviewRound, *arguments: Any, **keywords: Any) -> Any:
            if next(calls) == number:
                deaths.append(method)
                server.stop()
                threading.Timer(1.0, server.start).start()
            return original(self, *arguments, **keywords)

        monkeypatch.setattr(ReviewRound, method, call)

    (project / "constitution.json").write_text('["Prefer what is longer."]')
    write_inputs(project)
    try:
        dies_before("fill_queue", 2)
        asked = ask_feedback(config(), ASK.model_copy(update={"annotators": ("ann", "bob"), "overlap": 0.0}))
        of_ann, of_bob = answer_all("week-1", "ann"), answer_all("week-1", "bob")
        assert asked.asked == len(of_ann) + len(of_bob) - 4, "gold questions are asked of both"
        dies_before("answer", 5)
        with judge_endpoint(by_length) as judge:
            settings = JudgeConfig(url=judge.url, model="long")
            label = LabelConfig(round="week-1", constitution="constitution.json", minimum_agreement=0.5)
            assert label_feedback(label, settings).answered == 12
        dies_before("answers", 1)
        collected = collect_feedback(CollectConfig(round="week-1"))
        assert deaths == ["fill_queue", "answer", "answers"]
        assert (collected.answered, collected.figures["labels"]) == (len(of_ann) + len(of_bob), 12)
        rows = rows_of(project, "week-1")
        said = [(row["annotator"], json.dumps(row["prompt"]), row.get("policies")) for row in rows]
        assert len(rows) == collected.preferences == 24
        assert len({(who, prompt) for who, prompt, _ in said}) == 24, "nobody's answer is there twice"
    finally:
        server.stop()
