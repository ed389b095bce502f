import gzip
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from rlhf.evaluation.agreement import accuracy_ceiling, annotator_agreement, cohen_kappa, fleiss_kappa
from rlhf.evaluation.statistics import Estimate

NAMES = ("annotator1", "annotator2", "annotator3")


@pytest.fixture(scope="module")
def pandalm(real_data: Path):
    """Verdicts of three people on 999 pairs of answers: 0 a tie, 1 or 2 the better one."""
    with gzip.open(real_data / "preference" / "pandalm_human_testset.jsonl.gz", "rt", encoding="utf-8") as file:
        return [{name: row[name] for name in NAMES} for row in map(json.loads, file)]


def test_kappa_of_two_by_hand():
    """Cohen's own kind of table: they agree on 35 of 50, and by chance they would on 0.5 of all."""
    verdicts = [("yes", "yes")] * 20 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 15
    assert cohen_kappa(verdicts) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert cohen_kappa([(b, a) for a, b in verdicts]) == cohen_kappa(verdicts)
    assert cohen_kappa([("yes", "no"), ("no", "yes")]) == -1
    assert cohen_kappa([("yes", "yes")] * 3) is None


def test_kappa_of_many_is_fleiss_example():
    """The table of 14 raters and 10 subjects from which Fleiss' kappa is usually worked out: 0.210."""
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    verdicts = [[category for category, n in enumerate(row) for _ in range(n)] for row in table]
    assert fleiss_kappa(verdicts) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([["a", "b"], ["b", "a"]]) == -1
    assert fleiss_kappa([["a", "a", "a"], ["b", "b"]]) == 1
    assert fleiss_kappa([["a", "a"]]) is None


def test_three_raters_of_real_pairs(pandalm):
    kappas = [cohen_kappa([(row[one], row[other]) for row in pandalm]) for one, other in combinations(NAMES, 2)]
    assert kappas == pytest.approx([0.852, 0.879, 0.862], abs=5e-4)
    assert fleiss_kappa([list(row.values()) for row in pandalm]) == pytest.approx(0.864, abs=5e-4)
    agreement = annotator_agreement(pandalm, tie=0)
    assert [two.agreement for two in agreement.twos] == pytest.approx([0.913, 0.929, 0.918], abs=5e-4)
    assert [two.kappa for two in agreement.twos] == kappas
    assert agreement.all.value == pytest.approx((0.913 + 0.929 + 0.918) / 3, abs=1e-3)
    assert agreement.decided.value > agreement.all.value
    assert (agreement.num_items, agreement.num_annotators) == (999, 3)


def test_kappas_of_real_pairs_are_those_of_scikit_learn(pandalm):
    metrics = pytest.importorskip("sklearn.metrics")
    for one, other in combinations(NAMES, 2):
        columns = [[row[name] for row in pandalm] for name in (one, other)]
        assert cohen_kappa(list(zip(*columns, strict=True))) == pytest.approx(metrics.cohen_kappa_score(*columns))


def test_the_ceiling_is_what_no_model_exceeds():
    """Single verdicts of annotators of whom a share p prefers one response: the best model says what most would say."""
    rng = np.random.default_rng(0)
    for p in (np.full(1000, 0.8), rng.uniform(0.5, 1, 1000), rng.choice([0.5, 1.0], 1000)):
        agreement = float((p**2 + (1 - p) ** 2).mean())
        ceiling = accuracy_ceiling(Estimate(agreement, agreement, agreement)).value
        assert agreement <= p.mean() + 1e-9
        assert p.mean() <= ceiling + 1e-9
    found = accuracy_ceiling(Estimate(0.8**2 + 0.2**2, 0.4, 1.0))
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.5, 1.0))


def test_prompts_are_the_witnesses_and_single_verdicts_say_nothing():
    once = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}, {"a": 0, "b": 1}]
    items, prompts = [*once * 5, {"a": 1}], [*[n for n in range(4) for _ in range(5)], "x"]
    by_item, by_prompt = annotator_agreement(items, 0), annotator_agreement(items, 0, prompts)
    assert by_item.all.value == by_prompt.all.value == 0.5
    assert by_item.decided.value == pytest.approx(2 / 3)
    assert by_item.num_items == 20
    assert annotator_agreement([{"a": 1}, {"b": 1}], 0) is None
    same = [{"a": 1, "b": 1}] * 10 + [{"a": 1, "b": 2}] * 10
    together = annotator_agreement(same, 0, [0] * 10 + [1] * 10).all
    assert together.high - together.low > 1.5 * (by_item.all.high - by_item.all.low)


def test_only_ties_leave_nothing_decided():
    agreement = annotator_agreement([{"a": 0, "b": 1}], 0)
    assert agreement.decided is agreement.ceiling is None
