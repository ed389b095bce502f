"""The distribution of the labels of preferences."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.data.schema import is_ranking


@dataclass
class Labels:
    """Counts over the rows of preferences. Rows can be taken away again.

    Attributes:
        rows: all.
        sources: rows by `source`.
        annotators: rows by `annotator`, of those that name one.
        criteria: rows by `criteria`, of those that name them.
        margins: rows with a margin.
        margin_sum: of their margins.
        rankings: rows that rank several responses, ties of two included.
        longer: pairs whose chosen response has more characters than the rejected one.
    """

    rows: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    annotators: Counter[str] = field(default_factory=Counter)
    criteria: Counter[str] = field(default_factory=Counter)
    margins: int = 0
    margin_sum: float = 0.0
    longer: int = 0
    rankings: int = 0

    def add(self, row: Mapping[str, Any], times: int = 1) -> None:
        """Count a row that was checked; with `times` -1, take it away."""
        self.rows += times
        self.sources[row.get("source") or ""] += times
        if "annotator" in row:
            self.annotators[row["annotator"]] += times
        if "criteria" in row:
            self.criteria[row["criteria"]] += times
        if "margin" in row:
            self.margins += times
            self.margin_sum += times * row["margin"]
        if is_ranking(row):
            self.rankings += times
        else:
            self.longer += times * (len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]))

    def figures(self) -> dict[str, Any]:
        """Counts and shares; what there is no row for is None."""
        return {
            "rows": self.rows,
            "share_by_source": {name or "(none)": n / self.rows for name, n in sorted((+self.sources).items())},
            "with_margin": self.margins / self.rows if self.rows else None,
            "mean_margin": round(self.margin_sum / self.margins, 6) if self.margins else None,
            "chosen_is_longer": self.longer / pairs if (pairs := self.rows - self.rankings) else None,
            "rankings": self.rankings,
            "annotators": len(+self.annotators),
            "criteria": {name: n for name, n in sorted((+self.criteria).items())},
        }
