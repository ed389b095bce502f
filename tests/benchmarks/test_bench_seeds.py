"""The README's tables of results: from several seeds, none of which the recipe was made with."""

import json
from pathlib import Path

import pytest

from benchmarks import seeds
from benchmarks.readme import replace_part
from rlhf.references import GroupReport, SeedReport
from rlhf.runs.groups import over_seeds

README = seeds.README.read_text()
GAINS = {7: 0.329, 11: 0.322, 23: 0.354, 31: 0.340, 47: 0.335}


def seed(number: int, gain: float) -> SeedReport:
    metrics = {name: 0.5 for name in (*seeds.DEMO.kept, *seeds.STORIES.kept)}
    metrics |= {"evaluation/num_prompts": 2048.0, "policy/entropy": 1.0}
    gains = {"": gain, "_low": gain - 0.02, "_high": gain + 0.02}
    metrics |= {f"evaluation/gold_gain{end}": value for end, value in gains.items()}
    return SeedReport(seed=number, run_id=f"{number:032x}", metrics=metrics, policy_path="/somewhere")


def report(gains: dict[int, float], **changed: object) -> GroupReport:
    found = tuple(seed(number, gain) for number, gain in gains.items())
    made = GroupReport(run_id="g", recipe="demo", seeds=found, statistics=over_seeds(found))
    return made.model_copy(update=changed)


@pytest.fixture
def file(tmp_path: Path):
    def write(made: GroupReport) -> Path:
        (tmp_path / "report.json").write_text(made.model_dump_json())
        return tmp_path / "report.json"

    return write


def test_the_table_has_every_seed_their_mean_and_both_intervals(file):
    part = seeds.seeds_part(seeds.read_report(file(report(GAINS))))
    assert part.startswith(
        "What `rlhf run configs/demo.yaml --seeds 7,11,23,31,47` printed, on 2,048 held-out questions"
    )
    assert "| 7 | 0.500 | 0.500 | +0.329 (+0.309 to +0.349) | 50.0% | 50.0% | 50.0% |" in part
    # By hand: the squared deviations from 0.336 sum to 0.000586, and t(4, 97.5%) is 2.776445.
    half = 2.776445 * (0.000586 / 4 / 5) ** 0.5
    assert "| **mean** | 0.500 | 0.500 | +0.336 | 50.0% | 50.0% | 50.0% |" in part
    assert f"| sd | 0.000 | 0.000 | {(0.000586 / 4) ** 0.5:.3f} | 0.0% | 0.0% | 0.0% |" in part
    assert f"**The gain over seeds is +0.336, {0.336 - half:+.3f} to {0.336 + half:+.3f}**" in part
    assert "says nothing of other seeds" in part


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (report(GAINS | {2: 0.385}), r"seeds \[2\] were used in making the recipe; run others"),
        (report({7: 0.3, 11: 0.3}), "2 seeds finished, 0 failed; 5 or more must"),
        (report({1: 0.3, 2: 0.3}, recipe="stories"), "2 seeds finished, 0 failed; 3 or more must"),
        (report({1: 0.3, 2: 0.3, 100: 0.3}, recipe="stories"), r"seeds \[100\] were used"),
        (report(GAINS, recipe="hh"), "is of the recipe hh; the README has tables of demo, stories"),
        (
            report(GAINS, seeds=(*report(GAINS).seeds, SeedReport(seed=9, run_id=None, error="gone"))),
            "5 seeds finished, 1 failed",
        ),
    ],
)
def test_what_the_table_cannot_be_made_of(file, made, message):
    with pytest.raises(ValueError, match=message):
        seeds.read_report(file(made))


def test_the_stories_have_columns_of_their_own(file):
    part = seeds.seeds_part(seeds.read_report(file(report({0: 0.1, 1: 0.2, 2: 0.3}, recipe="stories"))))
    assert part.startswith("What `rlhf run configs/stories.yaml --model.base MODEL --seeds 0,1,2` printed, on 2,048")
    assert "| seed | gold reward, SFT | gold reward, policy | gain (95% over prompts, paired) | KL |" in part
    assert "| sd | 0.000 | 0.000 | 0.100 | 0.00 | 0.00 | 0.00 |" in part
    assert part.endswith("None of these seeds was used in making the recipe; 100 was.")


@pytest.mark.parametrize(("recipe", "gains"), [("demo", GAINS), ("stories", {0: 0.1, 1: 0.2, 2: 0.3})])
def test_the_program_fills_the_readme_and_keeps_its_figures(file, tmp_path, monkeypatch, recipe, gains):
    readme = tmp_path / "README.md"
    readme.write_text(seeds.README.read_text())
    monkeypatch.setattr(seeds, "README", readme)
    monkeypatch.setattr(seeds, "RESULTS", tmp_path)
    seeds.main([str(file(report(gains, recipe=recipe)))])
    results = seeds.TABLES[recipe]
    kept = GroupReport.model_validate_json(results.record.read_text())
    assert "policy/entropy" not in json.dumps(kept.model_dump())
    assert readme.read_text() == replace_part(README, results.part, seeds.seeds_part(kept))
    assert f"{next(iter(gains.values())):+.3f} (" in readme.read_text()


@pytest.mark.parametrize("results", seeds.TABLES.values(), ids=seeds.TABLES)
def test_the_readme_shows_what_is_on_record(results):
    if not results.record.exists():
        pytest.skip(f"{results.record} is not there yet: the seeds of the README were not run")
    recorded = GroupReport.model_validate_json(results.record.read_text())
    assert replace_part(README, results.part, seeds.seeds_part(recorded)) == README
