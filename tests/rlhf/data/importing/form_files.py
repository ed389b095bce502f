"""Whole files of one form: rows of known comparisons, with what else stands in people's files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from form_exports import EXPORTS
from form_judged import JUDGED
from form_kinds import Form, Maker
from form_pairs import PAIRS
from form_rated import RATED
from form_texts import Comparison, Row, Texts, comparison, starts_a_turn

FORMS: dict[str, Maker] = {**PAIRS, **JUDGED, **RATED, **EXPORTS}

HARMLESS: Mapping[str, Callable[[Random], Any]] = {
    "row_id": lambda rng: rng.randint(0, 9999),
    "uuid": lambda rng: f"{rng.getrandbits(64):x}",
    "model_name": lambda rng: rng.choice(["gpt-4", "koala"]),
    "chosen_model": lambda rng: "gpt-4",
    "rejected_model": lambda rng: "koala",
    "url": lambda rng: "https://example.org/?a=1",
    "lang": lambda rng: rng.choice(["en", "de"]),
    "timestamp": lambda rng: 1682351591 + rng.randint(0, 99),
    "created": lambda rng: "2024-01-01",
    "num_turns": lambda rng: rng.randint(1, 4),
    "num_tokens": lambda rng: rng.randint(1, 400),
    "dataset": lambda rng: "mine",
    "topic": lambda rng: rng.choice(["soup", "kites", None]),
    "Unnamed: 0": lambda rng: rng.randint(0, 9999),
}
SUSPICIOUS: Mapping[str, Callable[[Random, bool], Any]] = {
    "score": lambda rng, wrong: rng.randint(1, 5),
    "label": lambda rng, wrong: int(wrong),
    "rating": lambda rng, wrong: rng.choice([1, 5]),
    "is_safe": lambda rng, wrong: not wrong,
    "winner": lambda rng, wrong: "rejected" if wrong else "chosen",
    "votes": lambda rng, wrong: rng.randint(-3, 3),
    "preference": lambda rng, wrong: 1 + wrong,
    "better": lambda rng, wrong: "second" if wrong else "first",
    "verdict": lambda rng, wrong: "B" if wrong else "A",
    "human_label": lambda rng, wrong: "bad" if wrong else "good",
    "kto_tag": lambda rng, wrong: not wrong,
    "is_flipped": lambda rng, wrong: wrong,
    "swapped": lambda rng, wrong: wrong,
    "preferred_id": lambda rng, wrong: int(wrong),
    "thumbs": lambda rng, wrong: "down" if wrong else "up",
    "upvotes": lambda rng, wrong: -1 if wrong else 1,
    "correct": lambda rng, wrong: not wrong,
    "gold_choice": lambda rng, wrong: "B" if wrong else "A",
    "majority_vote": lambda rng, wrong: 2 if wrong else 1,
    "status": lambda rng, wrong: "rejected" if wrong else "approved",
    "stars": lambda rng, wrong: 1 if wrong else 5,
    "swap": lambda rng, wrong: "y" if wrong else "n",
    "loser": lambda rng, wrong: "chosen" if wrong else "rejected",
    "human_preference": lambda rng, wrong: "response_2" if wrong else "response_1",
}


@dataclass(frozen=True)
class File:
    """One file to import.

    Attributes:
        form: how it is written.
        rows: what it holds.
        comparisons: what its sound rows say.
        odd: what those say of which one row cannot be used.
        tabular: it can be written as CSV.
        shuffled: rows that belong together do not follow each other.
        harmless: columns that it has besides, which say nothing of the answers.
        suspicious: a column besides that looks like a verdict and contradicts it, or empty.
    """

    form: Form
    rows: list[Row]
    comparisons: list[Comparison]
    odd: list[Comparison]
    tabular: bool
    shuffled: bool
    harmless: tuple[str, ...]
    suspicious: str

    @property
    def cells(self) -> list[Any]:
        return [value for row in self.rows for value in row.values()]

    @property
    def expected(self) -> str:
        """Whether it must be imported: `always`, `perhaps` or `never`."""
        teaches = any(comparison.pairs() for comparison in self.comparisons)
        doubtful = self.suspicious or self.shuffled or not teaches or any(map(starts_a_turn, self.cells))
        return "perhaps" if doubtful and self.form.readable == "always" else self.form.readable


def make_file(rng: Random, form: Form) -> File:
    """Comparisons that are drawn, in rows of the form."""
    texts = Texts(rng, form.fits)
    count = rng.choice([1, 2, 3, 5, 8, 20, 40])
    made = [comparison(texts, form.num_answers, form.ties, form.turns, form.system) for _ in range(count)]
    if form.both_ways:
        made[:1] = [_won_by(made[0], 0), _won_by(comparison(texts, form.num_answers), 1)]
    if rng.random() < 0.1 and len(form.write(made[0])) == 1:
        made.append(made[0])
    rng.shuffle(made)
    blocks = [form.write(item) for item in made]
    # A cell of CSV is a text, whatever it spells, so that only an empty one is odd.
    tabular = form.tabular and rng.random() < 0.5
    odd_values = [None, ""] if tabular else [None, [], {}, {"a": 1}, 7, True, [{"role": "nobody", "content": "x"}]]
    odd = [comparison(texts, form.num_answers) for _ in range(rng.randint(0, len(blocks) // 20))]
    for item in odd:
        blocks.insert(rng.randint(0, len(blocks)), _odd(rng, form, form.write(item), odd_values))
    rows = [row for block in blocks for row in block]
    # Of forms that need several rows for a comparison, some people's files have lost their order.
    shuffled = len(rows) > len(blocks) and rng.random() < 0.2
    if shuffled:
        rng.shuffle(rows)
    harmless, suspicious = _extra_columns(rng, form, rows)
    return File(form, _in_order(rng, rows), made, odd, tabular, shuffled, harmless, suspicious)


def _won_by(item: Comparison, side: int) -> Comparison:
    return Comparison(item.prompt, item.answers, (1, 2) if side == 0 else (2, 1))


def _odd(rng: Random, form: Form, block: list[Row], values: list[Any]) -> list[Row]:
    """Rows of which one lacks what it is about, or has something else there."""
    row = rng.choice(block)
    row[rng.choice(form.vital)] = rng.choice(values)
    return block


def _extra_columns(rng: Random, form: Form, rows: list[Row]) -> tuple[tuple[str, ...], str]:
    """Add columns to all rows; gives their names."""
    taken = {_bare(name) for row in rows for name in row}
    free = [name for name in HARMLESS if _bare(name) not in taken]
    harmless = tuple(rng.sample(free, rng.choice([0, 0, 1, 3])))
    doubtful = [
        name
        for name in SUSPICIOUS
        if form.readable == "always" and not any(name in other or other in name for other in taken)
    ]
    suspicious = rng.choice(doubtful) if doubtful and rng.random() < 0.15 else ""
    for row in rows:
        row.update({name: HARMLESS[name](rng) for name in harmless})
        if suspicious:
            row[suspicious] = SUSPICIOUS[suspicious](rng, rng.random() < 0.7)
    return harmless, suspicious


def _bare(name: str) -> str:
    return name.strip().lower()


def _in_order(rng: Random, rows: list[Row]) -> list[Row]:
    """The columns in one order for all rows, or in each row's own."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    rng.shuffle(names)
    each = rng.random() < 0.2
    ordered = []
    for row in rows:
        if each:
            rng.shuffle(names)
        ordered.append({name: row[name] for name in names if name in row})
    return ordered
