"""Columns that say the same thing of each of two answers: scores, and other properties."""

from collections.abc import Sequence
from itertools import chain

from rlhf.data.importing.columns import Survey, looks_like_verdict
from rlhf.data.importing.dialogues import RowDroppedError, number_of
from rlhf.data.importing.verdicts import names_the_worse, words_of
from rlhf.data.schema import Row

_SCORES = frozenset(["score", "scores", "rating", "ratings", "reward", "rewards", "grade"])


def scores_and_properties(survey: Survey, names: Sequence[str]) -> tuple[list[tuple[str, str]], set[str]]:
    """Columns that describe the better answer and the worse one alike: pairs of scores, and all other properties."""
    sides = [set(words_of(name)) for name in names]
    marks = [sides[0] - sides[1], sides[1] - sides[0]]
    scores: list[tuple[str, str]] = []
    properties: set[str] = set()
    free = {name: words_of(name) for name in survey if name not in names}
    for name, words in free.items():
        mirrored = [next(iter(marks[1])) if word in marks[0] else word for word in words]
        other = next((n for n, other_words in free.items() if other_words == mirrored), None)
        rest = set(words) - marks[0]
        if mirrored == words or other is None or not rest:
            continue
        numbers = all(survey[n].num_numbers >= 0.95 * survey[n].num_rows for n in (name, other))
        if rest & _SCORES and numbers and not names_the_worse("_".join(rest)):
            scores.append((name, other))
        elif not looks_like_verdict("_".join(sorted(rest))):
            properties |= {name, other}
    return scores, properties


def score_differences(
    row: Row, scores: Sequence[tuple[str, str]], ranks: tuple[float, float], reason: str
) -> list[float]:
    """The score of the first answer minus the score of the second, for each pair of scores that a row has.

    Args:
        row: of the file.
        scores: the columns of the two answers' scores.
        ranks: what is said of the answers otherwise.
        reason: what to say where a score says the opposite.

    Raises:
        RowDroppedError: a score is no number, or says the opposite.
    """
    differences = []
    for first, second in scores:
        if {first, second} <= row.keys():
            differences.append(number_of(row[first], first) - number_of(row[second], second))
            if differences[-1] * (ranks[0] - ranks[1]) > 0:
                raise RowDroppedError(reason, f'"{first}", "{second}"')
    return differences


def listed(scores: Sequence[tuple[str, str]]) -> str:
    """The columns as a sentence names them."""
    return " and ".join(f'"{name}"' for name in chain(*scores))
