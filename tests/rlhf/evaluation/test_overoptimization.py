import json

import matplotlib.image
import numpy as np
import pytest

from rlhf.errors import DataError
from rlhf.evaluation.calibration import calibration
from rlhf.evaluation.figures import ScoredPairs, draw_reliability, draw_scores
from rlhf.evaluation.overoptimization import CurvePoint, curve_warnings, examine, overoptimization_curve
from rlhf.evaluation.overoptimization_figure import draw_overoptimization
from rlhf.evaluation.statistics import Estimate, share_interval, win_rate


def around(value, half=0.05):
    return Estimate(value, value - half, value + half)


def curve(scores, golds, chosen, distinct=None):
    few, many = share_interval([1.0] + [0.0] * 9), share_interval([1.0] * 9 + [0.0])
    return [
        CurvePoint(
            4 * i,
            i == chosen,
            512,
            512,
            around(i * 0.5),
            around(score),
            around(score),
            distinct[i] if distinct else 0.6,
            None if gold is None else around(gold),
            {} if gold is None else {"hedging_easy": few, "hedging_hard": many},
        )
        for i, (score, gold) in enumerate(zip(scores, golds, strict=True))
    ]


def test_overoptimization_is_said_where_the_score_rose_and_gold_fell():
    [warning] = curve_warnings(curve([0, 1, 2, 3], [0, 0.3, 0.2, -0.5], chosen=1))
    assert (
        "from update 4 to 12 its score rose from 1.000 to 3.000, and gold reward fell from 0.300 to -0.500" in warning
    )


def test_a_checkpoint_chosen_too_late_is_said():
    warnings = curve_warnings(curve([0, 1, 2, 3], [0, 0.3, 0.1, 0.31], chosen=2))
    assert len(warnings) == 1
    assert "(update 8) has gold reward 0.100" in warnings[0]


@pytest.mark.parametrize(
    ("scores", "golds", "chosen"),
    [
        ([0, 1, 2], [0, 0.2, 0.4], 2),  # all is well
        ([0, 1, 2], [0, 0.3, 0.25], 2),  # within the intervals
        ([0, 1, 0.5], [0, 0.3, -0.2], 1),  # gold fell with the score: no over-optimization
        ([0, 1, 2], [None, None, None], 1),  # nobody knows
    ],
)
def test_nothing_is_said_without_evidence(scores, golds, chosen):
    assert curve_warnings(curve(scores, golds, chosen)) == []


def test_responses_that_repeat_themselves_are_said():
    [warning] = curve_warnings(curve([0, 1, 2], [None] * 3, chosen=2, distinct=[0.6, 0.5, 0.2]))
    assert "fell from 0.600 to 0.200 at the chosen checkpoint (update 8)" in warning
    [warning] = curve_warnings(curve([0, 1, 2, 3], [None] * 4, chosen=1, distinct=[0.6, 0.5, 0.2, 0.1]))
    assert "fell from 0.600 to 0.200 at update 8 and 0.100 at update 12" in warning
    assert curve_warnings(curve([0, 1], [None] * 2, chosen=1, distinct=[0.6, 0.31])) == []


def test_a_kl_below_zero_by_chance_is_no_distance():
    assert CurvePoint(0, False, 8, 8, around(-0.01), around(0), around(0), 0.5).sqrt_kl == 0


@pytest.mark.parametrize("golds", [[0, 0.3, -0.5], [None] * 3])
def test_the_figure_shows_what_it_is_given(tmp_path, golds):
    pictures = []
    for name, last in (("one", 3), ("same", 3), ("other", 5)):
        draw_overoptimization(curve([0, 1, last], golds, chosen=1), tmp_path / f"{name}.png")
        pictures.append(matplotlib.image.imread(tmp_path / f"{name}.png"))
    assert pictures[0][..., :3].std() > 0.05
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "same.png").read_bytes()
    assert not np.array_equal(pictures[0], pictures[2])


def test_one_point_is_a_figure_too(tmp_path):
    draw_overoptimization(curve([0], [0.1], chosen=0), tmp_path / "one.png")
    assert matplotlib.image.imread(tmp_path / "one.png")[..., :3].std() > 0.03


def test_audit_figures_of_a_model_that_gives_one_score_to_all(tmp_path):
    same = np.zeros(6)
    one = ScoredPairs("Constant", same, same, 6, win_rate(same, same).rate, calibration(np.zeros(6), 10, 0), "none")
    draw_reliability([one], tmp_path / "reliability.png")
    draw_scores([one, one], tmp_path / "scores.png")
    for path in tmp_path.iterdir():
        assert matplotlib.image.imread(path)[..., :3].std() > 0.03


def test_pyplot_is_not_touched(tmp_path):
    import sys

    before = "matplotlib.pyplot" in sys.modules
    draw_overoptimization(curve([0, 1], [None, None], chosen=0), tmp_path / "one.png")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_generations_may_hold_what_others_take_for_the_end_of_a_line(tmp_path):
    said = "one\u2028two\u2029three\x85four\x00\x0b\x0c\x1c\r\nfive"
    row = {"prompt": [{"role": "user", "content": said}], "response": said, "kl": 0.5, "score": 1.0}
    other = row | {"prompt": [{"role": "user", "content": "another"}]}
    lines = [json.dumps(one | {"selection_score": 2.0}, ensure_ascii=False) for one in (row, other)]
    (tmp_path / "generations").mkdir()
    (tmp_path / "generations" / "update_0002.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "summary.json").write_text('{"chosen_update": 2}')
    (point,) = overoptimization_curve(tmp_path, rule=None).points
    assert (point.num_responses, point.num_prompts, point.score.value) == (2, 2, 1.0)
    assert point.distinct_2 == 0.5  # both say the same


def write_run(folder, chosen=16):
    """A run that over-optimizes: the score rises to the end, selection and held-out score turn at update 20."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=60)
    (folder / "generations").mkdir()
    for update in range(0, 44, 4):
        turned = 1 - ((update - 20) / 20) ** 2
        rows = [
            {
                "prompt": [{"role": "user", "content": f"What is {number} + 1 ?"}],
                "response": "The answer is 3 .",
                "kl": (update / 10) ** 2,
                "score": own[number] + update / 20 + 0.1 * rng.normal(),
                "selection_score": own[number] + turned + 0.1 * rng.normal(),
                "held_out_score": own[number] + turned + 0.1 * rng.normal(),
            }
            for number in range(60)
        ]
        path = folder / "generations" / f"update_{update:04d}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps({"chosen_update": chosen}))
    return overoptimization_curve(folder, rule=None)


def test_a_run_that_over_optimizes_is_described(tmp_path):
    found = examine(write_run(tmp_path), 200, 0, None)
    assert (found.turn.state, found.gold_turn) == ("over_optimized", None)
    assert 16 <= found.turn.update <= 24
    assert found.fits["selection_score"].peak_seen
    assert not found.fits["score"].peak_seen
    turn, fits = json.loads(json.dumps(found.as_dict(), allow_nan=False))["sentences"]
    assert turn.startswith(f"Over-optimization began at update {found.turn.update}")
    assert "The chosen checkpoint, of update 16, is not from after that." in turn
    assert "the selection score peaks at" in fits
    assert "no peak of the score is seen within the range" in fits


def test_findings_are_drawn(tmp_path):
    curve = write_run(tmp_path)
    draw_overoptimization(curve.points, tmp_path / "plain.png")
    draw_overoptimization(curve.points, tmp_path / "findings.png", examine(curve, 200, 0, None))
    plain, drawn = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("plain", "findings"))
    assert plain.shape != drawn.shape or not np.array_equal(plain, drawn)


def test_evaluations_of_other_prompts_are_not_compared(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "generations" / "update_0008.jsonl"
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    with pytest.raises(DataError, match=r"the prompts are not those of update_0000\.jsonl"):
        overoptimization_curve(tmp_path, rule=None)
