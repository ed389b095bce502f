import math

import numpy as np
import pytest

from benchmarks import learning, scaling
from benchmarks.arguments import Settings
from benchmarks.arithmetic import block_weights, update_flops
from benchmarks.curves import Curves, compare, differences, seconds_to, stack, within_spread
from benchmarks.made_models import SHAPES, Shape


def curves(gold, pace):
    gold = np.array(gold, dtype=float)
    points = np.arange(gold.shape[1])
    return Curves(points * 256.0, np.tile(points * float(pace), (len(gold), 1)), gold)


def test_difference_is_paired_over_the_seeds():
    peer = curves([[0, 0.4], [0, 0.8]], pace=10)
    ours = curves([[0, 0.5], [0, 0.9]], pace=2)  # the seeds differ by 0.4, the pairs by 0.1 each
    last = differences(ours, peer)[-1]
    assert (last.value, last.low, last.high) == pytest.approx((0.1, 0.1, 0.1))


def test_time_is_interpolated_between_points():
    one = curves([[0.0, 0.4, 0.8]], pace=5)
    assert seconds_to(one, 0.4) == pytest.approx(5.0)
    assert seconds_to(one, 0.6) == pytest.approx(7.5)
    assert seconds_to(one, -1.0) == 0.0
    assert seconds_to(one, 0.9) is None


def test_comparison():
    peer = curves([[0.0, 0.6, 0.5], [0.0, 0.6, 0.5]], pace=10)
    ours = curves([[0.0, 0.6, 0.7], [0.0, 0.6, 0.7]], pace=2)
    found = compare(ours, peer)
    assert found["peer_best"] == 0.6
    assert found["peer_best_episodes"] == 256
    assert found["share_of_time"] == pytest.approx(0.2)
    assert found["low"] == pytest.approx(0.2)
    assert found["seeds"] == 2


def test_what_never_reaches_the_peers_best_has_no_time():
    found = compare(curves([[0, 0.1], [0, 0.2]], 1), curves([[0, 0.9], [0, 0.8]], 1))
    assert found["our_seconds_to_peer_best"] is None
    assert found["share_of_time"] is None


def test_a_peer_that_only_got_worse_takes_no_time_that_could_be_shared():
    assert compare(curves([[0.5, 0.6], [0.5, 0.7]], 1), curves([[0.5, 0.4], [0.5, 0.4]], 1))["share_of_time"] is None


def test_gap_stands_beside_the_spread():
    found = within_spread(curves([[0, 0.4], [0, 0.6]], 1), curves([[0, 0.5], [0, 0.7]], 1))
    assert found["largest_gap"] == pytest.approx(0.1)
    assert found["spread_there"] == pytest.approx(math.sqrt(0.02), abs=1e-4)


def learning_rows():
    return [
        {
            "side": side,
            "seed": seed,
            "episodes": [0, 256, 512],
            "seconds": [0.0, pace, 2 * pace],
            "gold": [0.2, 0.5 + 0.01 * seed, 0.7 + 0.01 * seed],
            "num_prompts": 1024,
            "quiet": True,
            "settings": vars(Settings()),
            "when": "2026-01-01 00:00",
            "commit": "abc1234",
            "machine": "a machine",
        }
        for seed in (2, 1)
        for side, pace in (("ours-bf16", 2.0), ("peer", 10.0), ("ours-fp32", 4.0), ("ours-trunk", 1.0))
    ]


def test_report_of_learning_prints_draws_and_writes(tmp_path, monkeypatch, capsys):
    written = {}
    monkeypatch.setattr(learning, "PICTURE", tmp_path / "pictures" / "learning.png")
    monkeypatch.setattr(learning.readme, "write_part", lambda name, new: written.update({name: new}))
    learning.report(learning_rows())
    assert '"case": "learning"' in capsys.readouterr().out
    assert (tmp_path / "pictures" / "learning.png").stat().st_size > 10_000
    assert "0.20 of its time" in written["learning"]
    assert "abc1234" in written["learning"]
    assert "| ours-trunk |" in written["learning"]
    assert "ours-adapters" not in written["learning"]  # was not run


def test_seeds_are_put_in_order():
    rows = [row for row in learning_rows() if row["side"] == "peer"]
    assert stack(rows).gold[0].tolist() == rows[1]["gold"]


def test_arithmetic_of_a_model_small_enough_to_count_by_hand():
    shape = Shape(hidden_size=2, intermediate_size=3, num_hidden_layers=1, num_attention_heads=1, vocab_size=5)
    assert block_weights(shape) == 4 * 4 + 3 * 6
    settings = Settings(episodes=1, rollout=1, micro_batch=1, ppo_epochs=2, response_tokens=2)
    tokens = 30  # 28 of the mean prompt, 2 of the response
    backbone = 2 * 34 * tokens + 4 * 2 * tokens * (tokens + 1) / 2
    policy = backbone + 2 * 2 * 5 * 2
    flops = update_flops(shape, settings)
    assert flops.generation == policy
    assert flops.scoring == 2 * policy + 2 * backbone
    assert flops.training == 2 * 3 * (policy + backbone)


def test_shapes_have_the_sizes_of_their_names():
    sizes = {name: block_weights(shape) + 2 * shape.vocab_size * shape.hidden_size for name, shape in SHAPES.items()}
    assert sizes["2M"] == pytest.approx(1.84e6, rel=0.01)
    assert sizes["20M"] == pytest.approx(20e6, rel=0.03)
    assert sizes["160M"] == pytest.approx(160e6, rel=0.03)
    assert sizes["1B"] == pytest.approx(1e9, rel=0.06)


def test_exponent_of_a_power():
    x = [16, 32, 64, 128]
    assert scaling.exponent(x, [3 * one**1.5 for one in x]) == pytest.approx(1.5)


def scaling_rows():
    rows = []
    for sweep, sizes in scaling.SWEEPS.items():
        for x, models, settings in sizes:
            number = x or block_weights(SHAPES[models])
            rows.append(
                {
                    "sweep": sweep,
                    "x": number,
                    "models": models,
                    "settings": vars(settings),
                    "dtype": "bf16",
                    "seconds": {kind: number * 1e-3 for kind in ("all", *scaling.KINDS)},
                    "tokens_per_s": {kind: 1000.0 for kind in ("all", *scaling.KINDS)},
                    "quiet": True,
                    "when": "2026-01-01 00:00",
                    "commit": "abc1234",
                    "machine": "a machine",
                }
            )
    return rows


def test_report_of_scaling_prints_draws_and_writes(tmp_path, monkeypatch, capsys):
    written = {}
    monkeypatch.setattr(scaling, "PICTURE", tmp_path / "pictures" / "scaling.png")
    monkeypatch.setattr(scaling.readme, "write_part", lambda name, new: written.update({name: new}))
    scaling.report(scaling_rows())
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert (tmp_path / "pictures" / "scaling.png").stat().st_size > 10_000
    assert "| response tokens | 512 |" in written["scaling"]


def test_phases_are_gathered_by_kind():
    kinds = scaling.by_kind({"generation": 1.0, "values": 2.0, "scores": 3.0, "optimizer": 4.0, "other": 9.0})
    assert kinds == {"generation": 1.0, "scoring": 5.0, "training": 4.0}
