"""Preflight of a run's data: what a person would rather know before the run than after it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.config.pipeline import PipelineConfig
from rlhf.data.evaluation_sets import find_sets, read_set
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import Row, pairs_of, read_rows
from rlhf.evaluation.paired import prompts_for_change
from rlhf.modeling.conversations import encode_rows
from rlhf.planning.recommend import discernible_win_rate

_MOST_PAIRS = 2000
_CUT_SHARE, _LONGER_SHARE = 0.05, 0.65
"""Shares above which a person is told."""


def preflight(data: Path, tokenizer: Any, config: PipelineConfig) -> Iterator[str]:
    """Warnings about prepared data, in sentences.

    Args:
        data: the data stage's output.
        tokenizer: of the run.
        config: the recipe.
    """
    yield from _too_few_prompts(data, config)
    yield from _small_sets(data, config.evaluation.smallest_set_change)
    judged = read_rows(data / "preferences" / "train.jsonl", "preferences")
    pairs = [pair for _, row in judged for pair in pairs_of(row)]
    if not pairs:
        return
    kept = pairs[:: -(-len(pairs) // _MOST_PAIRS)]
    limit, setting = config.policy.max_response_tokens, f"{config.section}.max_response_tokens"
    rows = encode_rows(tokenizer, [pair["prompt"] for pair in kept], [[pair["chosen"] for pair in kept]])
    lengths = np.array([len(row.answers[0]) for row in rows])
    cut = float(np.mean(lengths > limit))
    if cut > _CUT_SHARE:
        yield (
            f"{cut:.0%} of the chosen responses are longer than {setting} ({limit}), so the policy would "
            f"learn answers that end too soon; {int(np.quantile(lengths, 0.95))} holds 19 of 20"
        )
    longer = float(np.mean([_length(pair["chosen"]) > _length(pair["rejected"]) for pair in pairs]))
    if longer > _LONGER_SHARE:
        yield f"the longer response was chosen in {longer:.0%} of the pairs: the reward model may learn length"
    yield from _conflicts(pairs)


def _too_few_prompts(data: Path, config: PipelineConfig) -> Iterator[str]:
    number = sum(1 for _ in read_rows(data / "prompts" / "test.jsonl", "prompts"))
    number = min(number, config.evaluation.num_prompts)
    rate = discernible_win_rate(number)
    if rate is None or rate > 0.6:
        tells = "no win rate" if rate is None else f"only a win rate above {rate:.0%}"
        yield (
            f"{number:,} test prompts: {tells} can be told from 50%, and about 100 are needed for 60%; raise "
            "data.test_fraction or give more data"
        )


def _small_sets(data: Path, change: float) -> Iterator[str]:
    """The evaluation sets that are small for the smallest change that is asked for, at worst."""
    for name, path in find_sets(data).items():
        for kind, number in Counter(row["kind"] for _, row in read_set(path)).items():
            rate = discernible_win_rate(number)
            if rate is None or rate > 0.6:
                reach = 1.0 if rate is None else 2 * rate - 1
                worst = {"value": 0.0, "low": -reach, "high": reach}
                needed = prompts_for_change(worst, number, change)
                yield (
                    f"evaluation set {name}: {number:,} prompts of the kind {kind} tell a change of {reach:.0%} at "
                    f"worst"
                    + (
                        f", and {needed:,} are needed for {change:.0%} (evaluation.smallest_set_change)"
                        if needed
                        else ""
                    )
                )


def _conflicts(pairs: list[Row]) -> Iterator[str]:
    said = Counter((prompt_key(pair["prompt"]), _text(pair["chosen"]), _text(pair["rejected"])) for pair in pairs)
    number = sum(1 for prompt, chosen, rejected in said if (prompt, rejected, chosen) in said) // 2
    if number:
        yield f"{number:,} pairs were judged both ways; their labels cancel out"


def _text(answer: list[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in answer)


def _length(answer: list[dict[str, str]]) -> int:
    return len(_text(answer))
