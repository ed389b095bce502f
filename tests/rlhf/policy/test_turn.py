"""The turn of a run, on made-up evaluations whose truth is known: one that turns, one that never does, and noise."""

import json

import numpy as np
import pytest

from rlhf.policy.turn import ERROR_RATE, describe_turn, find_turn, is_certain, turn_of

UPDATES = list(range(0, 100, 4))
SLACK = 0.022
"""Two standard errors of a share of 5% that 400 repetitions measure."""


def make(seed, held_out, score, num_prompts=200, noise=0.5):
    """Scores and held-out scores [P, U] with the given means: prompts differ, and each answers to each update anew."""
    rng = np.random.default_rng(seed)
    prompts = rng.normal(size=(num_prompts, 1))
    size = (num_prompts, len(held_out))
    return tuple(prompts + np.asarray(mean) + noise * rng.normal(size=size) for mean in (score, held_out))


def find(seed, held_out, score, **settings):
    return find_turn(UPDATES, *make(seed, held_out, score, **settings))


RISING = np.linspace(0, 2, len(UPDATES))
PLATEAU = np.minimum(np.array(UPDATES) / 48, 1.0)
TURNING = 1 - ((np.array(UPDATES) - 48) / 48) ** 2


def test_a_turn_is_named_where_it_was():
    turns = [find(seed, TURNING, RISING) for seed in range(100)]
    assert all(turn.state == "over_optimized" for turn in turns)
    assert np.mean([turn.earliest <= 48 <= turn.latest for turn in turns]) >= 1 - ERROR_RATE
    assert np.mean([abs(turn.update - 48) <= 12 for turn in turns]) >= 0.95
    assert all(turn.latest - turn.earliest <= 48 for turn in turns)


@pytest.mark.parametrize("held_out", [PLATEAU, np.zeros(len(UPDATES)), RISING], ids=["plateau", "noise", "rising"])
def test_a_run_that_never_fell_did_not_turn(held_out):
    """The largest of many noisy figures looks like a best one that was lost: it must not count as such."""
    states = [find(seed, held_out, RISING).state for seed in range(400)]
    assert states.count("none") / 400 >= 1 - ERROR_RATE - SLACK
    naive = [make(seed, held_out, RISING)[1] for seed in range(400)]
    fell = [_z(rows[:, rows.mean(0).argmax()] - rows[:, -1]) > 1.645 for rows in naive]
    if held_out is not RISING:
        assert np.mean(fell) > 0.15, "without the correction far more runs would have turned"


def _z(differences):
    return differences.mean() / (differences.std(ddof=1) / len(differences) ** 0.5 + 1e-12)


def test_a_dip_that_the_run_came_out_of_is_no_turn():
    dip = PLATEAU - np.where((np.array(UPDATES) > 4) & (np.array(UPDATES) < 20), 1.0, 0.0)
    assert [find(seed, dip, RISING).state for seed in range(100)].count("none") >= 95


def test_both_falling_is_no_over_optimization():
    turn = find(0, TURNING, TURNING)
    assert turn.state == "fell"
    assert "training went wrong, but not by over-optimization" in describe_turn(turn, 48)


def test_few_prompts_do_not_tell():
    assert find(0, TURNING, RISING, num_prompts=8).state == "unknown"
    scores, held_out = make(0, TURNING[:1], RISING[:1])
    assert find_turn([0], scores, held_out).state == "unknown"
    assert "cannot be told" in describe_turn(find(0, TURNING, RISING, num_prompts=8), 48)


def test_scores_that_are_all_the_same_did_not_turn():
    same = np.ones((50, len(UPDATES)))
    turn = find_turn(UPDATES, same, same)
    assert (turn.state, turn.earliest, turn.latest) == ("none", 0, 96)


def test_units_of_the_scores_make_no_difference():
    scores, held_out = make(3, TURNING, RISING)
    turn, other = find_turn(UPDATES, scores, held_out), find_turn(UPDATES, 30 * scores, 0.01 * held_out)
    assert (other.state, other.update, other.earliest, other.latest) == (
        turn.state, turn.update, turn.earliest, turn.latest,
    )  # fmt: skip


def test_what_is_said_names_turn_and_choice():
    turn = find(0, TURNING, RISING)
    said = describe_turn(turn, 48)
    assert f"Over-optimization began at update {turn.update} ({turn.earliest} to {turn.latest})" in said
    assert "to update 96 the score went on rising" in said
    assert "The chosen checkpoint, of update 48, is not from after that." in said
    assert "of update 96, lies beyond it" in describe_turn(turn, 96)
    end = find(0, RISING, RISING)
    assert "is best at the end (update 96, which was chosen)." in describe_turn(end, 96)
    none = find(0, PLATEAU, RISING)
    assert 48 <= none.update < 96
    assert f"its best (update {none.update}, which was chosen)" in describe_turn(none, none.update)
    assert "and update 4 was chosen)" in describe_turn(none, 4)


def evaluations(seed, held_out, score=RISING):
    scores, columns = make(seed, held_out, score)
    return json.loads(
        json.dumps(
            [
                {"update": update, "scores": scores[:, i].tolist(), "held_out_scores": columns[:, i].tolist()}
                for i, update in enumerate(UPDATES)
            ]
        )
    )


def stop(rows, num_in_a_row):
    """The evaluation at which a run would stop; None where it would go on to the end."""
    return next((n for n in range(1, len(rows) + 1) if is_certain(rows[:n], num_in_a_row)), None)


def test_evaluations_are_read_as_they_are_kept():
    rows = evaluations(1, TURNING)
    assert turn_of(rows) == find(1, TURNING, RISING)


def test_a_run_is_stopped_after_it_turned():
    ends = [stop(evaluations(seed, TURNING), 2) for seed in range(20)]
    assert all(end is not None and 48 < UPDATES[end - 1] < 96 for end in ends)


def test_a_run_that_never_fell_is_not_stopped_however_often_one_looks():
    stopped = [stop(evaluations(seed, PLATEAU), 1) for seed in range(100)]
    assert sum(end is not None for end in stopped) / 100 <= ERROR_RATE + 0.044


def test_a_dip_shorter_than_asked_for_stops_nothing():
    dip = PLATEAU - np.where((np.array(UPDATES) > 4) & (np.array(UPDATES) < 16), 1.0, 0.0)  # at two evaluations
    rows = evaluations(0, dip, 4 * RISING)
    assert stop(rows, 3) is None
    assert stop(rows, 2) is not None
