import gzip
import json
from collections import Counter
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from rlhf.data.schema import check_row
from rlhf.evaluation.agreement import cohen_kappa
from rlhf.feedback.collect import Verdict, _annotators, as_row, krippendorff_alpha, verdicts_of
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.guidelines import Guidelines
from rlhf.tracking.reviews import Answer

GUIDELINES = Guidelines(flags=("rude", "wrong"))
QUESTION = GUIDELINES.question


def comparison(number: int = 0, known: str | None = None) -> Comparison:
    prompt = [{"role": "user", "content": f"Why {number}?"}]
    return Comparison(number, prompt, ("because", "no idea"), ("run/a", "run/b"), "at random", ("ann",), known)


def said(value: object, by: str = "ann", question: str = QUESTION, time: int = 1, **more: object) -> Answer:
    return Answer(
        **{"question": question, "value": value, "by": by, "is_human": True, "rationale": "", "time": time, **more}
    )


def level(says: str):
    found = GUIDELINES.level_of(says)
    assert found is not None
    return found


def test_the_last_word_of_each_person_counts():
    problems = Counter()
    answers = [
        said("B is better", time=1),
        said("A is much better", time=3, rationale="it answers"),
        said("They are equally good", by="bob"),
        said(["rude"], question=GUIDELINES.flags_question("B")),
        said("perhaps", by="eve"),
        said(["rude", "blue"], by="bob", question=GUIDELINES.flags_question("A")),
    ]
    ann, bob = verdicts_of(comparison(), answers, GUIDELINES, problems)
    assert (ann.by, ann.level.says, ann.rationale, ann.flags) == (
        "ann",
        "A is much better",
        "it answers",
        {"B": ("rude",)},
    )
    assert (bob.level.prefers, bob.flags) == ("tie", {"A": ("rude",)})
    assert problems == {"an answer that is none of the levels": 1, "a flag that is none of the guidelines'": 1}


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (
            "A is much better",
            {"chosen": "because", "rejected": "no idea", "margin": 1.0, "policies": ["run/a", "run/b"]},
        ),
        ("B is better", {"chosen": "no idea", "rejected": "because", "policies": ["run/b", "run/a"]}),
        ("They are equally good", {"responses": ["because", "no idea"], "ranks": [1, 1]}),
    ],
)
def test_rows_of_verdicts_are_rows_of_data(says, expected):
    row = as_row(Verdict(comparison(), "ann", level(says), "why", {"B": ("rude",)}), "week-1")
    check_row(row, "preferences", "here")
    texts = {name: row[name][0]["content"] for name in ("chosen", "rejected") if name in row}
    if "responses" in row:
        texts["responses"] = [response[0]["content"] for response in row["responses"]]
    shown = row | texts
    assert expected.items() <= shown.items()
    of_round = {"annotator": "ann", "round": "week-1", "rationale": "why", "source": "feedback, week-1"}
    assert of_round.items() <= row.items()
    order = row["policies"].index("run/b")
    assert row["flags"][order] == ["rude"]


def test_what_gives_no_row():
    assert as_row(Verdict(comparison(), "ann", level("I cannot judge this")), "r") is None
    assert as_row(Verdict(comparison(known="A"), "ann", level("A is better")), "r") is None


def test_annotators_against_what_is_known():
    right, wrong = level("A is better"), level("B is better")
    verdicts = [Verdict(comparison(n, "A"), "ann", right) for n in range(30)]
    verdicts += [Verdict(comparison(n, "A"), "bob", right if n % 3 == 0 else wrong) for n in range(30)]
    verdicts += [Verdict(comparison(40), "eve", level("They are equally good"))]
    ann, bob, eve = _annotators(verdicts, 0.8)
    assert (ann.known.value, ann.below) == (1.0, False)
    assert bob.known.value == pytest.approx(1 / 3)
    assert bob.below
    assert (eve.known, eve.below, eve.ties) == (None, False, 1)
    # A third of three is no evidence against 0.8's neighbours: the upper bound decides.
    few = [Verdict(comparison(n, "A"), "bob", right if n else wrong) for n in range(3)]
    assert not _annotators(few, 0.8)[0].below


@pytest.fixture(scope="module")
def pandalm(real_data: Path):
    with gzip.open(real_data / "preference" / "pandalm_human_testset.jsonl.gz", "rt", encoding="utf-8") as file:
        return [[row[f"annotator{n}"] for n in (1, 2, 3)] for row in map(json.loads, file)]


def test_figures_of_real_annotators_are_those_of_other_packages(pandalm):
    table = np.array(pandalm)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        theirs = cohen_kappa_score(table[:, first], table[:, second])
        assert cohen_kappa(list(zip(table[:, first], table[:, second], strict=True))) == pytest.approx(
            theirs, abs=1e-12
        )
    says = {1: "A is better", 0: "They are equally good", 2: "B is better"}
    verdicts = [
        Verdict(comparison(number), f"annotator{person}", level(says[value]))
        for number, row in enumerate(pandalm)
        for person, value in enumerate(row)
    ]
    scale = np.vectorize({1: -1.0, 0: 0.0, 2: 1.0}.get)(table).T
    theirs = krippendorff.alpha(reliability_data=scale, level_of_measurement="ordinal")
    assert krippendorff_alpha(verdicts, GUIDELINES) == pytest.approx(theirs, abs=1e-12)
    assert theirs > 0.85


def test_alpha_where_nothing_is_shared_or_all_say_the_same():
    better = level("A is better")
    alone = [Verdict(comparison(0), "ann", better), Verdict(comparison(1), "bob", better)]
    assert krippendorff_alpha(alone, GUIDELINES) is None
    assert krippendorff_alpha([*alone, Verdict(comparison(0), "bob", better)], GUIDELINES) is None
    assert krippendorff_alpha([], GUIDELINES) is None
