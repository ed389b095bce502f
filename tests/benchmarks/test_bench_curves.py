import math

import numpy as np
import pytest

from benchmarks import learning
from benchmarks.arguments import Settings
from benchmarks.curves import Curves, compare, differences, seconds_to, stack, within_spread


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
