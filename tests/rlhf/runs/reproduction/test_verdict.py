"""The verdict on a run that was made again, from what its stages made and measured then and now."""

from dataclasses import replace

import pytest

from rlhf.provenance.record import CodeRecord, ProvenanceRecord
from rlhf.runs.reproduction.report import as_markdown
from rlhf.runs.reproduction.results import StageResult
from rlhf.runs.reproduction.verdict import Reproduction, compare_stage, decide_verdict, environment_changes

FILES = {"policy/model.safetensors": "a" * 64, "policy/config.json": "b" * 64}
CURVES = {
    "policy/kl_mean": [(1, 0.0), (2, 0.5), (3, 0.75)],
    "policy/chosen_objective": [(3, 1.5)],
}
THEN = StageResult("run", FILES, {"policy/kl_mean": 0.75, "policy/chosen_objective": 1.5}, CURVES, 10.0)
RECORD = ProvenanceRecord(
    recipe="demo",
    seed=0,
    config_sha256="c",
    lock_sha256="d" * 64,
    code=CodeRecord(commit="e" * 40, dirty=False, patch_sha256=None),
    machine={"python": "3.11.7", "cpu": "A", "version.torch": "2.13.0", "platform": "Linux-6.1-x86_64-with-glibc2.36"},
    compute={"num_threads": "2", "dtype": "bf16"},
)


def verdict_on(now: StageResult, *environment: str) -> tuple[str, str]:
    return decide_verdict((compare_stage("policy", THEN, now),), environment)


def with_kl(*values: float) -> StageResult:
    curve = list(enumerate(values, start=1))
    return replace(
        THEN, curves=CURVES | {"policy/kl_mean": curve}, metrics=dict(THEN.metrics) | {"policy/kl_mean": values[-1]}
    )


def test_the_same_to_the_bit_is_identical():
    stage = compare_stage("policy", THEN, replace(THEN, seconds=99.0))
    assert stage.is_identical
    assert (stage.num_metrics, stage.num_equal_metrics) == (2, 2)
    assert verdict_on(THEN)[0] == "identical"
    verdict, reason = verdict_on(THEN, "cpu: A then, B now")
    assert verdict == "equal within tolerance"
    assert "the same to the bit, but the environment is another (cpu: A then, B now)" in reason


def test_other_weights_in_the_same_environment_are_different():
    verdict, reason = verdict_on(replace(THEN, files=FILES | {"policy/model.safetensors": "c" * 64}))
    assert verdict == "different"
    assert "policy is the first stage that came out otherwise, in its weights" in reason
    assert "nothing of the environment explains it" in reason


def test_another_file_is_named():
    stage = compare_stage("policy", THEN, replace(THEN, files={"policy/model.safetensors": "a" * 64, "new": "1" * 64}))
    assert stage.other_files == ("new", "policy/config.json")
    assert not stage.is_identical


def test_where_curves_part_is_told():
    stage = compare_stage("policy", THEN, with_kl(0.0, 0.50000001, 0.9))
    assert stage.parted is not None
    assert (stage.parted.step, stage.parted.metric) == (2, "policy/kl_mean")
    assert (stage.parted.then, stage.parted.now) == (0.5, 0.50000001)
    assert "from policy/kl_mean at step 2 on: 0.5 then, 0.50000001 now" in verdict_on(with_kl(0.0, 0.50000001, 0.9))[1]
    shorter = compare_stage("policy", THEN, with_kl(0.0, 0.5))
    assert shorter.parted is not None
    assert (shorter.parted.step, shorter.parted.now) == (3, None)


def test_within_tolerance_only_where_the_environment_explains_it():
    now = replace(with_kl(0.0, 0.4, 0.7), metrics=dict(THEN.metrics) | {"policy/chosen_objective": 1.55})
    assert verdict_on(now)[0] == "different"
    verdict, reason = verdict_on(now, "num_threads: 2 then, 1 now")
    assert verdict == "equal within tolerance"
    assert "num_threads: 2 then, 1 now" in reason
    beyond = replace(now, metrics=dict(THEN.metrics) | {"policy/chosen_objective": 1.6})
    verdict, reason = verdict_on(beyond, "num_threads: 2 then, 1 now")
    assert verdict == "different"
    assert "beyond tolerance: policy/chosen_objective 1.5 then, 1.6 now" in reason


@pytest.mark.parametrize(("rate", "near"), [(0.55, True), (0.62, True), (0.71, False)])
def test_a_figure_with_an_interval_is_near_while_the_intervals_meet(rate: float, near: bool):
    def evaluation(middle: float) -> StageResult:
        ends = {"evaluation/win_rate_low": middle - 0.05, "evaluation/win_rate_high": middle + 0.05}
        return replace(THEN, metrics={"evaluation/win_rate": middle, **ends}, curves={})

    stage = compare_stage("evaluation", evaluation(0.58), evaluation(rate))
    assert (stage.beyond_tolerance == ()) == near


def test_the_card_names_its_run_so_its_text_does_not_count():
    now = replace(THEN, files=FILES | {"README.md": "9" * 64})
    assert compare_stage("model_card", THEN, now).is_identical
    tokenizer = replace(THEN, files=FILES | {"tokenizer.json": "9" * 64})
    assert compare_stage("model_card", THEN, tokenizer).other_files == ("tokenizer.json",)
    assert not compare_stage("sft", THEN, now).is_identical


def test_what_of_the_environment_changes_bits():
    machine = RECORD.machine | {"cpu": "B", "version.torch": "2.14.0", "platform": "Linux-6.2-x86_64-with-glibc2.41"}
    now = RECORD.model_copy(
        update={"machine": machine, "compute": RECORD.compute | {"num_threads": "1"}, "lock_sha256": "f" * 64}
    )
    assert environment_changes(RECORD, now) == (
        "cpu: A then, B now",
        "libc: glibc2.36 then, glibc2.41 now",
        "num_threads: 2 then, 1 now",
        "requirements.lock: dddddddddddd then, ffffffffffff now",
        "torch: 2.13.0 then, 2.14.0 now",
    )
    kernel = RECORD.machine | {"platform": "Linux-6.9-x86_64-with-glibc2.36", "cpu_count": "64"}
    assert environment_changes(RECORD, RECORD.model_copy(update={"machine": kernel})) == ()


def test_the_table_for_a_person():
    stage = compare_stage("policy", THEN, with_kl(0.0, 0.5, 0.8))
    verdict, reason = decide_verdict((stage,), ())
    result = Reproduction(
        verdict=verdict,
        reason=reason,
        run_id="a" * 32,
        reproduction_run="b" * 32,
        not_compared=(),
        environment=(),
        stages=(stage,),
        seconds_then=10.0,
        seconds_now=11.0,
        seconds_in_all=30.0,
        kept_in="/somewhere",
    )
    text = as_markdown(result)
    assert "different" in text.splitlines()[0]
    assert "| policy | " in text
    assert "1 of 2" in text
    assert "| policy/chosen_objective | 1.5 | 1.5 |" in text
    assert "/somewhere" in text
