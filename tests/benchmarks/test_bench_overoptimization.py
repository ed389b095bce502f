"""What `make bench-overoptimization` makes of runs that are done."""

import pytest

from benchmarks.overoptimization import part, says_the_truth, share_of_best
from benchmarks.records import ROOT
from rlhf.config.loading import load_config


def turn(update, state="over_optimized"):
    return {"state": state, "update": update, "earliest": update - 8, "latest": update + 8}


def row(recipe="overoptimize", seed=7, named=None, gold_turned=None, gold=(0.1, 0.4, 0.3), chosen=4):
    turns = {"turn": named, "gold_turn": gold_turned}
    return {
        "recipe": recipe, "seed": seed, **{name: turn(12, "none") if of is None else of for name, of in turns.items()},
        "fits": {"selection_score": None}, "updates": [0, 4, 8], "chosen_update": chosen, "gold": list(gold),
        "kl": [0.0, 1.0, 4.0], "when": "now", "commit": "abc", "machine": "a machine",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("named", "gold_turned", "right"),
    [
        (turn(80), turn(100), True),
        (turn(126), turn(100), False),
        (turn(74), turn(100), False),
        (None, None, True),
        (turn(80), None, False),
        (None, turn(80), False),
        (turn(80, "fell"), turn(80, "fell"), True),
    ],
)
def test_a_run_is_right_where_it_names_what_gold_shows(named, gold_turned, right):
    assert says_the_truth(row(named=named, gold_turned=gold_turned)) is right


def test_the_choice_is_set_beside_the_best_checkpoint():
    assert share_of_best(row(gold=(0.1, 0.4, 0.3), chosen=8)) == pytest.approx(2 / 3)
    assert share_of_best(row(gold=(0.1, 0.0, -0.1))) == 1.0, "nothing was to be gained"


def test_the_table_has_targets_and_leaves_out_what_was_tuned_on():
    rows = {str(seed): row(seed=seed, named=turn(80), gold_turned=turn(90)) for seed in (0, 7, 11)}
    rows["wrong"] = row(seed=23, gold_turned=turn(90))
    text = part(rows | {"demo": row("demo", chosen=8)})
    assert "| overoptimize, 7 | 80 (72 to 88) | 90 (82 to 98) | yes | 4 |" in text
    assert "| overoptimize, 23 | did not turn | 90 (82 to 98) | **no** |" in text
    assert "overoptimize, 0" not in text
    assert "in 2 of 3 seeds (target four of five: **missed**)" in text
    assert "has 67% of the best checkpoint's gold gain over SFT, in the mean of 1 seeds (target 90%: **miss" in text


def test_the_recipe_is_the_demo_without_a_penalty_and_four_times_as_long():
    demo, long = (load_config(ROOT / "configs" / f"{name}.yaml") for name in ("demo", "overoptimize"))
    changed = {"num_updates": 4 * demo.rl.num_updates, "kl_coef": 0.0, "kl_budget": 1000.0}
    assert long.rl == demo.rl.model_copy(update={**changed, "alarms": long.rl.alarms})
    assert long.rl.alarms == demo.rl.alarms.model_copy(update={"fatal": ()})
    for name in ("data", "sft", "reward_model", "model", "compute"):
        assert getattr(long, name) == getattr(demo, name), "what the demo has made is found"
