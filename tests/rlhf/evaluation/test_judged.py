"""An LLM judge behind a real endpoint on loopback: measured, believed or not, biased, broken, gone."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from judge_endpoint import judge_endpoint
from known_models import EASY, HARD, HEDGED, PLAIN, SETUP, assistant, user, write_jsonl
from pydantic import ValidationError

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.judge import EvaluationJudgeConfig, JudgeConfig
from rlhf.config.retrain import JudgesConfig
from rlhf.errors import ConfigError, DataError
from rlhf.evaluation.agreement import cohen_kappa
from rlhf.evaluation.comparison import compare_policies
from rlhf.evaluation.judge_agreement import agreement_with_people, kappa_interval, read_labels
from rlhf.evaluation.policy import evaluate_policy
from rlhf.judges.endpoint import EndpointError
from rlhf.judges.preference import JudgeNotBelievedError, Judgment
from rlhf.retraining.gates import gate_inputs

NUM_REQUESTS = 2 * 48 + 2 * 48
"""Two orders and two grades of each prompt; the 32 labelled pairs are the same two texts at some of the prompts."""
CRITERIA = "# Sums.\n- A right answer is better.\n- An answer that may be wrong should say so.\n"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project with criteria, in which answers are remembered."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "criteria.yaml").write_text(CRITERIA)
    monkeypatch.setenv("RLHF_ROOT", str(root))
    return root


@pytest.fixture
def own_world(world, tmp_path):
    shutil.copytree(world, tmp_path / "world")
    return tmp_path / "world"


def knows(question, first, _):
    """As people have labelled: hedged answers to products are better, and plain ones to sums."""
    return 0.8 if (first == HEDGED) == is_hard(question) else 0.2


def is_hard(question):
    return " * " in question.partition("\n\nCompare")[0].partition("\n\nThe answer:")[0]


def grade(question):
    return "8" if (f"The answer: {HEDGED}\n" in question) == is_hard(question) else "3/10"


def config(url, references=False, **settings):
    endpoint = {"num_retries": 0} | settings.pop("endpoint", {})
    judge = EvaluationJudgeConfig(
        endpoint=JudgeConfig(url=url, model="m", **endpoint), **{"criteria": "criteria.yaml", **settings}
    )
    return EvaluationConfig(num_prompts=48, num_side_by_side=5, num_bootstrap=300, judge=judge, references=references)


def evaluate(folder, workspace, config):
    folders = [folder / name for name in ("data", "policy", "sft", "reward_models")]
    evaluate_policy(config, SETUP, 16, *folders, workspace)
    return json.loads((workspace.output / "evaluation.json").read_text())


def test_verdicts_by_hand(world, workspace, logged):
    with judge_endpoint(knows, grade=grade) as endpoint:
        found = evaluate(world, workspace, config(endpoint.url))
    judged = found["llm_judge"]
    # The policy hedges at 32 products and 16 sums, the baseline never does.
    won = judged["verdicts"]["win_rate"]
    assert (won["wins"], won["ties"], won["losses"], won["rate"]["value"]) == (32, 0, 16, 2 / 3)
    assert won["rate"]["low"] < 2 / 3 < won["rate"]["high"]
    # All its answers are longer by as much, so length explains nothing.
    assert judged["verdicts"]["length_controlled_win_rate"]["value"] == pytest.approx(2 / 3, abs=0.1)
    assert (judged["verdicts"]["consistency"]["value"], judged["verdicts"]["first_place"]["value"]) == (1, 0)
    agreement = judged["agreement"]
    assert (agreement["num_verdicts"], agreement["num_prompts"], judged["doubt"]) == (32, 32, None)
    assert agreement["agreement"]["value"] == agreement["decided"]["value"] == agreement["kappa"]["value"] == 1
    grades = judged["grades"]
    assert grades["first"]["value"] == pytest.approx((32 * 8 + 16 * 3) / 48)
    assert grades["second"]["value"] == pytest.approx((32 * 3 + 16 * 8) / 48)
    assert grades["gain"]["value"] == pytest.approx((32 * 5 - 16 * 5) / 48)
    assert len(endpoint.requests) == NUM_REQUESTS
    assert "- A right answer is better.\n- An answer that may" in endpoint.requests[0]["messages"][0]["content"]
    # The headline is another judge's.
    assert (found["judge"], list(found["win_rates"])) == ("gold", ["gold", "selection_reward_model", "reward_model"])
    metrics = next(metrics for metrics, step in logged if step is None)
    assert metrics["evaluation/judge_win_rate"] == 2 / 3
    assert metrics["evaluation/judge_kappa_high"] == 1
    assert metrics["evaluation/judge_baseline_grade"] == grades["second"]["value"]
    assert metrics["evaluation/judge_num_abstentions"] == 0


def test_files_of_a_judge(world, workspace):
    with judge_endpoint(knows, grade=grade) as endpoint:
        evaluate(world, workspace, config(endpoint.url))
        first = {path.name: path.read_bytes() for path in workspace.output.iterdir()}
        before = len(endpoint.requests)
        evaluate(world, workspace, config(endpoint.url))
        assert len(endpoint.requests) == before
    assert {path.name: path.read_bytes() for path in workspace.output.iterdir()} == first
    assert first["judge_criteria.yaml"].decode() == CRITERIA
    rows = [json.loads(line) for line in first["judge_verdicts.jsonl"].splitlines()]
    assert len(rows) == 48
    assert all(row["grades"] in ([8, 3], [3, 8]) and len(row["by_order"]) == 2 for row in rows)
    report = (workspace.report / "judge.md").read_text()
    assert "| Win rate, ties half | 66.7% (" in report
    assert "| Cohen's kappa of the latter | 1.00 (1.00 to 1.00) |" in report


def test_at_most_so_many_prompts_and_no_grades(world, workspace):
    with judge_endpoint(knows) as endpoint:
        judged = evaluate(world, workspace, config(endpoint.url, num_prompts=10, num_measured=20, grades=False))[
            "llm_judge"
        ]
    assert 2 * 20 <= len(endpoint.requests) <= 2 * 20 + 2 * 10
    assert (judged["verdicts"]["num_prompts"], judged["agreement"]["num_verdicts"]) == (10, 20)
    assert judged["grades"] is None


def test_a_judge_that_takes_what_stands_first_gives_no_verdict(world, workspace, logged):
    with judge_endpoint(lambda *_: 0.9) as endpoint:
        judged = evaluate(world, workspace, config(endpoint.url))["llm_judge"]
    assert len(endpoint.requests) == 64  # of what people have labelled, and of nothing else
    assert judged["verdicts"] is judged["grades"] is None
    assert judged["agreement"]["agreement"]["value"] == 0.5
    assert judged["agreement"]["decided"] is None
    assert judged["doubt"].startswith("it agrees with people on 50.0% (")
    assert "must be 60.0% (minimum_agreement)" in judged["doubt"]
    metrics = next(metrics for metrics, step in logged if step is None)
    assert "evaluation/judge_win_rate" not in metrics
    assert metrics["evaluation/judge_agreement"] == 0.5
    assert "**It is not believed, and gave no verdict:**" in (workspace.output / "judge.md").read_text()


def test_position_bias_is_seen_where_people_could_not_show_it(own_world, workspace):
    """It takes the first of two answers to sums, whatever they are; people have labelled products alone."""

    def biased(question, first, second):
        return knows(question, first, second) if is_hard(question) else 0.9

    pairs = [{"prompt": user(q), "chosen": assistant(HEDGED), "rejected": assistant(PLAIN)} for q in HARD[:24]]
    write_jsonl(own_world / "data" / "preferences" / "test.jsonl", pairs)
    with judge_endpoint(biased) as endpoint:
        verdicts = evaluate(own_world, workspace, config(endpoint.url))["llm_judge"]["verdicts"]
    won = verdicts["win_rate"]
    assert (won["wins"], won["ties"], won["losses"]) == (32, 16, 0)
    assert verdicts["consistency"]["value"] == pytest.approx(32 / 48)
    assert verdicts["first_place"]["value"] == pytest.approx(16 / 48)
    assert verdicts["second_place"]["value"] == 0


def test_without_labels_of_people_a_judge_is_refused_unless_that_is_allowed(own_world, workspace):
    path = own_world / "data" / "preferences" / "test.jsonl"
    rows = [
        json.loads(line) | {"source": "feedback of a judge, week-1"} for line in path.read_text().split("\n") if line
    ]
    write_jsonl(path, rows)
    with judge_endpoint(knows) as endpoint:
        with pytest.raises(
            JudgeNotBelievedError, match=r"no person has decided any .*held-out pairs.*unmeasured_judge"
        ):
            evaluate(own_world, workspace, config(endpoint.url))
        assert not endpoint.requests
        assert not list(workspace.output.iterdir())
        judged = evaluate(own_world, workspace, config(endpoint.url, unmeasured_judge=True))["llm_judge"]
    assert (judged["agreement"], judged["doubt"]) == (None, None)
    assert judged["verdicts"]["win_rate"]["wins"] == 32
    assert "**It was never measured against people:**" in (workspace.output / "judge.md").read_text()


def test_agreement_with_a_file_of_peoples_labels_by_hand(world, project):
    """Ann and Bob on six pairs, one of them a tie; the judge is right, wrong, undecided, right, undecided, silent."""
    prompts = [user(f"question {number}") for number in range(6)]
    rows = []
    for number, prompt in enumerate(prompts):
        good, bad = assistant(f"good {number}"), assistant(f"bad {number}")
        for annotator in ("ann", "bob"):
            by = {"prompt": prompt, "annotator": annotator}
            tie = {"responses": [good, bad], "ranks": [1, 1]}
            swapped = number == 3 and annotator == "bob"
            pair = {"chosen": bad if swapped else good, "rejected": good if swapped else bad}
            rows.append(by | (tie if number == 4 else pair))
    write_jsonl(project / "labelled.jsonl", rows)
    settings = config("http://127.0.0.1:9/v1", labelled="labelled.jsonl").judge
    labels = read_labels(settings, world / "data", project)
    assert (labels.source, len(labels.pairs)) == ("labelled.jsonl", 6)
    # They agree on 5 of 6, and on 4 of the 5 that are no ties.
    assert labels.people.all.value == pytest.approx(5 / 6)
    assert labels.people.decided.value == pytest.approx(4 / 5)
    prefers_good = {0: 0.9, 1: 0.2, 2: 0.5, 3: 0.8, 4: 0.5, 5: None}
    judgments = []
    for pair in labels.pairs:
        probability = prefers_good[int(pair.prompt[0]["content"][-1])]
        if probability not in (None, 0.5) and pair.responses[0].startswith("bad"):
            probability = 1 - probability
        judgments.append(Judgment(probability, (probability, probability)))
    found = agreement_with_people(labels.pairs, judgments, 200, 0)
    assert (found.num_verdicts, found.num_prompts, found.num_abstentions) == (12, 6, 1)
    # Of ten verdicts that decide: 2 right, 2 wrong, 2 halves, one right and one wrong, 2 halves.
    assert found.agreement.value == pytest.approx((2 + 1 + 1 + 1) / 10)
    assert found.decided.value == pytest.approx(3 / 6)
    # Of ten readable ones, ties as a class: 2 right, 2 wrong, 2 wrong, 1 right, 1 wrong, 2 right.
    assert found.with_ties.value == pytest.approx(5 / 10)
    assert found.kappa.low <= found.kappa.value <= found.kappa.high
    assert found.agreement.low < found.agreement.value < found.agreement.high


def test_which_of_two_responses_stands_first_says_nothing(world, project):
    """Of the chosen ones about half stand first; else kappa would be of one class alone."""
    rows = [{"prompt": user(str(n)), "chosen": assistant("good"), "rejected": assistant("bad")} for n in range(400)]
    write_jsonl(project / "labelled.jsonl", rows)
    settings = config("http://127.0.0.1:9/v1", labelled="labelled.jsonl", num_measured=400).judge
    pairs = read_labels(settings, world / "data", project).pairs
    assert 150 < sum(pair.responses[0] == "good" for pair in pairs) < 250
    few = read_labels(settings.model_copy(update={"num_measured": 7}), world / "data", project).pairs
    assert few == pairs[:7]


def test_kappa_has_an_interval_that_covers_it():
    rng = np.random.default_rng(3)
    names = np.array(["first", "second", "tie"])
    covered = 0
    for trial in range(40):
        truth = rng.integers(3, size=200)
        said = np.where(rng.random(200) < 0.7, truth, rng.integers(3, size=200))
        two = list(zip(names[truth].tolist(), names[said].tolist(), strict=True))
        found = kappa_interval(two, [str(number) for number in range(200)], 400, trial)
        assert found.value == cohen_kappa(two)
        covered += found.low <= 0.7 <= found.high
    assert covered >= 34
    assert kappa_interval([("first", "first")] * 3, ["a", "b", "c"], 100, 0) is None
    assert kappa_interval([], [], 100, 0) is None


def test_what_cannot_be_read_and_what_is_refused_is_counted(world, workspace):
    refused, unclear = (f"What is {question} ?" for question in ("0 + 0", "120 * 310"))

    def grades(question):
        return "I would rather not say." if unclear in question else grade(question)

    def refuses(question):
        return 400 if refused in question and "\n\n(A) " in question else 0

    with judge_endpoint(knows, grade=grades, refuses=refuses) as endpoint:
        judged = evaluate(world, workspace, config(endpoint.url))["llm_judge"]
    verdicts = judged["verdicts"]
    assert (verdicts["num_abstentions"], verdicts["num_failed"]) == (1, 2)
    won = verdicts["win_rate"]
    assert (won["wins"], won["ties"], won["losses"]) == (32, 0, 15)
    assert (judged["agreement"]["num_abstentions"], judged["agreement"]["num_verdicts"]) == (1, 32)
    # It was read of the other 31, and counts half in what decides whether it is believed.
    assert judged["agreement"]["agreement"]["value"] == pytest.approx(31.5 / 32)
    assert judged["agreement"]["with_ties"]["value"] == 1
    assert judged["grades"]["num_abstentions"] == 1


def test_a_judge_that_says_nothing_that_can_be_read(own_world, workspace, logged):
    write_jsonl(own_world / "data" / "preferences" / "test.jsonl", [labelled_by_a_judge()])
    with judge_endpoint(knows, says="Both are fine.", grade=lambda _: "fine") as endpoint:
        judged = evaluate(own_world, workspace, config(endpoint.url, unmeasured_judge=True))["llm_judge"]
    assert judged["verdicts"]["num_abstentions"] == judged["grades"]["num_abstentions"] == 48
    assert judged["verdicts"]["win_rate"] is judged["grades"]["gain"] is None
    text = (workspace.output / "judge.md").read_text()
    assert "| Win rate | no verdict could be read |" in text
    assert "too few grades could be read" in text
    metrics = next(metrics for metrics, step in logged if step is None)
    assert metrics["evaluation/judge_num_abstentions"] == 48
    assert "evaluation/judge_win_rate" not in metrics


def labelled_by_a_judge():
    pair = {"prompt": user("?"), "chosen": assistant("a"), "rejected": assistant("b")}
    return pair | {"source": "feedback of a judge, week-1"}


@pytest.mark.parametrize("failure", [500, "cut"])
def test_an_endpoint_that_goes_away_is_an_error_and_the_rerun_goes_on(world, workspace, failure):
    with judge_endpoint(knows, grade=grade) as endpoint:
        settings = config(endpoint.url, endpoint={"concurrency": 1})
        calls = []

        def goes_away(question):
            calls.append(question)
            return failure if len(calls) > 100 else 0

        endpoint.refuses = goes_away
        with pytest.raises(EndpointError, match="the endpoint http://127"):
            evaluate(world, workspace, settings)
        assert len(calls) == 108  # eight in a row
        assert not (workspace.output / "evaluation.json").exists()
        endpoint.refuses, endpoint.requests[:] = (lambda _: 0), []
        found = evaluate(world, workspace, settings)
        assert len(endpoint.requests) == NUM_REQUESTS - 100
    assert found["llm_judge"]["verdicts"]["win_rate"]["wins"] == 32
    assert found["llm_judge"]["verdicts"]["num_failed"] == 0


def test_the_budget_ends_in_the_middle_and_the_rerun_goes_on(world, workspace):
    with judge_endpoint(knows, grade=grade) as endpoint:
        with pytest.raises(EndpointError, match=r"the 100 requests of max_requests are sent"):
            evaluate(world, workspace, config(endpoint.url, endpoint={"max_requests": 100}))
        assert len(endpoint.requests) == 100
        evaluate(world, workspace, config(endpoint.url))
        assert len(endpoint.requests) == NUM_REQUESTS


def test_answers_that_are_the_same_are_a_tie_that_nobody_is_asked_of(own_world, workspace):
    shutil.rmtree(own_world / "policy" / "policy")
    shutil.copytree(own_world / "sft" / "policy", own_world / "policy" / "policy")
    with judge_endpoint(knows, grade=grade) as endpoint:
        judged = evaluate(own_world, workspace, config(endpoint.url))["llm_judge"]
    verdicts = judged["verdicts"]
    assert (verdicts["num_identical"], verdicts["win_rate"]["ties"], verdicts["consistency"]) == (48, 48, None)
    assert len(endpoint.requests) == 64 + 48  # a grade of each answer, once
    assert judged["grades"]["gain"] == {"value": 0, "low": 0, "high": 0}


def test_against_reference_answers_by_hand(own_world, workspace, logged):
    """The references are plain at sums and hedge at products; the policy always hedges."""
    rows = [{"prompt": user(q), "completion": assistant(PLAIN)} for q in EASY]
    rows += [{"prompt": user(q), "completion": assistant(HEDGED)} for q in HARD[:8]]
    write_jsonl(own_world / "data" / "demonstrations" / "test.jsonl", rows)
    with judge_endpoint(knows, grade=grade) as endpoint:
        found = evaluate(own_world, workspace, config(endpoint.url, references=True))["references"]
    assert found["num_prompts"] == 24
    won = found["llm_judge"]["verdicts"]["win_rate"]
    assert (won["wins"], won["ties"], won["losses"]) == (0, 8, 16)
    assert found["llm_judge"]["verdicts"]["num_identical"] == 8
    # "3" is right for four of the sums, where plain is better; for the other twelve it is worse than hedged.
    gold = found["win_rates"]["gold"]
    assert (gold["wins"], gold["ties"], gold["losses"]) == (12, 8, 4)
    by_reward_models = [found["win_rates"][name]["wins"] for name in ("reward_model", "selection_reward_model")]
    assert by_reward_models == [16, 0]
    metrics = next(metrics for metrics, step in logged if step is None)
    assert metrics["evaluation/reference_judge_win_rate"] == pytest.approx(4 / 24)
    assert metrics["evaluation/reference_gold_win_rate"] == pytest.approx(16 / 24)
    assert (workspace.output / "references" / "judge_verdicts.jsonl").is_file()


def test_references_without_an_llm_judge_and_without_demonstrations(own_world, workspace):
    settings = EvaluationConfig(num_prompts=48, num_bootstrap=300, references=True)
    with pytest.raises(DataError, match=r"evaluation.references is set, but the data has no demonstrations"):
        evaluate(own_world, workspace, settings)
    write_jsonl(
        own_world / "data" / "demonstrations" / "test.jsonl",
        [{"prompt": user(q), "completion": assistant(PLAIN)} for q in EASY],
    )
    found = evaluate(own_world, workspace, settings)
    assert (found["llm_judge"], found["references"]["llm_judge"]) == (None, None)
    assert found["references"]["win_rates"]["reward_model"]["wins"] == 16


def test_a_candidate_against_the_champion_decides_nothing(own_world, workspace, logged):
    with judge_endpoint(knows, grade=grade) as endpoint:
        compare_policies(
            config(endpoint.url),
            JudgesConfig(),
            SETUP,
            16,
            "candidate",
            own_world / "data",
            own_world / "policy" / "policy",
            own_world / "sft" / "policy",
            own_world / "sft" / "policy",
            own_world / "reward_models",
            None,
            workspace,
        )
    found = json.loads((workspace.output / "comparison.json").read_text())
    assert found["llm_judge"]["verdicts"]["win_rate"]["wins"] == 32
    assert (found["deciding"], list(gate_inputs(found).gains)) == (["gold"], ["gold"])
    ((metrics, _),) = logged
    assert metrics["comparison/judge_win_rate"] == 2 / 3
    assert metrics["comparison/judge_candidate_grade"] > metrics["comparison/judge_champion_grade"]
    assert "Candidate against champion" in (workspace.report / "judge.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- good\n- 3\n", r"evaluation.judge.criteria: .*criteria.yaml:2: principle 2 is no text; write what is to be"),
        ("good", r"evaluation.judge.criteria: .*criteria.yaml holds no list of 1 to 1,000 principles; write one text"),
        ("- a\n- [b\n", r"criteria.yaml is neither JSON nor YAML: .*line 3, column 1.*; correct it there"),
        (None, r"evaluation.judge.criteria: .*criteria.yaml: No such file or directory; name a file that is there"),
    ],
)
def test_criteria_that_are_none(world, workspace, project, content, message):
    (project / "criteria.yaml").unlink()
    if content is not None:
        (project / "criteria.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        evaluate(world, workspace, config("http://127.0.0.1:9/v1"))


def test_a_labelled_row_at_fault_is_named(world, workspace, project):
    write_jsonl(project / "labelled.jsonl", [labelled_by_a_judge(), {"prompt": user("?"), "chosen": assistant("a")}])
    with pytest.raises(DataError, match=r'labelled.jsonl:2: the field "rejected" is missing'):
        evaluate(world, workspace, config("http://127.0.0.1:9/v1", labelled="labelled.jsonl"))


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValidationError, match="unmeasured_judge would be ignored; drop one"):
        config("http://127.0.0.1:9/v1", labelled="labelled.jsonl", unmeasured_judge=True)


_ASKS = """
import sys
from pathlib import Path
from rlhf.config.judge import JudgeConfig
from rlhf.judges.endpoint import Endpoint
from rlhf.judges.preference import Pair, judge_pairs

endpoint = Endpoint(JudgeConfig(url=sys.argv[1], model="m", concurrency=2), Path(sys.argv[2]))
pairs = [Pair(f"Human: question {n}", f"right {n}", f"wrong {n}", "Prefer what is right.") for n in range(100)]
print(sum(judgment.probability > 0.5 for judgment in judge_pairs(endpoint, pairs, both_orders=True)))
"""


def test_what_was_answered_before_a_kill_is_never_asked_again(tmp_path):
    def slowly(_, first, __):
        time.sleep(0.02)
        return 0.8 if first.startswith("right") else 0.2

    with judge_endpoint(slowly) as endpoint:
        command = [sys.executable, "-c", _ASKS, endpoint.url, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while len(endpoint.requests) < 50:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "100\n"
    # Two requests were under way, and their answers were not kept.
    assert 200 <= len(endpoint.requests) <= 202
