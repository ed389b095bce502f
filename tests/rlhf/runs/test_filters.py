"""What is typed after `rlhf runs`."""

from datetime import UTC, datetime

import pytest

from rlhf.cli.parser import parse
from rlhf.errors import InputError
from rlhf.runs.filters import VERDICTS, Filters, parse_metric, parse_since
from rlhf.tracking.records import Condition

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("12h", datetime(2026, 11, 21, 0, tzinfo=UTC)),
        ("7d", datetime(2026, 11, 14, 12, tzinfo=UTC)),
        (" 2W ", datetime(2026, 11, 7, 12, tzinfo=UTC)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T06:30", datetime(2026, 11, 1, 6, 30, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime):
    assert parse_since(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "7", "7y", "yesterday", "-3d", "2026-13-01", "99999999999d"])
def test_what_is_no_moment(text: str):
    with pytest.raises(InputError, match=r"--since .*: expected a span \(12h, 7d, 2w\) or a date"):
        parse_since(text, NOW)


@pytest.mark.parametrize(
    ("text", "comparator", "number"),
    [
        ("evaluation/win_rate>0.6", ">", 0.6),
        (" evaluation/win_rate >= .6 ", ">=", 0.6),
        ("evaluation/win_rate==1", "=", 1.0),
        ("evaluation/win_rate!=-1e-3", "!=", -0.001),
        ("evaluation/win_rate<+2", "<", 2.0),
    ],
)
def test_metrics(text: str, comparator: str, number: float):
    found = parse_metric(text)
    assert (found.kind, found.name, found.comparator, found.value) == (
        "metric",
        "evaluation/win_rate",
        comparator,
        number,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evaluation/win_rate", "expected a metric, one of"),
        ("evaluation/win_rate>", "expected a metric, one of"),
        ("evaluation/win_rate=>0.6", "expected a number"),
        ("evaluation/win_rate>60%", "got 60%, expected a number"),
        ("evaluation/win_rate>nan", "expected a number"),
        ("evaluation/win_rat>0.6", "is no metric; the nearest one that pipeline runs bear is evaluation/win_rate"),
        ("evaluation/win_rate_low>0.6", "stands with the run of its stage only; .* evaluation/win_rate"),
        ("x' or 1=1>0", "expected a metric, one of"),
    ],
)
def test_what_is_no_metric(text: str, message: str):
    with pytest.raises(InputError, match=message):
        parse_metric(text)


def test_all_filters_at_once():
    filters = Filters("demo", "waiting", "1d", "D13B", "489e8f+", "rejected", True, ("evaluation/kl<2",))
    assert filters.conditions(NOW) == [
        Condition("tag", "rlhf.kind", "=", "pipeline"),
        Condition("tag", "recipe", "=", "demo"),
        Condition("attribute", "status", "=", "SCHEDULED"),
        Condition("attribute", "start_time", ">=", int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp() * 1000)),
        Condition("tag", "rlhf.data_md5", "LIKE", "d13b%"),
        Condition("tag", "mlflow.source.git.commit", "LIKE", "489e8f%"),
        Condition("tag", "rlhf.verdict", "=", "rejected"),
        Condition("tag", "rlhf.reproducible", "=", "true"),
        Condition("metric", "evaluation/kl", "<", 2.0),
    ]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(data="xyz"), "--data xyz: expected the first characters of a hash"),
        (Filters(commit="HEAD~1"), "--commit HEAD~1: expected the first characters of a hash"),
        (Filters(recipe="de'mo"), "--recipe de'mo: expected the name of a recipe"),
    ],
)
def test_what_cannot_be_asked(filters: Filters, message: str):
    with pytest.raises(InputError, match=message):
        filters.conditions(NOW)


def test_the_command_knows_the_same_words():
    assert parse(["runs", "--state", "waiting"]).state == "waiting"
    assert set(VERDICTS) == {"promoted", "rejected", "declined", "expired", "outdated"}
    assert parse(["runs", "--verdict", "declined"]).verdict == "declined"
