"""Agreement of annotators who judged the same: the figure that a reward model's accuracy has to be seen beside.

A verdict is any value that two annotators can share, such as first, second or tie. An item is what they judged.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from rlhf.evaluation.intervals import Prompts
from rlhf.evaluation.statistics import Estimate, share_interval

_MOST_PAIRS = 10


@dataclass(frozen=True)
class TwoAnnotators:
    """Two annotators on the items that both judged.

    Attributes:
        first: name of the one.
        second: name of the other.
        count: items.
        agreement: share of them on which they say the same.
        kappa: agreement beyond chance (Cohen); None where chance alone would make them agree.
    """

    first: str
    second: str
    count: int
    agreement: float
    kappa: float | None


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree; the prompt is the unit of both intervals.

    Attributes:
        num_items: items that two or more annotators judged.
        num_annotators: different annotators of these.
        all: share of all twos of verdicts on an item that are the same.
        decided: the same of the twos in which neither is a tie; None where there is none. Held-out pairs have no ties
            either, so this stands beside a model's accuracy: how often one more annotator would agree.
        ceiling: the most often that any model can agree with single annotators (`accuracy_ceiling`); None without
            `decided`.
        fleiss_kappa: agreement beyond chance of all annotators.
        twos: the ten twos of annotators with the most items in common.
    """

    num_items: int
    num_annotators: int
    all: Estimate
    decided: Estimate | None
    ceiling: Estimate | None
    fleiss_kappa: float | None
    twos: tuple[TwoAnnotators, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def annotator_agreement(
    verdicts: Sequence[Mapping[str, Hashable]], tie: Hashable, prompts: Prompts = None
) -> Agreement | None:
    """Agreement on items, each with the verdicts of its annotators by name; None where no item has two.

    Args:
        verdicts: of N items.
        tie: the verdict that decides nothing.
        prompts: the prompt of each item, [N].
    """
    keys = range(len(verdicts)) if prompts is None else prompts
    items = [(key, verdict) for key, verdict in zip(keys, verdicts, strict=True) if len(verdict) > 1]
    if not items:
        return None
    by_two: dict[tuple[str, str], list[tuple[Hashable, Hashable]]] = defaultdict(list)
    same: list[tuple[Hashable, bool, bool]] = []
    for key, verdict in items:
        for (first, one), (second, other) in combinations(sorted(verdict.items()), 2):
            by_two[first, second].append((one, other))
            same.append((key, one == other, tie not in (one, other)))
    of_decided = [(key, is_same) for key, is_same, is_decided in same if is_decided]
    decided = None
    if of_decided:
        decided = share_interval([float(is_same) for _, is_same in of_decided], [key for key, _ in of_decided])
    most = sorted(by_two, key=lambda two: (-len(by_two[two]), two))[:_MOST_PAIRS]
    return Agreement(
        len(items),
        len({name for _, verdict in items for name in verdict}),
        share_interval([float(is_same) for _, is_same, _ in same], [key for key, *_ in same]),
        decided,
        accuracy_ceiling(decided) if decided else None,
        fleiss_kappa([list(verdict.values()) for _, verdict in items]),
        tuple(_two_annotators(*two, by_two[two]) for two in most),
    )


def accuracy_ceiling(agreement: Estimate) -> Estimate:
    """The accuracy that no model exceeds against the verdicts of single annotators, by how far two of them agree.

    Where annotators prefer one response with probability p, at least a half, two of them agree with probability
    A = p^2 + (1 - p)^2, and a model that always says what most would say is right with probability p = (1 + sqrt(2 A -
    1)) / 2. That is concave in A, so over pairs of different p no model is right more often than the same figure of the
    mean A (Jensen's inequality). The best model lies between A and this.

    Args:
        agreement: of two annotators, ties apart; each end is transformed.
    """
    value, low, high = (
        (1 + max(0.0, 2 * end - 1) ** 0.5) / 2 for end in (agreement.value, agreement.low, agreement.high)
    )
    return Estimate(value, low, high)


def cohen_kappa(verdicts: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Agreement of two annotators beyond what their shares of each verdict give by chance; None where that is all.

    Args:
        verdicts: of both on each item, [N] of two.

    Source:
        Cohen, "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20 (1960).
    """
    size = len(verdicts)
    first, second = (Counter(column) for column in zip(*verdicts, strict=True))
    by_chance = sum(first[verdict] * second[verdict] for verdict in first) / size**2
    return _beyond_chance(sum(one == other for one, other in verdicts) / size, by_chance)


def fleiss_kappa(verdicts: Sequence[Sequence[Hashable]]) -> float | None:
    """Agreement of any annotators beyond what the shares of the verdicts give by chance; None where that is all.

    Items may have different numbers of annotators; each item weighs the same in the agreement, each verdict in chance.

    Args:
        verdicts: of two or more annotators on each item.

    Source:
        Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76 (1971).
    """
    counts = [Counter(of_item) for of_item in verdicts]
    agreements = [sum(n * (n - 1) for n in count.values()) / (count.total() * (count.total() - 1)) for count in counts]
    total: Counter[Hashable] = sum(counts, Counter())
    by_chance = sum((n / total.total()) ** 2 for n in total.values())
    return _beyond_chance(sum(agreements) / len(agreements), by_chance)


def _beyond_chance(agreement: float, by_chance: float) -> float | None:
    return None if by_chance >= 1 else (agreement - by_chance) / (1 - by_chance)


def _two_annotators(first: str, second: str, verdicts: Sequence[tuple[Hashable, Hashable]]) -> TwoAnnotators:
    agreement = sum(one == other for one, other in verdicts) / len(verdicts)
    return TwoAnnotators(first, second, len(verdicts), agreement, cohen_kappa(verdicts))
