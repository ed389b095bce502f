"""The tables of results in README.md, from what `rlhf run RECIPE --seeds ... --json` printed.

`python -m benchmarks.seeds REPORT.json` keeps the figures in benchmarks/results/ and writes the recipe's table. Seeds
that were used in making the recipe are refused: their gain is the one that the recipe was chosen by.

    rlhf run configs/demo.yaml --seeds 7,11,23,31,47 --json
    rlhf run configs/stories.yaml --model.base FOLDER --seeds 0,1,2 --json
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.readme import table, write_part
from benchmarks.records import RESULTS, ROOT
from rlhf.references import GroupReport, SeedReport

README = ROOT / "README.md"
_GAIN = "evaluation/gold_gain"
_NUM_PROMPTS = "evaluation/num_prompts"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: over the column.
        metric: what stands in it.
        form: how a value is written.
    """

    title: str
    metric: str
    form: str

    def text(self, value: float, *, signed: bool = True) -> str:
        """A value as it is written; a standard deviation has no sign."""
        return (self.form if signed else self.form.replace("+", "")).format(value)


_GOLD = (
    Column("gold reward, SFT", "evaluation/baseline_gold", "{:.3f}"),
    Column("gold reward, policy", "evaluation/policy_gold", "{:.3f}"),
    Column("gain", _GAIN, "{:+.3f}"),
)


@dataclass(frozen=True)
class Results:
    """A table of the README.

    Attributes:
        recipe: the recipe's name.
        part: of the README, and of the file in benchmarks/results/.
        flags: what the command needs besides the recipe.
        prompts: what the responses are to, after their number.
        columns: after the seed.
        used: seeds by which recipe and data were tuned; docs/experiment-log.md says how.
        least: seeds that there must be.
        tuned_on: the sentence about `used`.
    """

    recipe: str
    part: str
    flags: str
    prompts: str
    columns: tuple[Column, ...]
    used: tuple[int, ...]
    least: int
    tuned_on: str

    @property
    def record(self) -> Path:
        """Where the figures are kept."""
        return RESULTS / f"{self.part}.json"

    @property
    def kept(self) -> tuple[str, ...]:
        """Metrics that the table shows."""
        return (_NUM_PROMPTS, f"{_GAIN}_low", f"{_GAIN}_high", *(column.metric for column in self.columns))


DEMO = Results(
    recipe="demo",
    part="seeds",
    flags="",
    prompts="held-out questions of which a third are easy",
    columns=(
        *_GOLD,
        Column("hedged, easy", "evaluation/policy_hedging_easy", "{:.1%}"),
        Column("hedged, hard", "evaluation/policy_hedging_hard", "{:.1%}"),
        Column("right, easy", "evaluation/policy_accuracy_easy", "{:.1%}"),
    ),
    used=(0, 1, 2),
    least=5,
    tuned_on="0, 1 and 2 were, and the demo's data with it",
)
STORIES = Results(
    recipe="stories",
    part="stories",
    flags=" --model.base MODEL",
    prompts="held-out openings of stories, with a Llama of 0.26M parameters that was trained on TinyStories",
    columns=(
        *_GOLD,
        Column("KL", "evaluation/kl", "{:.2f}"),
        Column("distinct-2, SFT", "evaluation/baseline_distinct_2", "{:.2f}"),
        Column("policy", "evaluation/policy_distinct_2", "{:.2f}"),
    ),
    used=(100,),
    least=3,
    tuned_on="100 was",
)
TABLES = {results.recipe: results for results in (DEMO, STORIES)}


def read_report(path: Path) -> GroupReport:
    """Read what the command printed, without all that the table does not show.

    Raises:
        ValueError: it cannot stand in the README.
    """
    report = GroupReport.model_validate_json(path.read_text(encoding="utf-8"))
    results = TABLES.get(report.recipe)
    if results is None:
        raise ValueError(f"{path} is of the recipe {report.recipe}; the README has tables of {', '.join(TABLES)}")
    seeds = [seed.seed for seed in report.finished]
    used = sorted(set(seeds) & set(results.used))
    if used:
        raise ValueError(f"{path}: seeds {used} were used in making the recipe; run others")
    if report.failed or len(seeds) < results.least:
        raise ValueError(
            f"{path}: {len(seeds)} seeds finished, {len(report.failed)} failed; {results.least} or more must, and all"
        )
    kept = tuple(_without_the_rest(seed, results) for seed in report.seeds)
    return report.model_copy(update={"seeds": kept, "statistics": {_GAIN: report.statistics[_GAIN]}})


def seeds_part(report: GroupReport) -> str:
    """What stands between the markers in the README."""
    results = TABLES[report.recipe]
    listed = ",".join(str(seed.seed) for seed in report.seeds)
    prompts = int(report.seeds[0].metrics[_NUM_PROMPTS])
    gain = report.statistics[_GAIN]
    assert gain.low is not None, "there are several seeds"
    assert gain.high is not None, "there are several seeds"
    header = [
        f"{column.title}{' (95% over prompts, paired)' if column.metric == _GAIN else ''}" for column in results.columns
    ]
    rows = [
        *([str(seed.seed), *_values(seed, results)] for seed in report.seeds),
        ["**mean**", *_over(report, results, statistics.fmean)],
        ["sd", *_over(report, results, statistics.stdev, signed=False)],
    ]
    right = [0, *(n for n, column in enumerate(results.columns, 1) if column.metric != _GAIN)]
    return "\n\n".join(
        (
            f"What `rlhf run configs/{results.recipe}.yaml{results.flags} --seeds {listed}` printed, on {prompts:,} "
            f"{results.prompts}:",
            table(["seed", *header], rows, right=right),
            f"**The gain over seeds is {gain.mean:+.3f}, {gain.low:+.3f} to {gain.high:+.3f}** "
            f"(95%, Student's t over {gain.num_seeds} seeds): what the recipe comes to with another seed. The interval "
            "of one run is over test prompts, for this model, and says nothing of other seeds. None of these seeds was "
            f"used in making the recipe; {results.tuned_on}.",
        )
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill a table of the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "report", metavar="REPORT.json", type=Path, help="what `rlhf run ... --seeds ... --json` printed"
    )
    report = read_report(parser.parse_args(arguments).report)
    results = TABLES[report.recipe]
    results.record.write_text(json.dumps(report.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    write_part(results.part, seeds_part(report), README)


def _without_the_rest(seed: SeedReport, results: Results) -> SeedReport:
    metrics = {name: seed.metrics[name] for name in results.kept}
    return seed.model_copy(update={"metrics": metrics, "policy_path": None})


def _values(seed: SeedReport, results: Results) -> list[str]:
    interval = f" ({seed.metrics[f'{_GAIN}_low']:+.3f} to {seed.metrics[f'{_GAIN}_high']:+.3f})"
    return [
        column.text(seed.metrics[column.metric]) + (interval if column.metric == _GAIN else "")
        for column in results.columns
    ]


def _over(
    report: GroupReport, results: Results, of: Callable[[Sequence[float]], float], *, signed: bool = True
) -> list[str]:
    return [
        column.text(of([seed.metrics[column.metric] for seed in report.seeds]), signed=signed)
        for column in results.columns
    ]


if __name__ == "__main__":
    main()
