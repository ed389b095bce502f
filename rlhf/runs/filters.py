"""Filters of runs: from what a person types to the conditions that a store is asked for."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import get_args

from rlhf.errors import InputError, nearest
from rlhf.metrics import GROUP, METRICS
from rlhf.references import Verdict
from rlhf.tracking.records import IS_GROUP, IS_PIPELINE, Comparator, Condition
from rlhf.tracking.tags import COMMIT_TAG, DATA_TAG, GROUP_TAG, RECIPE_TAG, REPRODUCIBLE_TAG, VERDICT_TAG

STATES = {
    "running": "RUNNING",
    "waiting": "SCHEDULED",
    "finished": "FINISHED",
    "failed": "FAILED",
    "killed": "KILLED",
}
"""MLflow's word for each state. A run that waits has asked a person whether its policy becomes the champion."""
VERDICTS = tuple(verdict for verdict in get_args(Verdict) if verdict not in ("no new data", "approval open"))
"""How a retraining ends that has trained: the others have no pipeline run."""
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}
_SPAN = re.compile(r"(\d+)([hdw])")
_HEX = re.compile(r"[0-9a-f]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.\-]*")
_METRIC = re.compile(r"\s*(?P<name>[\w./-]+)\s*(?P<comparator>>=|<=|!=|==|=|>|<)\s*(?P<number>\S+)\s*")
_COMPARATORS: dict[str, Comparator] = {"==": "=", "=": "=", "!=": "!=", ">": ">", ">=": ">=", "<": "<", "<=": "<="}


@dataclass(frozen=True)
class Filters:
    """Conditions that a pipeline run must meet; None and nothing ask for nothing.

    Attributes:
        recipe: its name.
        state: one of `STATES`.
        since: when it started, at the earliest: `7d`, `12h`, `2w`, or a date.
        data: first characters of the md5 of its data.
        commit: the same of its commit.
        verdict: how its retraining ended.
        reproducible: whether it says that it is.
        metrics: `evaluation/win_rate>0.6`.
        group: first characters of the id of the group that it belongs to.
        groups: groups themselves are wanted, and not pipeline runs.
    """

    recipe: str | None = None
    state: str | None = None
    since: str | None = None
    data: str | None = None
    commit: str | None = None
    verdict: str | None = None
    reproducible: bool | None = None
    metrics: tuple[str, ...] = ()
    group: str | None = None
    groups: bool = False

    def conditions(self, now: datetime) -> list[Condition]:
        """The conditions that a store is asked for.

        Args:
            now: what `since` counts from.

        Raises:
            InputError: a filter cannot be read.
        """
        self._check_groups()
        conditions = [IS_GROUP if self.groups else IS_PIPELINE]
        if self.group is not None:
            conditions.append(Condition("tag", GROUP_TAG, "LIKE", _prefix("--group", self.group)))
        if self.recipe is not None:
            conditions.append(Condition("tag", RECIPE_TAG, "=", _name(self.recipe)))
        if self.state is not None:
            conditions.append(Condition("attribute", "status", "=", STATES[self.state]))
        if self.since is not None:
            milliseconds = int(parse_since(self.since, now).timestamp() * 1000)
            conditions.append(Condition("attribute", "start_time", ">=", milliseconds))
        if self.data is not None:
            conditions.append(Condition("tag", DATA_TAG, "LIKE", _prefix("--data", self.data)))
        if self.commit is not None:
            conditions.append(Condition("tag", COMMIT_TAG, "LIKE", _prefix("--commit", self.commit)))
        if self.verdict is not None:
            conditions.append(Condition("tag", VERDICT_TAG, "=", self.verdict))
        if self.reproducible is not None:
            conditions.append(Condition("tag", REPRODUCIBLE_TAG, "=", str(self.reproducible).lower()))
        return conditions + [parse_metric(text, groups=self.groups) for text in self.metrics]

    def _check_groups(self) -> None:
        """A filter by something that groups do not have would silently find none."""
        given = {"--group": self.group, "--data": self.data, "--verdict": self.verdict}
        flag = next((flag for flag, value in given.items() if value is not None), None)
        flag = flag or ("--reproducible" if self.reproducible is not None else None)
        if self.groups and flag is not None:
            raise InputError(f"{flag}: pipeline runs have that, and groups do not; leave it or --groups away")


def parse_since(text: str, now: datetime) -> datetime:
    """The moment that `7d`, `12h`, `2w` or a date such as `2026-11-01` stands for.

    Raises:
        InputError: it is none of these.
    """
    span = _SPAN.fullmatch(text.strip().lower())
    try:
        if span:
            return now - timedelta(hours=int(span[1]) * _HOURS[span[2]])
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise InputError(
            f"--since {text}: expected a span (12h, 7d, 2w) or a date (2026-11-01, in UTC); give one of these"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_metric(text: str, *, groups: bool = False) -> Condition:
    """The condition that `evaluation/win_rate>0.6` stands for; of groups it is of the mean over seeds.

    Raises:
        InputError: it has another form, or pipeline runs (or groups) do not bear the metric.
    """
    parts = _METRIC.fullmatch(text)
    if not parts:
        raise InputError(
            f"--metric {text!r}: expected a metric, one of > >= < <= = !=, and a number, "
            "as in --metric 'evaluation/win_rate>0.6' (in quotation marks, since the shell reads > itself)"
        )
    try:
        number = float(parts["number"])
    except ValueError:
        number = float("nan")
    if number != number or abs(number) == float("inf"):
        raise InputError(f"--metric {text!r}: got {parts['number']}, expected a number such as 0.6 (of 60%)")
    name = GROUP + parts["name"].removeprefix(GROUP) if groups else parts["name"]
    _check_metric(name, text, groups)
    return Condition("metric", name, _COMPARATORS[parts["comparator"]], number)


def _check_metric(name: str, text: str, groups: bool) -> None:
    """Few of a pipeline's metrics are kept with its own run; a filter by another would silently find nothing."""
    of_runs = [known for known, metric in METRICS.items() if metric.summary or metric.curve]
    kept = [known for known in METRICS if known.startswith(GROUP)] if groups else of_runs
    if name in kept:
        return
    why = "stands with the run of its stage only" if name in METRICS else "is no metric"
    if name.startswith(GROUP) and name in METRICS:
        why = "is of groups, which --groups lists"
    bear = "groups" if groups else "pipeline runs"
    raise InputError(f"--metric {text!r}: {name} {why}; the nearest one that {bear} bear is {nearest(name, kept)}")


def _prefix(flag: str, text: str) -> str:
    plain = text.strip().lower().removesuffix("+").removesuffix(".dir")
    if not _HEX.fullmatch(plain):
        raise InputError(f"{flag} {text}: expected the first characters of a hash (0-9, a-f); `rlhf runs` shows them")
    return f"{plain}%"


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise InputError(f"--recipe {text}: expected the name of a recipe, such as demo; `rlhf runs` shows them")
    return text
