"""The gold rule of an evaluation, and shares of its judgements. Only policy evaluation may know it."""

import json
from collections.abc import Sequence
from itertools import compress
from pathlib import Path

from rlhf.config.evaluation import EvaluationConfig
from rlhf.evaluation.statistics import Estimate, share_interval
from rlhf.gold.registered import gold_rule
from rlhf.gold.rules import GoldRule, Judgement


def find_rule(config: EvaluationConfig, data: Path) -> GoldRule | None:
    """The rule that the settings name, or that is behind the labels; None where there is neither.

    Args:
        config: may name a rule.
        data: the data stage's output.
    """
    name = config.gold or json.loads((data / "report.json").read_text(encoding="utf-8"))["gold"]
    return gold_rule(name) if name is not None else None


def shares(judgement: Judgement, prompts: Sequence[str]) -> dict[str, Estimate]:
    """The properties that the rule names, as shares with intervals; one that no response can have is left out.

    Args:
        judgement: of N responses.
        prompts: the key of each response's prompt, [N].
    """
    return {
        name: share_interval(share.holds[share.among], list(compress(prompts, share.among)))
        for name, share in judgement.shares.items()
        if share.among.any()
    }
