"""What a run came to, on one page: collected from its stages' outputs and metrics."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.data.set_measures import titled
from rlhf.errors import InputError
from rlhf.headline import ROWS, figure, verdict
from rlhf.references import EvaluationRef, ModelCardRef
from rlhf.stages import in_order, is_round, stage_name, title_of
from rlhf.text.lines import read_json_lines
from rlhf.tracking.artifacts import local_path, output_of
from rlhf.tracking.records import RunStore
from rlhf.tracking.tags import stage_runs

NUM_SAMPLES = 10
_LIMITATIONS = re.compile(r"^## Limitations\n(.*?)^## ", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Sample:
    """Answers to one test prompt.

    Attributes:
        prompt: the last turn.
        baseline: the SFT policy's answer.
        policy: the policy's.
    """

    prompt: str
    baseline: str
    policy: str


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
        samples: answers before and after.
        num_alarms: alarms that went off in PPO.
        figure: of reward against KL; None where there is none.
    """

    run_id: str
    name: str
    verdict: str
    rows: Sequence[tuple[str, str, str]]
    stages: Sequence[tuple[str, float]]
    limitations: Sequence[str]
    samples: Sequence[Sample]
    num_alarms: int
    figure: Path | None

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
        [_sample(row) for row in islice(read_json_lines(evaluation / "side_by_side.jsonl"), NUM_SAMPLES)],
        int(metrics.get("policy/num_alarms", 0)),
        picture if picture.is_file() else None,
    )


def _of_sets(metrics: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    """Rows of the evaluation sets' measures, after the headline figures."""
    for words, name, is_share in titled(metrics):
        yield words, name, f"{{:{'+' * name.endswith('_change')}{'.1%' if is_share else '.3f'}}}"


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(row["prompt"][-1]["content"], row["baseline"]["response"], row["policy"]["response"])


def _limitations(card: Path) -> list[str]:
    """The card's own, which are Markdown and safe to show."""
    section = _LIMITATIONS.search(card.read_text(encoding="utf-8"))
    return [line.removeprefix("- ") for line in section[1].split("\n") if line.startswith("- ")] if section else []
