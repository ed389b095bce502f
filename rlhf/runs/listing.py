"""The table of pipeline runs: few columns, those by which people tell a good run from a bad one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rlhf.metrics import GROUP
from rlhf.runs.filters import STATES, Filters
from rlhf.tracking.records import RunRecord, RunStore
from rlhf.tracking.tags import (
    ALARMS_TAG,
    COMMIT_TAG,
    DATA_TAG,
    DIRTY_TAG,
    GROUP_TAG,
    RECIPE_TAG,
    REPRODUCIBLE_TAG,
    SEEDS_TAG,
    VERDICT_TAG,
)
from rlhf.tracking.versions import aliases_by_version, policy_version

_STATES = {status: state for state, status in STATES.items()}


@dataclass(frozen=True)
class MetricValue:
    """A metric's value with its 95% interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A pipeline run, or a group of them.

    Attributes:
        run_id: its MLflow run.
        name: what differs from the recipe, and the seed, unless a person has renamed the run in MLflow.
        started: UTC.
        recipe: name of its recipe.
        seed: its seed; of a group its seeds, as in `11,12,13`.
        commit: of its code; None where it was in no commit.
        dirty: the working tree differed from it.
        data_md5: version of its data; None where it did not come so far.
        state: running, waiting, finished, failed or killed.
        gold_gain: of the policy over its SFT policy, by the rule behind the labels. Of a group this and the other
            figures are means over seeds, with the interval over seeds.
        win_rate: of the policy against its SFT policy, by the gold rule, or by the selection reward model without one.
        kl: of the policy to its SFT policy, nats per response.
        reward_accuracy: of the reward model, on held-out pairs.
        alarms: that went off.
        verdict: how retraining ended; None where it was no retraining, or goes on.
        reproducible: as the run says; None where it does not.
        policy_version: that it has registered, as `RECIPE/NUMBER`; None where it has registered none.
        aliases: of that version, now.
        group: MLflow run of the group that it belongs to.
    """

    run_id: str
    name: str
    started: datetime
    recipe: str
    seed: str
    commit: str | None
    dirty: bool
    data_md5: str | None
    state: str
    gold_gain: MetricValue | None
    win_rate: MetricValue | None
    kl: MetricValue | None
    reward_accuracy: MetricValue | None
    alarms: tuple[str, ...]
    verdict: str | None
    reproducible: bool | None
    policy_version: str | None
    aliases: tuple[str, ...]
    group: str | None


@dataclass(frozen=True)
class Listing:
    """Some of the runs that meet the filters.

    Attributes:
        rows: the newest ones.
        total: how many there are.
    """

    rows: tuple[Row, ...]
    total: int


def list_runs(store: RunStore, filters: Filters, limit: int) -> Listing:
    """The newest pipeline runs, or groups, that meet the filters.

    Args:
        store: where runs are.
        filters: what they must meet.
        limit: how many, at most.

    Raises:
        InputError: a filter cannot be read.
    """
    conditions = filters.conditions(datetime.now(UTC))
    runs = store.search(conditions, limit)
    total = store.count(conditions) if len(runs) == limit else len(runs)
    # Intervals stand with the stages' runs only.
    stages = store.runs([run.tags[tag] for run in runs for tag in _JUDGES if tag in run.tags])
    aliases = aliases_by_version(store)
    return Listing(tuple(_row(run, stages, aliases) for run in runs), total)


_JUDGES = ("rlhf.run.evaluation", "rlhf.run.reward_audit")


def _row(run: RunRecord, stages: Mapping[str, RunRecord], aliases: Mapping[str, tuple[str, ...]]) -> Row:
    metrics = {name.removeprefix(GROUP): value for name, value in run.metrics.items()}
    for tag in _JUDGES:
        if run.tags.get(tag) in stages:
            metrics |= stages[run.tags[tag]].metrics
    version = policy_version(run.tags)
    reproducible = run.tags.get(REPRODUCIBLE_TAG)
    return Row(
        run_id=run.run_id,
        name=run.name,
        started=run.started,
        recipe=run.tags.get(RECIPE_TAG, ""),
        seed=run.tags.get(SEEDS_TAG) or run.params.get("seed", ""),
        commit=run.tags.get(COMMIT_TAG) or None,
        dirty=run.tags.get(DIRTY_TAG) == "true",
        data_md5=run.tags.get(DATA_TAG),
        state=_STATES[run.status],
        gold_gain=metric_value(metrics, "evaluation/gold_gain"),
        win_rate=metric_value(metrics, "evaluation/win_rate"),
        kl=metric_value(metrics, "evaluation/kl"),
        reward_accuracy=metric_value(metrics, "reward_audit/accuracy"),
        alarms=tuple(filter(None, run.tags.get(ALARMS_TAG, "").split(","))),
        verdict=run.tags.get(VERDICT_TAG),
        reproducible=None if reproducible is None else reproducible == "true",
        policy_version=version,
        aliases=aliases.get(version or "", ()),
        group=run.tags.get(GROUP_TAG),
    )


def metric_value(metrics: Mapping[str, float], name: str) -> MetricValue | None:
    """A metric with its interval, which metrics of the same name with `_low` and `_high` hold."""
    if name not in metrics:
        return None
    return MetricValue(metrics[name], metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
