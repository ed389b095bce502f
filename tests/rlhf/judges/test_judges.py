"""Judges behind a real endpoint on loopback: well behaved, biased, and broken."""

import gzip
import hashlib
import json
import math
import random
import time
from pathlib import Path

import pytest
from judge_endpoint import judge_endpoint
from pydantic import ValidationError

from rlhf.config.judge import JudgeConfig
from rlhf.errors import ConfigError
from rlhf.evaluation.statistics import share_interval
from rlhf.judges import preference
from rlhf.judges.constitution import CritiquePrinciple, read_critiques, read_principles
from rlhf.judges.endpoint import Completion, Endpoint, EndpointError
from rlhf.judges.grading import GradedAnswer, grade_answers, read_grade
from rlhf.judges.preference import Pair, count_places, judge_pairs, read_letter

PAIRS = [Pair(f"Human: question {n}", f"right {n}", f"wrong {n}", "Prefer what is right.") for n in range(40)]


def endpoint(url: str, folder: Path, **settings: object) -> Endpoint:
    return Endpoint(JudgeConfig(url=url, model="m", **{"num_retries": 2, **settings}), folder)


def prefer_right(_: str, first: str, second: str) -> float:
    return 0.8 if first.startswith("right") else 0.2


def test_probabilities_of_letters_in_both_orders(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_JUDGE_KEY", "sesame")
    with judge_endpoint(prefer_right) as judge:
        judgments = judge_pairs(endpoint(judge.url, tmp_path), PAIRS, both_orders=True)
    assert [judgment.probability for judgment in judgments] == pytest.approx([0.8] * 40)
    assert len(judge.requests) == 80
    assert set(judge.keys) == {"Bearer sesame"}
    first = judge.requests[0]
    assert (first["temperature"], first["logprobs"]) == (0.0, True)
    assert "Prefer what is right.\n\n(A) " in first["messages"][0]["content"]


def test_a_bias_for_a_place_makes_ties_and_what_is_decided_is_right(tmp_path):
    """It takes the first of three in ten whatever stands there; with one order such are taken at its word."""

    def biased(question: str, first: str, second: str) -> float:
        names = "".join(sorted((first, second)))
        draw = random.Random(hashlib.sha256(names.encode()).hexdigest()).random()
        return 0.9 if draw < 0.3 else prefer_right(question, first, second)

    rng = random.Random(1)
    pairs = [
        pair if rng.random() < 0.5 else Pair(pair.dialogue, pair.second, pair.first, pair.principle) for pair in PAIRS
    ]
    with judge_endpoint(biased) as judge:
        both = judge_pairs(endpoint(judge.url, tmp_path), pairs, both_orders=True)
        one = judge_pairs(endpoint(judge.url, tmp_path), pairs, both_orders=False)
    right = [pair.first.startswith("right") for pair in pairs]
    ties = sum(judgment.is_tie for judgment in both)
    assert 6 <= ties <= 18
    assert all((j.probability > 0.5) == is_right for j, is_right in zip(both, right, strict=True) if not j.is_tie)
    assert count_places(both) == {"first place": ties}
    assert any((j.probability > 0.5) != is_right for j, is_right in zip(one, right, strict=True))
    assert count_places(one) == {}
    assert len(judge.requests) == 80  # of one order nothing is asked again


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", 1.0),
        (" (B).", 0.0),
        ("**A**", 1.0),
        ("A better answer", None),
        ("Apples", None),
        ("A or B", None),
        ("", None),
    ],
)
def test_letters_out_of_text_are_read_and_never_guessed(text, expected):
    assert read_letter(Completion(text)) == expected


def test_letters_that_are_not_most_of_what_it_would_say_are_no_preference():
    """The tail of the alternatives always holds a letter or two."""
    tail = {"Both": math.log(0.99), "A": -8.5, "B": -12.0}
    assert read_letter(Completion("Both are fine", tail)) is None
    assert read_letter(Completion("(B)", {"(": math.log(0.99), "A": -8.0, "B": -9.0})) == 0.0
    assert read_letter(Completion("A", {"A": math.log(0.4), " B": math.log(0.2)})) == pytest.approx(2 / 3)


def test_text_without_a_letter_is_counted(tmp_path):
    with judge_endpoint(prefer_right, says="I would rather not say.") as judge:
        judgments = judge_pairs(endpoint(judge.url, tmp_path), PAIRS[:3], both_orders=True)
    assert [judgment.probability for judgment in judgments] == [None] * 3
    with judge_endpoint(prefer_right, says="text") as judge:
        (judgment,) = judge_pairs(endpoint(judge.url, tmp_path), PAIRS[:1], both_orders=True)
    assert judgment.probability == 1.0


@pytest.mark.parametrize("failure", [429, 500, 503, "slow"])
def test_what_may_pass_is_tried_again(tmp_path, failure):
    with judge_endpoint(prefer_right, fails=[failure]) as judge:
        (judgment,) = judge_pairs(endpoint(judge.url, tmp_path, timeout_seconds=1), PAIRS[:1], both_orders=False)
    assert judgment.probability == pytest.approx(0.8)
    assert len(judge.requests) == 2


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ([500] * 9, r"answers 500: .*not now.*; the same command goes on where it was"),
        ([429] * 9, r"answers 429: .*; it is still too busy after all retries; lower concurrency, or wait"),
        ([401] * 9, r"answers 401: .*; set the variable that key_variable names to a key that it takes"),
        ([404] * 9, r"answers 404: .*; look at url and model"),
        (["slow"] * 9, r"took longer than 1 s, 3 times; look whether it is overloaded, raise timeout_seconds or lower"),
        (["nonsense"] * 9, r"the endpoint http://127.0.0.1:\d+/v1 (does not answer as an Open|sent an answer without)"),
        (["cut"] * 9, r"the endpoint http://127.0.0.1:\d+/v1 (does not answer as an OpenAI-compatible|sent an answer)"),
        (["no choices"] * 9, "sent an answer without choices"),
    ],
)
def test_what_does_not_pass_is_told_and_what_was_answered_is_kept(tmp_path, failures, message):
    with judge_endpoint(prefer_right) as judge:
        judge_pairs(endpoint(judge.url, tmp_path), PAIRS[:2], both_orders=False)
        judge.fails = list(failures)
        with pytest.raises(EndpointError, match=message):
            judge_pairs(endpoint(judge.url, tmp_path, timeout_seconds=1, concurrency=1), PAIRS[:3], both_orders=False)
        judge.fails, before = [], len(judge.requests)
        judge_pairs(endpoint(judge.url, tmp_path), PAIRS[:3], both_orders=False)
        assert len(judge.requests) == before + 1


def test_an_endpoint_that_is_not_there(tmp_path):
    with pytest.raises(
        EndpointError, match=r"the endpoint http://127.0.0.1:9/v1 does not answer as an OpenAI-compatible"
    ):
        endpoint("http://127.0.0.1:9/v1", tmp_path, num_retries=0).ask([{"role": "user", "content": "?"}], 1)


def test_the_budget_ends_and_the_next_command_goes_on(tmp_path):
    with judge_endpoint(prefer_right) as judge:
        with pytest.raises(EndpointError, match="the 10 requests of max_requests are sent; what they answered is kept"):
            judge_pairs(endpoint(judge.url, tmp_path, max_requests=10), PAIRS, both_orders=True)
        assert len(judge.requests) == 10
        judge_pairs(endpoint(judge.url, tmp_path, max_requests=70), PAIRS, both_orders=True)
        assert len(judge.requests) == 80


def test_ten_thousand_answers_are_remembered_quickly(tmp_path):
    known = endpoint("http://127.0.0.1:9/v1", tmp_path)
    with known._memory._open() as connection:
        keys = [
            (hashlib.sha256(str(n).encode()).hexdigest(), '{"text": "A", "first_token": {}}') for n in range(10_000)
        ]
        connection.executemany("INSERT INTO answers VALUES (?, ?)", keys)
    began = time.monotonic()
    assert all(known._memory.read(key) is not None for key, _ in keys)
    assert time.monotonic() - began < 5


def test_ten_thousand_verdicts_that_are_known_are_read_quickly(tmp_path):
    """In both orders, of answers as long as real ones; whatever the endpoint is, nobody asks it."""
    pairs = [Pair(f"Human: question {n}", "right " * 200, f"wrong {n} " * 100, "Prefer it.") for n in range(10_000)]
    known = endpoint("http://127.0.0.1:9/v1", tmp_path)
    answer = json.dumps({"text": "A", "first_token": {"A": math.log(0.9), "B": math.log(0.1)}})
    asked = [preference._dialogue(pair, *both) for pair in pairs for both in orders(pair)]
    keys = [known._key(known._request(dialogue, preference._MAX_TOKENS, letters=True)) for dialogue in asked]
    with known._memory._open() as connection:
        connection.executemany("INSERT INTO answers VALUES (?, ?)", [(key, answer) for key in keys])
    began = time.process_time()  # of all threads; it is 0.4 s, and the limit is for slow machines
    judgments = judge_pairs(known, pairs, both_orders=True)
    assert time.process_time() - began < 5
    assert len(judgments) == 10_000
    assert all(judgment.by_order == pytest.approx((0.9, 0.1)) for judgment in judgments[::100])


def orders(pair):
    return (pair.first, pair.second), (pair.second, pair.first)


def test_what_is_asked_twice_is_sent_once(tmp_path):
    with judge_endpoint(prefer_right) as judge:
        judgments = judge_pairs(endpoint(judge.url, tmp_path), PAIRS[:2] * 20, both_orders=False)
    assert len(judge.requests) == 2
    assert [judgment.probability for judgment in judgments] == pytest.approx([0.8] * 40)


@pytest.mark.parametrize(("status", "num_retries"), [(400, 2), (422, 2), (500, 0)])
def test_failures_that_are_counted(tmp_path, status, num_retries):
    """Every tenth question is one that the endpoint cannot answer."""

    def refuses(question):
        return status if any(f"question {n}\n" in question for n in range(0, 40, 10)) else 0

    failures = []
    with judge_endpoint(prefer_right, refuses=refuses) as judge:
        asked = endpoint(judge.url, tmp_path, num_retries=num_retries)
        judgments = judge_pairs(asked, PAIRS, both_orders=True, failures=failures)
    assert [place for place, one in enumerate(judgments) if one.probability is None] == [0, 10, 20, 30]
    assert len(failures) == 8
    assert all(f"answers {status}" in str(error) for error in failures)


def test_refused_questions_that_are_left_at_the_end_are_not_the_endpoints_fault(tmp_path):
    """As after a kill: all others are known by then."""
    with judge_endpoint(prefer_right) as judge:
        judge_pairs(endpoint(judge.url, tmp_path), PAIRS[:1], both_orders=True)
        judge.refuses = lambda _: 400
        failures = []
        judgments = judge_pairs(endpoint(judge.url, tmp_path), PAIRS[:20], both_orders=True, failures=failures)
        assert (judgments[0].probability, len(failures)) == (pytest.approx(0.8), 38)
        with pytest.raises(EndpointError, match=r"answers 400: .*; it does not take what it was asked"):
            judge_pairs(endpoint(judge.url, tmp_path), PAIRS[1:], both_orders=True, failures=[])
        judge.refuses = lambda _: 503
        with pytest.raises(EndpointError, match="answers 503"):
            judge_pairs(endpoint(judge.url, tmp_path, num_retries=0), PAIRS, both_orders=True, failures=[])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        (" **10**.", 10),
        ("[[8]]", 8),
        ("9/10", 9),
        ("9 / 10", 9),
        ("0", None),
        ("11", None),
        ("8 out of 12", None),
        ("8.5", None),
        ("-3", None),
        ("Grade: 8", None),
        ("", None),
    ],
)
def test_grades_out_of_text_are_read_and_never_guessed(text, expected):
    assert read_grade(text) == expected


def test_grades_of_single_answers(tmp_path):
    answers = [GradedAnswer("Human: How many?", text, "Right answers are better.") for text in ("12", "13", "?")]
    with judge_endpoint(prefer_right, grade=lambda q: {"12": "10", "13": "2"}.get(said(q), "no idea")) as judge:
        assert grade_answers(endpoint(judge.url, tmp_path), answers) == [10, 2, None]
        assert "logprobs" not in judge.requests[0]
        assert "Right answers are better.\n\nGrade the answer" in judge.requests[0]["messages"][0]["content"]


def said(question):
    return question.partition("The answer: ")[2].partition("\n")[0]


def test_a_judge_that_errs_at_a_known_rate_on_real_comparisons(tmp_path, real_data: Path):
    """LLMBar's natural set (2310.07641): the accuracy that comes out is the rate's, within its interval."""
    with gzip.open(real_data / "preference" / "llmbar_natural.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = list(map(json.loads, file))
    better = {row["input"]: row[f"output_{row['label']}"] for row in rows}
    wrong = set(random.Random(0).sample(sorted(better), round(0.2 * len(better))))
    errs = {name: name in wrong for name in better}

    def knows(question: str, first: str, second: str) -> float:
        name = next(name for name in better if f"Human: {name}\n\n" in question)
        return 0.9 if (first == better[name]) != errs[name] else 0.1

    pairs = [Pair(f"Human: {row['input']}", row["output_1"], row["output_2"], "Which is better?") for row in rows]
    with judge_endpoint(knows) as judge:
        judgments = judge_pairs(endpoint(judge.url, tmp_path), pairs, both_orders=True)
    right = [(j.probability > 0.5) == (row["label"] == 1) for j, row in zip(judgments, rows, strict=True)]
    accuracy = share_interval([float(one) for one in right])
    assert accuracy.low < 0.8 < accuracy.high
    assert sum(right) == sum(not errs[row["input"]] for row in rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"holds no list of 1 to 1,000 principles; write one text for each"),
        ("a: b", "holds no list of 1 to 1,000 principles"),
        ("[good, 3]", "c.yaml:1: principle 2 is no text; write what is to be preferred"),
        ("[good, ' ']", "principle 2 is no text"),
        ("[good", "is neither JSON nor YAML"),
    ],
)
def test_constitutions_that_are_none(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_principles("c.yaml", tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere.json: No such file or directory"):
        read_principles("nowhere.json", tmp_path)


def test_critiques_and_revisions_in_either_form(tmp_path):
    paper = {"harmful0": {"prompt": ["\n\nCritiqueRequest: Say why."], "edit_request": "\n\nRevisionRequest: Mend it."}}
    (tmp_path / "paper.json").write_text(json.dumps(paper))
    (tmp_path / "own.yaml").write_text("kind:\n  critique: Is it kind?\n  revision: Make it kind.\n")
    (principle,) = read_critiques("paper.json", tmp_path)
    assert (principle.name, principle.critique) == ("harmful0", "CritiqueRequest: Say why.")
    assert principle.revision == "RevisionRequest: Mend it."
    assert read_critiques("own.yaml", tmp_path) == [CritiquePrinciple("kind", "Is it kind?", "Make it kind.")]
    (tmp_path / "bad.yaml").write_text("kind: {critique: 'Is it kind?'}")
    with pytest.raises(
        ConfigError, match=r"bad.yaml: kind has no text under revision \(or edit_request\); write the req"
    ):
        read_critiques("bad.yaml", tmp_path)
    (tmp_path / "list.yaml").write_text("[a]")
    with pytest.raises(ConfigError, match="holds no mapping of 1 to 1,000 names to principles"):
        read_critiques("list.yaml", tmp_path)


def test_the_constitution_of_the_paper_is_read(real_data: Path):
    folder = real_data / "constitution"
    assert len(read_principles("RLMadisonInstructions.json", folder)) == 16
    assert len(read_critiques("CritiqueRevisionInstructions.json", folder)) == 16


def test_a_constitution_in_json_or_yaml(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(["\nBe kind.", "Be right."]))
    (tmp_path / "c.yaml").write_text("- Be kind.\n- Be right.\n")
    assert read_principles("c.json", tmp_path) == read_principles("c.yaml", tmp_path) == ["Be kind.", "Be right."]


@pytest.mark.parametrize(
    "url",
    [
        "http://host:abc/v1",
        "http://host/v1#k=secret",
        "ftp://host/v1",
        "host",
        "http://",
        "http://me:secret@host/v1",
        "http://host/v1?key=secret",
    ],
)
def test_addresses_that_are_refused(url):
    with pytest.raises(ValidationError, match="url"):
        JudgeConfig(url=url, model="m")
