"""All that a comparison looks at of one pipeline run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from rlhf.config.flat import as_texts
from rlhf.earlier_names import current_settings
from rlhf.errors import InputError
from rlhf.files.plain_yaml import FastPlainLoader, load_yaml
from rlhf.stages import pipeline_stages
from rlhf.tracking.artifact_files import read_file
from rlhf.tracking.records import RunRecord, RunStore
from rlhf.tracking.tags import OUTPUT_TAG, stage_runs
from rlhf.tracking.versions import aliases_by_version, policy_version

LABELS = "ABCDEF"
SHORT = 8
"""Characters of an id that people are shown."""


@dataclass(frozen=True)
class RunView:
    """A pipeline run with the runs that trained its stages.

    Attributes:
        label: the letter that it has in the comparison.
        run: of the pipeline.
        stages: those that are done, by stage; they may be of an earlier pipeline run.
        aliases: of the version that it made.
        curves: steps and values, by metric.
    """

    label: str
    run: RunRecord
    stages: Mapping[str, RunRecord]
    aliases: tuple[str, ...]
    curves: Mapping[str, Sequence[tuple[int, float]]]

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of the pipeline's run."""
        return self.run.tags

    @property
    def short_id(self) -> str:
        """For people."""
        return self.run.run_id[:SHORT]

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """The last values, with those that stand with the stages' runs only; seconds are of this pipeline run."""
        metrics: dict[str, float] = {}
        for stage in self.stages.values():
            metrics |= stage.metrics
        return {**metrics, **self.run.metrics}

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """The resolved configuration, by dotted names, each as JSON."""
        content = read_file(self.run, "config.yaml")
        if content is None:
            return {name: _canonical(text) for name, text in self.run.params.items()}
        with self._readable("config.yaml"):
            return as_texts(current_settings(load_yaml(content, FastPlainLoader)))

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        """The report of policy evaluation; empty where there is none."""
        return self.read_report("evaluation", "evaluation.json") or {}

    def read_report(self, stage: str, name: str) -> dict[str, Any] | None:
        """A JSON file of a stage's output; None where there is none."""
        rows = self.read_rows(stage, name, lines=False)
        return rows[0] if rows else None

    def read_rows(self, stage: str, name: str, *, lines: bool = True) -> list[dict[str, Any]]:
        """The objects of a JSON Lines file of a stage's output; none where there is no such file."""
        run = self.stages.get(stage)
        content = read_file(run, f"output/{name}") if run else None
        parts = [] if content is None else [line for line in content.split(b"\n") if line] if lines else [content]
        with self._readable(name):
            return [json.loads(part) for part in parts]

    def record(self) -> Mapping[str, Any]:
        """The record of provenance; empty where there is none."""
        content = self.artifact("provenance/record.json")
        with self._readable("provenance/record.json"):
            return json.loads(content) if content else {}

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(
                f"run {self.run.run_id}: {name} is not what the run has stored ({error}); "
                f"`rlhf verify {self.run.run_id}` says what was changed"
            ) from None

    def artifact(self, path: str) -> bytes | None:
        """A file of the pipeline's run; None where there is none."""
        return read_file(self.run, path)

    def made(self, stage: str) -> str | None:
        """The sha256 of what a stage has made; None where it has not come so far."""
        run = self.stages.get(stage)
        text = run.tags.get(OUTPUT_TAG) if run else None
        return None if text is None else str(json.loads(text)["sha256"])


def read_sides(store: RunStore, run_ids: Sequence[str], curves: Sequence[str]) -> list[RunView]:
    """Read runs, at most as many as there are labels.

    Args:
        store: where they are.
        run_ids: of pipelines' runs that are there.
        curves: metrics of which every step is wanted.
    """
    runs = store.runs(run_ids)
    of_stages = {run_id: stage_runs(run.tags) for run_id, run in runs.items()}
    trained = store.runs(list(dict.fromkeys(stage_id for used in of_stages.values() for stage_id in used.values())))
    by_version = aliases_by_version(store)
    sides = []
    for label, run_id in zip(LABELS, run_ids, strict=False):
        tags = runs[run_id].tags
        stages = {
            stage.name: trained[of_stages[run_id][stage.name]]
            for stage in pipeline_stages()
            if of_stages[run_id].get(stage.name) in trained
        }
        own = by_version.get(policy_version(tags) or "", ())
        sides.append(RunView(label, runs[run_id], stages, own, _curves(store, runs[run_id], stages, curves)))
    return sides


def _curves(
    store: RunStore, run: RunRecord, stages: Mapping[str, RunRecord], names: Sequence[str]
) -> dict[str, list[tuple[int, float]]]:
    """The pipeline's own copies; where it has none, such as of a stage that failed, those of the stages."""
    curves = store.curves(run.run_id, names)
    for stage, trained in stages.items():
        missing = [name for name in names if name.startswith(f"{stage}/") and name not in curves]
        curves |= store.curves(trained.run_id, missing) if missing else {}
    return curves


def _canonical(text: str) -> str:
    """A list or section among MLflow's parameters, its keys sorted; one that was cut stays as it is."""
    with suppress(ValueError):
        return json.dumps(json.loads(text), sort_keys=True) if text.startswith(("[", "{")) else text
    return text
