import json
from dataclasses import replace

import pytest

from benchmarks import records, run
from benchmarks.arguments import Settings
from benchmarks.cases import CASES, groups, running_order, shrunk
from benchmarks.readme import replace_part, speed_part, table
from benchmarks.summary import UnequalLengthsError, check_lengths, summarize


def result(wall_s, mb=1000, mean=48.0, **phases):
    return {
        "wall_s": wall_s,
        "episodes_per_s": 256 / wall_s,
        "seconds": phases or {"generation": wall_s},
        "peak_rss_mb": mb,
        "optimizer_steps": 16,
        "parameters": 1,
        "threads": 2,
        "response_tokens": [{"mean": mean, "longest": 48}],
        "versions": {"torch": "2.13.0"},
    }


def cycle(session="a", peer=134.0, quiet=True, mean=48.0, **ours):
    return records.Cycle(
        session=session,
        peer=result(peer, 2800),
        ours={name: result(seconds, 1400, mean) for name, seconds in ours.items()},
        others_cores=dict.fromkeys([*ours, "peer"], 0.01),
        quiet=quiet,
        when="2026-01-01 00:00",
        commit="abc1234",
        machine="a machine",
    )


def test_cases_are_those_of_the_issue_and_share_their_peer_where_it_is_the_same():
    grouped = [[case.name for case in group] for group in groups(CASES.values())]
    assert grouped == [
        ["20M-epochs4", "20M-epochs4-turns", "20M-epochs4-fp32", "20M-trunk", "20M-adapters"],
        ["2M-epochs4"],
        ["20M-epochs1"],
        ["ends-epochs4"],
        *([name] for name in ("20M-rloo", "20M-rloo-fp32", "20M-rloo-adapters")),
        *([name] for name in ("20M-grpo", "20M-grpo-fp32", "20M-grpo-adapters")),
    ]


def test_a_method_has_its_own_peer_in_the_same_precision():
    case = CASES["20M-rloo-adapters"]
    assert case.peer_module == "benchmarks.peer_groups"
    assert case.peer_flags() == ["--method", "rloo", "--dtype", "bf16", "--adapters"]
    assert CASES["20M-grpo-fp32"].peer_flags() == ["--method", "grpo", "--dtype", "fp32"]
    assert (CASES["20M-epochs4"].peer_module, CASES["20M-epochs4"].peer_flags()) == ("benchmarks.peer_ppo", [])


def test_the_peer_runs_after_the_first_of_ours():
    group = groups(CASES.values())[0]
    assert [case and case.name for case in running_order(group)] == [
        "20M-epochs4",
        None,
        "20M-epochs4-turns",
        "20M-epochs4-fp32",
        "20M-trunk",
        "20M-adapters",
    ]


def test_both_sides_are_given_the_same_settings():
    case = CASES["20M-epochs4"]
    ours = case.our_flags(micro_batch=case.settings.micro_batch)
    assert ours[: len(case.settings.flags())] == case.settings.flags()
    assert f"--micro-batch {case.micro_batch} " in " ".join(case.our_flags(micro_batch=None))


def test_a_smoke_is_small():
    assert shrunk(CASES["20M-epochs4"]).settings.episodes == 16
    assert shrunk(CASES["20M-epochs4"]).models == "tiny"


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        Settings(episodes=100, rollout=64)


def test_ratio_is_the_median_of_the_pairs_and_not_the_ratio_of_the_medians():
    cycles = [cycle(peer=p, **{"20M-epochs4": o}) for p, o in ((100, 50), (120, 30), (90, 30))]
    row = summarize(CASES["20M-epochs4"], cycles).row
    assert (row["ratio"], row["low"], row["high"], row["pairs"]) == (3.0, 2.0, 4.0, 3)
    assert row["ours"]["seconds"] == 30
    assert row["peer"]["seconds"] == 100
    assert row["memory_ratio"] == 0.5
    assert json.loads(json.dumps(row)) == row


def test_a_phase_that_a_run_lacks_counts_as_nothing():
    first, second = cycle(**{"20M-epochs4": 10}), cycle(**{"20M-epochs4": 10})
    first.ours["20M-epochs4"]["seconds"] = {"generation": 4.0}
    second.ours["20M-epochs4"]["seconds"] = {"generation": 6.0, "other": 2.0}
    assert summarize(CASES["20M-epochs4"], [first, second]).row["ours"]["phases"] == {"generation": 5.0, "other": 1.0}


def test_one_busy_pair_makes_the_case_busy():
    cycles = [cycle(**{"20M-epochs4": 10}), cycle(quiet=False, **{"20M-epochs4": 10})]
    assert summarize(CASES["20M-epochs4"], cycles).row["quiet"] is False


def test_an_early_end_where_there_should_be_none_is_refused():
    with pytest.raises(UnequalLengthsError, match="48 tokens"):
        check_lengths(CASES["20M-epochs4"], [cycle(mean=47.5, **{"20M-epochs4": 10})])


def test_different_lengths_are_refused():
    case = CASES["ends-epochs4"]
    one = cycle(mean=20.0, **{"ends-epochs4": 10})
    alike = replace(one, peer=result(134, mean=21.0))
    check_lengths(case, [alike])
    with pytest.raises(UnequalLengthsError, match=r"20\.0 tokens"):
        check_lengths(case, [one])


def test_an_interrupted_benchmark_goes_on_where_it_was(tmp_path):
    path = tmp_path / "bench.jsonl"
    for number in range(2):
        records.append(path, cycle(**{"20M-epochs4": 10 + number, "20M-trunk": 10}))
    records.append(path, cycle(session="other", **{"20M-adapters": 10}))
    with path.open("a") as file:
        file.write('{"session": "a", "peer": {"wal')  # killed while it wrote
    cycles = records.read_cycles(path)
    assert len(cycles) == 3
    names = ["20M-epochs4", "20M-trunk", "20M-adapters"]
    assert records.missing(cycles, "a", names, pairs=3) == names
    assert records.missing(cycles, "a", names, pairs=2) == ["20M-adapters"]
    assert records.missing(cycles, "a", names[:2], pairs=2) == []
    assert records.missing(cycles, "a", ["20M-adapters"], pairs=1) == ["20M-adapters"], "of another session"


def test_a_line_after_a_torn_one_is_not_lost(tmp_path):
    path = tmp_path / "bench.jsonl"
    records.append(path, cycle(**{"20M-epochs4": 10}))
    with path.open("a") as file:
        file.write('{"session": "a", "pe')
    records.append(path, cycle(**{"20M-epochs4": 11}))
    assert [one.ours["20M-epochs4"]["wall_s"] for one in records.read_cycles(path)] == [10, 11]


def test_the_table_has_the_newest_session_of_each_case():
    cycles = [
        cycle("old", **{"20M-epochs4": 50, "20M-trunk": 40}),
        cycle("new", **{"20M-epochs4": 30}),
        cycle("new", **{"20M-epochs4": 32}),
    ]
    summaries = {summary.case.name: summary.row for summary in run.all_summaries(cycles)}
    assert summaries["20M-epochs4"]["pairs"] == 2
    assert summaries["20M-epochs4"]["ours"]["seconds"] == 31
    assert summaries["20M-trunk"]["pairs"] == 1
    assert set(summaries) == {"20M-epochs4", "20M-trunk"}


def test_fingerprint_depends_on_settings():
    assert records.fingerprint(2, None) == records.fingerprint(2, None) != records.fingerprint(1, None)


def test_a_fresh_session_is_gone_on_with_once_it_was_begun(tmp_path):
    path = tmp_path / "bench.jsonl"
    assert records.current_session(path, "f00", fresh=False) == "f00"
    begun = records.current_session(path, "f00", fresh=True)
    assert begun.startswith("f00 ")
    for session in ("f00", begun, "0ther"):
        records.append(path, cycle(session=session, **{"20M-epochs4": 10}))
    assert records.current_session(path, "f00", fresh=False) == begun


def test_table_says_what_was_met_and_what_was_missed():
    names = ("20M-epochs4", "20M-epochs4-turns", "20M-epochs4-fp32")
    text = speed_part([summarize(CASES[name], [cycle(**{name: 50})]) for name in names])
    fast, lean, slow = text.splitlines()[2:5]
    assert "**2.68**" in fast
    assert "at least 3: **missed**" in fast
    assert "at most 0.5: met" in lean
    assert "at least 1.1: met" in slow
    assert "abc1234" in text
    assert "torch 2.13.0" in text
    assert "a quiet machine" in text


def test_no_figure_without_a_measurement():
    assert speed_part([]) == "Nothing was measured yet."


def test_what_a_person_wrote_stays():
    text = "before\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nafter\n"
    assert replace_part(text, "speed", "new") == "before\n<!-- speed: begin -->\nnew\n<!-- speed: end -->\nafter\n"
    with pytest.raises(ValueError, match="no part 'memory'"):
        replace_part(text, "memory", "new")


def test_table_aligns_numbers():
    assert table(["a", "b"], [["x", "1"]], right=(1,)) == "| a | b |\n| --- | ---: |\n| x | 1 |"
