"""A store of many pipeline runs, as MLflow would have it after years: made by bulk inserts, the same every time."""

import contextlib
import hashlib
import json
import random
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlhf.config.pipeline import PipelineConfig
from rlhf.metrics import METRICS
from rlhf.stages import pipeline_stages

STAGES = {stage.name: stage.inputs for stage in pipeline_stages()}
"""And what each reads."""
_START = 1_700_000_000_000  # 2023-11-14, in milliseconds
_BETWEEN = 3_600_000
_STEPS = 20
_RECIPES = ("demo", "hh", "gpu")
_SECTIONS = {"reward_audit": "reward_audit", "reward_model": "reward_model", "model_card": None}


def make_store(database: Path, artifacts: Path, num_pipelines: int) -> list[str]:
    """Fill an empty store with finished pipeline runs of seven stages each.

    Args:
        database: MLflow's SQLite file, with its tables and no runs.
        artifacts: folder of the experiment's artifacts; the two newest runs have files there.
        num_pipelines: how many runs of pipelines; there are seven of stages for each.

    Returns:
        The ids of the pipelines' runs, the newest first.
    """
    rng = random.Random(0)
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        # Ids are random, so every insert lands somewhere else in the indexes, which must fit into memory for that.
        for setting in ("synchronous = OFF", "journal_mode = MEMORY", "cache_size = -1000000"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time,"
            " last_update_time) VALUES (77, 'rlhf', ?, 'active', ?, ?)",
            [artifacts.as_uri(), _START, _START],
        )
        for recipe in _RECIPES:
            connection.execute("INSERT INTO registered_models (name, creation_time) VALUES (?, ?)", [recipe, _START])
            connection.execute(
                "INSERT INTO registered_model_tags (name, key, value) VALUES (?, 'rlhf.kind', 'policy')", [recipe]
            )
        made = [_Pipeline(number, rng, artifacts) for number in range(num_pipelines)]
        for table, columns in _COLUMNS.items():
            rows = [row for one in made for row in one.rows[table]]
            marks = ", ".join("?" * len(columns.split(",")))
            connection.executemany(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", rows)  # noqa: S608
        for alias, one in (("champion", made[-2:][0]), ("candidate", made[-1])):
            connection.execute(
                "INSERT INTO registered_model_aliases (alias, version, name) VALUES (?, ?, ?)",
                [alias, one.version, one.config["name"]],
            )
    for one in made[-2:]:
        one.write_files()
    return [one.run_id for one in reversed(made)]


_COLUMNS = {
    "runs": "run_uuid, name, source_type, source_name, user_id, status, start_time, end_time, lifecycle_stage,"
    " artifact_uri, experiment_id",
    "tags": "run_uuid, key, value",
    "params": "run_uuid, key, value",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "datasets": "dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source",
    "inputs": "input_uuid, source_type, source_id, destination_type, destination_id, step",
    "model_versions": "name, version, creation_time, current_stage, source, run_id, status",
}


class _Pipeline:
    """One pipeline's run, and those of its stages, as rows of the tables."""

    def __init__(self, number: int, rng: random.Random, artifacts: Path) -> None:
        self.rng, self.artifacts = rng, artifacts
        self.rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in _COLUMNS}
        self.run_id, self.version = _id(rng), number + 1
        self.started = _START + number * _BETWEEN
        recipe, seed = _RECIPES[number % len(_RECIPES)], number % 5
        ppo = {"kl_coef": rng.choice((0.05, 0.1, 0.2)), "learning_rate": rng.choice((1e-4, 1.5e-4))}
        self.config = PipelineConfig.model_validate({"name": recipe, "seed": seed, "rl": ppo}).model_dump(mode="json")
        self.stages = {name: _id(rng) for name in STAGES}
        self.fingerprints = {name: _hash(f"{number} {name}") for name in STAGES}
        self._add_run(self.run_id, f"{recipe}, seed {seed}", self._tags(number), _flat(self.config), "")
        for name, run_id in self.stages.items():
            self._add_stage(name, run_id)
        self._add_version()

    def write_files(self) -> None:
        """What a comparison reads of the pipeline's run."""
        folder = self.artifacts / self.run_id / "artifacts"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(self.config), encoding="utf-8")

    def _tags(self, number: int) -> dict[str, str]:
        tags = {
            "rlhf.kind": "pipeline",
            "recipe": self.config["name"],
            "prefect.flow_run_id": _id(self.rng),
            "mlflow.source.git.commit": _hash(f"commit {number // 7}")[:40],
            "rlhf.git_dirty": str(number % 4 == 0).lower(),
            "rlhf.data_md5": f"{_hash(f'data {number // 50}')[:32]}.dir",
            "rlhf.data_path": "data",
            "rlhf.reproducible": str(number % 4 != 0).lower(),
            "rlhf.not_reproducible_because": "",
            "rlhf.python": "3.11.7",
            "rlhf.platform": "Linux-6.1",
            "rlhf.cpu": "AMD EPYC",
            "rlhf.cpu_instructions": "avx2 fma avx512f",
            "rlhf.cpu_count": "2",
            "rlhf.gpus": "",
            "rlhf.lock_sha256": _hash(f"lock {number // 100}"),
            "rlhf.policy_version": f"{self.config['name']}/{self.version}",
            "rlhf.policy_sha256": _hash(f"policy {number}"),
            "rlhf.provenance": _hash(f"record {number}"),
        }
        versions = (
            "torch",
            "transformers",
            "trl",
            "accelerate",
            "peft",
            "tokenizers",
            "numpy",
            "prefect",
            "mlflow",
            "dvc",
        )
        tags |= {f"rlhf.version.{name}": "1.2.3" for name in versions}
        tags |= {f"rlhf.run.{name}": run_id for name, run_id in self.stages.items()}
        tags |= {f"rlhf.fingerprint.{name}": self.fingerprints[name] for name in STAGES}
        if number % 3 == 0:
            tags["rlhf.verdict"] = self.rng.choice(("promoted", "rejected", "expired"))
        return tags | ({"alarms": "kl_budget,length_growth"} if number % 9 == 0 else {})

    def _add_stage(self, name: str, run_id: str) -> None:
        reference = {"run_id": run_id, "uri": f"runs:/{run_id}/output", "sha256": _hash(run_id)}
        tags = {
            "mlflow.parentRunId": self.run_id,
            "rlhf.kind": "stage",
            "rlhf.stage": name,
            "rlhf.fingerprint": self.fingerprints[name],
            "rlhf.output": json.dumps(reference),
        }
        section = _SECTIONS.get(name, name)
        settings = {
            "config": self.config.get(section or "", {}),
            "setup": {key: self.config[key] for key in ("seed", "model", "compute")},
        }
        self._add_run(run_id, name, tags, _flat(settings), f"{name}/")
        for read in STAGES[name]:
            dataset, digest = _id(self.rng), _hash(self.stages[read])[:36]
            source = json.dumps({"uri": f"runs:/{self.stages[read]}/output"})
            self.rows["datasets"].append((dataset, 77, read, digest, "local", source))
            self.rows["inputs"].append((_id(self.rng), "DATASET", dataset, "RUN", run_id, 0))

    def _add_version(self) -> None:
        run_id = self.stages["model_card"]
        source = f"runs:/{run_id}/output"
        self.rows["model_versions"].append(
            (self.config["name"], self.version, self.started, "None", source, run_id, "READY")
        )

    def _add_run(self, run_id: str, name: str, tags: Mapping[str, str], params: Mapping[str, str], stage: str) -> None:
        """The pipeline's run bears summaries and curves, a stage's run all metrics of the stage."""
        uri = f"{self.artifacts.as_uri()}/{run_id}/artifacts"
        ended = self.started + _BETWEEN // 2
        row = (run_id, name, "LOCAL", "flows.pipeline", "rlhf", "FINISHED", self.started, ended, "active", uri, 77)
        self.rows["runs"].append(row)
        self.rows["tags"] += [(run_id, key, value) for key, value in {"mlflow.runName": name, **tags}.items()]
        self.rows["params"] += [(run_id, key, value) for key, value in params.items()]
        for metric, about in METRICS.items():
            if metric.startswith(stage) if stage else about.summary or about.curve:
                self._add_metric(run_id, metric, _STEPS if about.curve else 1)

    def _add_metric(self, run_id: str, metric: str, steps: int) -> None:
        around = {"_low": -0.02, "_high": 0.02}
        middle = 0.5 + next((shift for end, shift in around.items() if metric.endswith(end)), 0.0)
        rows = [
            (run_id, metric, middle + self.rng.uniform(-0.01, 0.01), self.started + step, step, 0)
            for step in range(steps)
        ]
        self.rows["metrics"] += rows
        self.rows["latest_metrics"].append(rows[-1])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _id(rng: random.Random) -> str:
    return f"{rng.getrandbits(128):032x}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
