"""What a run came to, on one page: collected from its stages' outputs and metrics."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rlhf.data.set_measures import titled
from rlhf.errors import InputError
from rlhf.headline import ROWS, figure, verdict
from rlhf.references import EvaluationRef, ModelCardRef
from rlhf.stages import in_order, is_round, stage_name, title_of
from rlhf.text.lines import read_json_lines
from rlhf.tracking.artifacts import local_path, output_of
from rlhf.tracking.records import RunStore
from rlhf.tracking.tags import REFUSED_TAG, stage_runs

NUM_SAMPLES = 10
"""Answers of the report as text; the page has as many as `_MOST_SAMPLES`."""
_MOST_SAMPLES = 500
_LIMITATIONS = re.compile(r"^## Limitations\n(.*?)^## ", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Sample:
    """Answers to one test prompt.

    Attributes:
        prompt: the last turn.
        baseline: the SFT policy's answer.
        policy: the policy's.
        gain: what the policy's answer is worth by the judge of the headline, less the baseline's.
    """

    prompt: str
    baseline: str
    policy: str
    gain: float

    @property
    def better(self) -> Literal["policy", "baseline", "neither"]:
        """Whose answer the judge prefers."""
        if self.gain == 0:
            return "neither"
        return "policy" if self.gain > 0 else "baseline"


@dataclass(frozen=True)
class RunReport:
    """What people ask of a run.

    Attributes:
        run_id: the pipeline run.
        name: its name.
        verdict: what it came to.
        rows: words, value and 95% interval of each headline figure.
        stages: title and seconds of each stage, when it was computed.
        limitations: what a reader must know, as Markdown.
        judge: who judges the samples.
        samples: answers before and after.
        num_alarms: alarms that went off in PPO.
        figure: of reward against KL; None where there is none.
        on_the_way: sentences on over-optimization and the choice of the checkpoint; none of runs of before.
    """

    run_id: str
    name: str
    verdict: str
    rows: Sequence[tuple[str, str, str]]
    stages: Sequence[tuple[str, float]]
    limitations: Sequence[str]
    judge: str
    samples: Sequence[Sample]
    num_alarms: int
    figure: Path | None
    on_the_way: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(seconds for _, seconds in self.stages)


def collect(store: RunStore, run_id: str) -> RunReport:
    """The report of a finished run.

    Args:
        store: where runs are.
        run_id: a pipeline run.

    Raises:
        InputError: it has not come to a model card, or its outputs were removed.
        ArtifactMismatchError: an output is not what was stored.
    """
    run = store.runs([run_id])[run_id]
    of_stages = stage_runs(run.tags)
    records = store.runs([*of_stages.values()])
    metrics: dict[str, float] = {}
    for name, stage_run in of_stages.items():
        if stage_run in records and not is_round(name):
            metrics |= records[stage_run].metrics
    evaluation = local_path(output_of(run_id, "evaluation", EvaluationRef)[0])
    card = local_path(output_of(run_id, "model_card", ModelCardRef)[0])
    said = verdict(metrics)
    if said is None:
        raise InputError(f"MLflow run {run_id} has no figures of an evaluation; name a run that has finished")
    said = " ".join(filter(None, (said, run.tags.get(REFUSED_TAG))))
    measured = json.loads((evaluation / "evaluation.json").read_text(encoding="utf-8"))
    judge = measured["judge"]
    picture = evaluation / "overoptimization.png"
    seconds = [
        (title_of(name), records[of_stages[name]].metrics.get(f"{stage_name(name)}/trained_seconds", 0.0))
        for name in in_order(of_stages)
        if of_stages[name] in records
    ]
    return RunReport(
        run_id,
        run.name,
        said,
        [(words, *figure(metrics, name, form)) for words, name, form in (*ROWS, *_of_sets(metrics)) if name in metrics],
        seconds,
        _limitations(card / "README.md"),
        "gold rule" if judge == "gold" else judge.replace("_", " "),
        [_sample(row, judge) for row in islice(read_json_lines(evaluation / "judgements.jsonl"), _MOST_SAMPLES)],
        int(metrics.get("policy/num_alarms", 0)),
        picture if picture.is_file() else None,
        list(measured.get("overoptimization", {}).get("sentences", ())),
    )


def _sample(row: Mapping[str, Any], judge: str) -> Sample:
    baseline, policy = row["baseline"], row["policy"]
    gain = policy[judge] - baseline[judge]
    return Sample(row["prompt"][-1]["content"], baseline["response"], policy["response"], gain)


def _of_sets(metrics: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    """Rows of the evaluation sets' measures, after the headline figures."""
    for words, name, is_share in titled(metrics):
        yield words, name, f"{{:{'+' * name.endswith('_change')}{'.1%' if is_share else '.3f'}}}"


def _limitations(card: Path) -> list[str]:
    """The card's own, which are Markdown and safe to show."""
    section = _LIMITATIONS.search(card.read_text(encoding="utf-8"))
    return [line.removeprefix("- ") for line in section[1].split("\n") if line.startswith("- ")] if section else []
