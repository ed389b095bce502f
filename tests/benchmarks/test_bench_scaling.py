from dataclasses import replace

import pytest
import torch

from benchmarks import growth, scaling
from benchmarks.arguments import Settings
from benchmarks.arithmetic import Flops, block_weights, cache_bytes, update_flops
from benchmarks.growth import Size
from benchmarks.made_models import SHAPES, Shape


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
    assert flops.over_cache == 4 * 2 * tokens * (tokens + 1) / 2
    # Three steps read 28 + 1, 28 + 2 and 28 + 3 keys and values of two numbers.
    settings = replace(settings, response_tokens=4)
    assert cache_bytes(shape, settings, bytes_per_number=2) == (29 + 30 + 31) * 2 * 2 * 2


def test_shapes_have_the_sizes_of_their_names():
    sizes = {name: block_weights(shape) + 2 * shape.vocab_size * shape.hidden_size for name, shape in SHAPES.items()}
    assert sizes["2M"] == pytest.approx(1.84e6, rel=0.01)
    assert sizes["20M"] == pytest.approx(20e6, rel=0.03)
    assert sizes["160M"] == pytest.approx(160e6, rel=0.03)
    assert sizes["1B"] == pytest.approx(1e9, rel=0.06)


def test_exponent_of_a_power_of_the_largest_sizes():
    x = [8, 16, 32, 64, 128]
    assert growth.exponent(x, [1.0, 1.0, *(3 * one**1.5 for one in x[2:])]) == pytest.approx(1.5)


def sizes(generation=lambda x: 0.1 * x + 0.02 * x**2, scoring=lambda x: 0.1 * x):
    """Operations grow with x, the cache with its square; 100 bytes a second."""
    made = []
    for x in (1.0, 2.0, 4.0, 8.0):
        seconds = {"generation": generation(x), "scoring": scoring(x), "training": 0.2 * x}
        seconds["all"] = sum(seconds.values()) + 0.01 * x
        flops = Flops(generation=x + x**2, scoring=2 * x, training=6 * x, over_cache=x**2)
        made.append(Size(x, seconds, flops, cache_bytes=2 * x**2))
    return made


def test_what_grows_as_the_arithmetic_says_is_what_is_expected():
    made = sizes()
    expected = growth.expected(made, bytes_per_s=100.0)
    for phase in growth.PHASES:
        assert expected[phase] == pytest.approx([one.seconds[phase] for one in made[1:]])
    # Operations of attention over the cache are counted in `all`; what no phase explains is a small part.
    assert expected["all"] == pytest.approx([one.seconds["all"] for one in made[1:]], rel=0.02)


def test_what_grows_faster_is_above_what_is_expected():
    expected = growth.expected(sizes(scoring=lambda x: 0.1 * x**1.5), bytes_per_s=100.0)
    assert 0.1 * 8**1.5 / expected["scoring"][-1] == pytest.approx(2.0)
    # A cache that could be read ten times as fast does not excuse what decoding took.
    generation = sizes()[-1].seconds["generation"]
    assert generation / growth.expected(sizes(), bytes_per_s=1000.0)["generation"][-1] > 1.3


def test_reading_takes_no_more_than_all_of_generation():
    expected = growth.expected(sizes(generation=lambda x: 0.001 * x), bytes_per_s=100.0)
    assert expected["generation"][0] == pytest.approx(2 * 2**2 / 100)  # the bytes' time alone, no negative rest


def test_reading_rate_is_measured_in_bytes_a_second():
    assert 1e8 < growth.reading_rate(torch.bfloat16) < 1e12


def scaling_rows(num_rounds=3):
    rows = []
    for number in range(num_rounds):
        for sweep, of_sweep in scaling.SWEEPS.items():
            for x, models, settings in of_sweep:
                size = x or block_weights(SHAPES[models])
                seconds = dict.fromkeys(scaling.KINDS, size * 1e-3 * (1 + number / 10))
                rows.append(
                    {
                        "round": number,
                        "sweep": sweep,
                        "x": size,
                        "models": models,
                        "settings": vars(settings),
                        "dtype": "bf16",
                        "seconds": seconds | {"all": sum(seconds.values())},
                        "reading_bytes_per_s": 1e10,
                        "quiet": True,
                        "when": "2026-01-01 00:00",
                        "commit": "abc1234",
                        "machine": "a machine",
                    }
                )
    return rows


def test_a_sweep_is_told_by_the_medians_of_its_rounds():
    line = scaling.summarize("episodes a rollout", [r for r in scaling_rows() if r["sweep"] == "episodes a rollout"])
    assert line["rounds"] == 3
    assert line["seconds"]["scoring"] == [pytest.approx(1.1e-3 * x, abs=1e-3) for x in line["x"]]
    assert line["exponents"]["training"] == [pytest.approx(1.0, abs=0.01)] * 2
    assert line["over_expected"]["all"] == pytest.approx(1.0, abs=0.02)
    assert line["low"] == line["high"] == line["over_expected"]["all"]  # within a round all sizes are as slow


def test_report_of_scaling_prints_draws_and_writes(tmp_path, monkeypatch, capsys):
    written = {}
    monkeypatch.setattr(scaling, "PICTURE", tmp_path / "pictures" / "scaling.png")
    monkeypatch.setattr(scaling.readme, "write_part", lambda name, new: written.update({name: new}))
    scaling.report(scaling_rows())
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert (tmp_path / "pictures" / "scaling.png").stat().st_size > 10_000
    assert "Medians of 3 rounds" in written["scaling"]
    assert "| response tokens | 512 | 0.56 | 0.56 | 0.56 | 1.69 | 1.54 to 1.84 |" in written["scaling"]


def test_phases_are_gathered_by_kind():
    kinds = scaling.by_kind({"generation": 1.0, "values": 2.0, "scores": 3.0, "optimizer": 4.0, "other": 9.0})
    assert kinds == {"generation": 1.0, "scoring": 5.0, "training": 4.0}
