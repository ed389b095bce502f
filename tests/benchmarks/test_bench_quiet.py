import pytest

from benchmarks.quiet import BusyError, CpuTimes, cpu_times, others_cores, parse_busy, wait_until_quiet

STAT = "cpu  1000 200 300 9000 500 10 20 70 999 999\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 5\n"


def machine(loads, own=0.0):
    """Readings a second apart, others using so many cores between them."""
    readings = [CpuTimes(100.0, 0.0, 0.0)]
    for load in loads:
        last = readings[-1]
        readings.append(CpuTimes(last.busy + load + own, last.own + own, last.at + 1.0))
    left = iter(readings)
    return lambda: next(left)


def test_busy_is_all_but_idle_and_waiting_and_guests_are_not_counted_twice():
    assert parse_busy(STAT, 100) == pytest.approx((1000 + 200 + 300 + 10 + 20 + 70) / 100)


def test_what_this_process_uses_is_not_the_others():
    before, after = CpuTimes(100.0, 5.0, 10.0), CpuTimes(112.0, 11.0, 14.0)
    assert others_cores(before, after) == pytest.approx((12 - 6) / 4)


def test_a_quiet_machine_is_quiet_at_once():
    assert wait_until_quiet(60.0, read=machine([0.05], own=1.0), sleep=lambda _: None) == pytest.approx(0.05)


def test_waits_until_the_others_are_done():
    assert wait_until_quiet(60.0, read=machine([1.5, 0.7, 0.02]), sleep=lambda _: None) == pytest.approx(0.02)


def test_a_machine_that_stays_busy_is_refused_with_a_way_out():
    with pytest.raises(BusyError, match=r"1\.50 cores.*BUSY=1"):
        wait_until_quiet(2.0, read=machine([1.5] * 9), sleep=lambda _: None)


def test_reads_this_machine():
    first, second = cpu_times(), cpu_times()
    assert second.busy >= first.busy > 0
    assert second.own >= first.own > 0
