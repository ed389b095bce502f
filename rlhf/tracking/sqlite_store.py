"""The project's own store of runs, MLflow's SQLite file, read without MLflow.

The tables are those of the schemas in `KNOWN_SCHEMAS`, which `rlhf.tracking.stores.open_store` asks for first; tests
hold what is read here against what MLflow's client says.
"""

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlhf.earlier_names import current_metric, current_section, current_tags, metric_names
from rlhf.errors import InputError
from rlhf.paths import tracking_database
from rlhf.references import SHARED_MODEL
from rlhf.tracking.deleted import deleted_experiment
from rlhf.tracking.records import POLICY, Condition, Input, RunRecord, is_finite, time_of
from rlhf.tracking.tags import KIND_TAG

KNOWN_SCHEMAS = {"dc11669786a5": "MLflow 3.17"}
"""Heads of MLflow's migrations, by which a database says what its tables are, with the first version that has them."""
_EXPERIMENT = "rlhf"
_OF_POLICIES = (SHARED_MODEL, KIND_TAG, POLICY)
_IDS_AT_ONCE = 500
_PATIENCE_SECONDS = 30.0
_ATTRIBUTES = {"run_id": "run_uuid", "status": "status", "start_time": "start_time"}
_COLUMNS = "run_uuid, name, status, start_time, end_time, artifact_uri"
_HAS = {
    "tag": "EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid = runs.run_uuid AND t.key = ? AND t.value {} ?)",
    "metric": "EXISTS (SELECT 1 FROM latest_metrics m WHERE m.run_uuid = runs.run_uuid AND m.key = ? AND m.value {} ?"
    " AND NOT m.is_nan)",
}
_POINTS = (
    "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND NOT is_nan AND key IN ({})"
    " ORDER BY key, step, timestamp"
)
_EXPERIMENTS = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
_DELETED = "SELECT run_uuid FROM runs WHERE lifecycle_stage = 'deleted' AND run_uuid LIKE ? ORDER BY run_uuid"
_FINITE = "(SELECT * FROM latest_metrics WHERE NOT is_nan AND abs(value) < 1.7976931348623157e308)"
_NOT_FINITE = "(SELECT * FROM latest_metrics WHERE is_nan OR abs(value) >= 1.7976931348623157e308)"
_LOCATION = (
    "SELECT e.artifact_location FROM experiments e JOIN runs r ON r.experiment_id = e.experiment_id"
    " WHERE r.run_uuid = ? AND e.name = ?"
)
_POLICIES = (
    "SELECT name FROM registered_models m WHERE name = ? OR EXISTS"
    " (SELECT 1 FROM registered_model_tags t WHERE t.name = m.name AND t.key = ? AND t.value = ?)"
)
_DATASETS = (
    "SELECT i.destination_id, d.name, d.dataset_source, d.digest"
    " FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id"
    " WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN' AND i.destination_id IN ({})"
)


class DatabaseStore:
    """See `rlhf.tracking.records.RunStore`."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            InputError: it is not MLflow's, or the experiment was deleted.
        """
        self._path = path
        for experiment_id, stage in self._rows(_EXPERIMENTS, [_EXPERIMENT]):
            if stage != "active":
                raise InputError(deleted_experiment(f"sqlite:///{path}", str(experiment_id)))

    def search(self, conditions: Sequence[Condition], limit: int) -> list[RunRecord]:
        """The runs that meet all conditions, the newest first."""
        where, values = _where(conditions)
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM runs WHERE {where} ORDER BY start_time DESC, run_uuid LIMIT ?",  # noqa: S608
            [*values, limit],
        )
        return self._complete(rows)

    def count(self, conditions: Sequence[Condition]) -> int:
        """The number of runs that meet all conditions."""
        where, values = _where(conditions)
        ((number,),) = self._rows(f"SELECT COUNT(*) FROM runs WHERE {where}", values)  # noqa: S608
        return int(number)

    def runs(self, run_ids: Sequence[str]) -> dict[str, RunRecord]:
        """The runs with these ids, by id; ids without a run are left out."""
        active = f"SELECT {_COLUMNS} FROM runs WHERE lifecycle_stage = 'active' AND run_uuid IN ({{}})"  # noqa: S608
        return {run.run_id: run for run in self._complete(self._of(active, run_ids))}

    def deleted(self, prefix: str) -> list[str]:
        """Ids of deleted runs that begin so."""
        return [str(run_id) for (run_id,) in self._rows(_DELETED, [f"{prefix}%"])]

    def curves(self, run_id: str, names: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
        """Steps and finite values of metrics of a run, by rising step; without the metrics that it has not."""
        curves = defaultdict(list)
        recorded = [name for current in names for name in metric_names(current)]
        marks = ", ".join("?" * len(recorded))
        for key, step, value in self._rows(_POINTS.format(marks), [run_id, *recorded]):
            if is_finite(value):
                curves[current_metric(key)].append((int(step), float(value)))
        return dict(curves)

    def policies(self) -> list[str]:
        """The registered models that policies are versions of."""
        return [str(name) for (name,) in self._rows(_POLICIES, _OF_POLICIES)]

    def aliases(self) -> dict[str, str]:
        """Versions of those models, by `MODEL@ALIAS`."""
        query = f"SELECT name, alias, version FROM registered_model_aliases WHERE name IN ({_POLICIES})"  # noqa: S608
        return {f"{name}@{alias}": f"{name}/{version}" for name, alias, version in self._rows(query, _OF_POLICIES)}

    def version_run(self, version: str) -> str | None:
        """The run that made a version; None where there is no such version."""
        query = "SELECT run_id FROM model_versions WHERE name = ? AND version = ?"
        rows = self._rows(query, version.split("/"))
        return str(rows[0][0] or "") if rows else None

    def _complete(self, rows: Sequence[Any]) -> list[RunRecord]:
        ids = [row[0] for row in rows]
        tags, params, finite, not_finite = (
            _by_run(self._of(f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({{}})", ids))  # noqa: S608
            for table in ("tags", "params", _FINITE, _NOT_FINITE)
        )
        datasets = self._of(_DATASETS, ids)
        inputs = _by_run([(run_id, name, Input.from_dataset(*read)) for run_id, name, *read in datasets])
        return [
            RunRecord(
                run_id=run_id,
                name=name,
                status=status,
                started=time_of(started),
                ended=time_of(ended) if ended else None,
                artifact_uri=uri,
                tags=current_tags(tags[run_id]),
                params={current_section(key): value for key, value in params[run_id].items()},
                metrics={current_metric(key): value for key, value in finite[run_id].items()},
                not_finite=frozenset(map(current_metric, not_finite[run_id])),
                inputs=inputs[run_id],
            )
            for run_id, name, status, started, ended, uri in rows
        ]

    def _of(self, query: str, run_ids: Sequence[str]) -> list[Any]:
        rows: list[Any] = []
        for start in range(0, len(run_ids), _IDS_AT_ONCE):
            ids = run_ids[start : start + _IDS_AT_ONCE]
            rows += self._rows(query.format(", ".join("?" * len(ids))), ids)
        return rows

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        return _read(self._path, query, values)


def has_known_schema(path: Path) -> bool:
    """Whether the tables of a SQLite file of MLflow are those that are read here.

    Raises:
        InputError: the file is not MLflow's.
    """
    return {head for (head,) in _read(path, "SELECT version_num FROM alembic_version")} <= KNOWN_SCHEMAS.keys()


def open_database(path: Path) -> None:
    """Open a file as SQLite's, for MLflow tries for a hundred seconds to open another one.

    Raises:
        sqlite3.DatabaseError: it is something else.
    """
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(_connect(path)) as database:
        database.execute("PRAGMA schema_version")


def recorded_location(run_id: str) -> str | None:
    """The folder in which the project's SQLite file has the artifacts of all runs; None where it lacks this run."""
    rows = _read(tracking_database(), _LOCATION, [run_id, _EXPERIMENT])
    return str(rows[0][0]) if rows else None


def recorded_experiment() -> str | None:
    """The same by the experiment, whether it has runs or not; None where there is no experiment."""
    rows = _read(tracking_database(), "SELECT artifact_location FROM experiments WHERE name = ?", [_EXPERIMENT])
    return str(rows[0][0]) if rows else None


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=_PATIENCE_SECONDS)


def _read(path: Path, query: str, values: Sequence[Any] = ()) -> list[Any]:
    try:
        with contextlib.closing(_connect(path)) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.Error as error:
        raise InputError(
            f"{path}: cannot be read as MLflow's store ({error}); `mlflow db upgrade sqlite:///{path}` "
            "brings an old one up to date"
        ) from error


def _where(conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
    """The clause and values for runs of this project that are not deleted."""
    clauses = ["lifecycle_stage = 'active'", "experiment_id IN (SELECT experiment_id FROM experiments WHERE name = ?)"]
    values: list[Any] = [_EXPERIMENT]
    for condition in conditions:
        if condition.kind == "attribute":
            clauses.append(f"{_ATTRIBUTES[condition.name]} {condition.comparator} ?")
            values.append(condition.value)
        else:
            alternatives = condition.recorded
            clauses.append(f"({' OR '.join(_HAS[each.kind].format(each.comparator) for each in alternatives)})")
            values += [value for each in alternatives for value in (each.name, each.value)]
    return " AND ".join(clauses), values


def _by_run(rows: Sequence[Any]) -> dict[str, dict[str, Any]]:
    by_run: dict[str, dict[str, Any]] = defaultdict(dict)
    for run_id, name, value in rows:
        by_run[run_id][name] = value
    return by_run
