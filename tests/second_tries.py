"""Tests that may be tried twice, and why. Every other test that fails once fails `make test-services`, and CI."""

_TOLD_TWICE = "Prefect tells twice of a process that was killed, and the second time may undo a person's Retry"

KNOWN = {
    "tests/flows/test_services.py::test_a_crash_ends_with_the_same_bits": _TOLD_TWICE,
    "tests/flows/test_services.py::test_killed_in_ppo_a_run_is_crashed_and_its_retry_goes_on": _TOLD_TWICE,
    "tests/flows/test_services.py::test_after_a_power_cut_the_run_is_crashed_told_of_and_goes_on": _TOLD_TWICE,
}
