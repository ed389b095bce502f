"""Verdicts of several annotators on the same two responses, for the measurement of their agreement."""

from collections.abc import Iterable
from typing import Any

from rlhf.config.data import DataConfig
from rlhf.data.preparation.splits import prompt_key, split_of
from rlhf.data.schema import Row, is_tie, pairs_of
from rlhf.errors import DataError

FILE = "annotations.jsonl"
TIE = "tie"


def shared_annotations(rows: Iterable[Row], config: DataConfig) -> list[dict[str, Any]]:
    """Two responses that several annotators compared, each with the verdicts: `first`, `second` or `tie`.

    Of several verdicts of an annotator on the same two responses the first counts. Prompts of the split `gate` are left
    out, as they are of every report.

    Args:
        rows: of preferences, rankings and ties among them.
        config: decides the split.
    """
    compared: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        if "annotator" not in row:
            continue
        for pair in pairs_of(row, with_ties=True):
            chosen, rejected = prompt_key(pair["chosen"]), prompt_key(pair["rejected"])
            key = (prompt_key(pair["prompt"]), min(chosen, rejected), max(chosen, rejected))
            verdict = TIE if is_tie(pair) else "first" if chosen <= rejected else "second"
            compared.setdefault(key, {}).setdefault(row["annotator"], verdict)
    return [
        {"prompt": prompt, "verdicts": verdicts}
        for (prompt, *_), verdicts in compared.items()
        if len(verdicts) > 1 and split_of(prompt, config) != "gate"
    ]


def check_held_out(rows: Iterable[Row], config: DataConfig) -> None:
    """Refuse held-out annotators of whom there is no pair.

    Raises:
        DataError: naming those who are there.
    """
    if not config.held_out_annotators:
        return
    names = {row["annotator"] for row in rows if "annotator" in row}
    if missing := sorted(set(config.held_out_annotators) - names):
        raise DataError(
            f"preferences.jsonl: data.held_out_annotators names {', '.join(missing)}, but no pair has that annotator "
            f"(there are: {', '.join(sorted(names)[:20]) or 'none'}); correct the name, or drop it"
        )
