"""What the two reward models are worth on pairs that neither was trained on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.compute import configure
from rlhf.config import RewardAuditConfig, Setup
from rlhf.conversations import encode_pairs
from rlhf.data.schema import read_rows
from rlhf.evaluation.figures import ScoredPairs, draw_reliability, draw_scores
from rlhf.evaluation.statistics import (
    Estimate,
    WinRate,
    calibration,
    correlation,
    quantile_groups,
    wilson_interval,
    win_rate,
)
from rlhf.models import load_reward_model, load_tokenizer, score_rows
from rlhf.workspace import Workspace

TITLES = {
    "reward_model": "Reward model",
    "selection_reward_model": "Selection reward model (chooses checkpoints)",
}
MAX_LENGTH_CORRELATION = 0.5
_NUM_MARGIN_GROUPS = 4
_MOST_DISTINCT_MARGINS = 8
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs as a reward model reads them.

    Attributes:
        rows: the pairs, as prepared, [N].
        chosen: token ids of prompt and chosen response, [N].
        rejected: token ids of prompt and rejected response, [N].
        response_tokens: length of the chosen, then of the rejected responses, [2N].
        longer_wins: how often the chosen dialogue is the longer one, in characters.
        pad_token_id: of the tokenizer that made the ids.
    """

    rows: Sequence[dict[str, Any]]
    chosen: Sequence[Sequence[int]]
    rejected: Sequence[Sequence[int]]
    response_tokens: NDArray[np.int64]
    longer_wins: WinRate
    pad_token_id: int


def audit_reward_models(
    config: RewardAuditConfig, setup: Setup, data: Path, reward_models: Path, workspace: Workspace
) -> None:
    """Measure both reward models on the held-out pairs; write `audit.json` and its figures.

    Args:
        config: bins and batches of the audit.
        setup: seed, model and compute settings.
        data: the data stage's output.
        reward_models: the reward-model stage's output.
        workspace: where results go.

    Raises:
        DataError: there are no held-out pairs.
    """
    configure(setup.compute)
    pairs = _read_pairs(data, load_tokenizer(data / "tokenizer"))
    scored = {name: _score(config, setup, reward_models / name, TITLES[name], pairs) for name in TITLES}
    models = {name: _describe(one, pairs) for name, one in scored.items()}
    margins = [one.chosen - one.rejected for one in scored.values()]
    audit = {
        "num_pairs": len(pairs.rows),
        "longer_wins": pairs.longer_wins.as_dict(),
        "models": models,
        "agreement": _agreement(*margins),
        "warnings": [
            text for name in models for text in _warnings(config, TITLES[name], models[name], pairs.longer_wins)
        ],
    }
    (workspace.output / "audit.json").write_text(json.dumps(audit, indent=2) + "\n", encoding="utf-8")
    draw_reliability(list(scored.values()), workspace.output / "reliability.png")
    draw_scores(list(scored.values()), workspace.output / "scores.png")
    workspace.log_metrics(_metrics(audit), None)


def count_characters(messages: Sequence[Mapping[str, str]]) -> int:
    """Length of a dialogue: the characters of its messages."""
    return sum(len(message["content"]) for message in messages)


def _read_pairs(data: Path, tokenizer: Any) -> HeldOutPairs:
    rows = [row for _, row in read_rows(data / "preferences" / "test.jsonl", "preferences")]
    prompts = [row["prompt"] for row in rows]
    ids = {side: encode_pairs(tokenizer, prompts, [row[side] for row in rows]) for side in ("chosen", "rejected")}
    characters = {side: [count_characters([*row["prompt"], *row[side]]) for row in rows] for side in ids}
    return HeldOutPairs(
        rows,
        [[*prompt, *response] for prompt, response in ids["chosen"]],
        [[*prompt, *response] for prompt, response in ids["rejected"]],
        np.array([len(response) for side in ids.values() for _, response in side]),
        win_rate(characters["chosen"], characters["rejected"]),
        tokenizer.pad_token_id,
    )


def _score(config: RewardAuditConfig, setup: Setup, folder: Path, title: str, pairs: HeldOutPairs) -> ScoredPairs:
    reward_model = load_reward_model(folder, setup.compute)
    rows = [*pairs.chosen, *pairs.rejected]
    scores = score_rows(reward_model, setup.compute, rows, pairs.pad_token_id, config.batch_size).astype(np.float64)
    chosen, rejected = np.split(scores, 2)
    won = win_rate(chosen, rejected).rate
    return ScoredPairs(title, chosen, rejected, won, calibration(_sigmoid(chosen - rejected), config.num_bins))


def _describe(scored: ScoredPairs, pairs: HeldOutPairs) -> dict[str, Any]:
    margins = scored.chosen - scored.rejected
    by_margin = quantile_groups(np.abs(margins), _NUM_MARGIN_GROUPS)
    lengths = correlation(np.concatenate([scored.chosen, scored.rejected]), pairs.response_tokens)
    return {
        "accuracy": scored.accuracy.as_dict(),
        "expected_calibration_error": scored.calibration.expected_calibration_error,
        "reliability": [asdict(one) for one in scored.calibration.bins],
        "by_score_margin": [_group(margins, group, np.abs(margins)) for group in by_margin],
        "by_source": _by_source(margins, pairs.rows),
        "by_annotated_margin": _by_annotated_margin(margins, pairs.rows),
        "length_correlation": asdict(lengths),
        "scores": {"chosen": _distribution(scored.chosen), "rejected": _distribution(scored.rejected)},
    }


def _by_source(margins: NDArray[Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy by the field `source`; nothing where no row has one."""
    if not any(row.get("source") for row in rows):
        return []
    sources = np.array([str(row.get("source") or "unnamed") for row in rows])
    return [{"source": str(name), **_group(margins, np.flatnonzero(sources == name))} for name in np.unique(sources)]


def _by_annotated_margin(margins: NDArray[Any], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy by the rater's margin: a group a value where there are few values, quarters where there are many."""
    known = np.array([i for i, row in enumerate(rows) if row.get("margin") is not None], dtype=np.intp)
    annotated = np.array([float(row.get("margin") or 0.0) for row in rows])
    values = np.unique(annotated[known])
    if len(values) <= _MOST_DISTINCT_MARGINS:
        groups = [known[annotated[known] == value] for value in values]
    else:
        groups = [known[group] for group in quantile_groups(annotated[known], _NUM_MARGIN_GROUPS)]
    return [_group(margins, group, annotated) for group in groups]


def _group(margins: NDArray[Any], group: NDArray[np.intp], by: NDArray[Any] | None = None) -> dict[str, Any]:
    """Accuracy on some of the pairs, and between which values of `by` they lie."""
    accuracy = win_rate(margins[group], np.zeros(len(group))).rate
    span = {} if by is None else {"from": float(by[group].min()), "to": float(by[group].max())}
    return {**span, "count": len(group), "accuracy": accuracy.as_dict()}


def _distribution(scores: NDArray[Any]) -> dict[str, Any]:
    quantiles = zip(_QUANTILES, np.quantile(scores, _QUANTILES), strict=True)
    return {
        "mean": float(scores.mean()),
        "standard_deviation": float(scores.std()),
        "quantiles": {f"{share:.0%}": float(value) for share, value in quantiles},
    }


def _agreement(margins: NDArray[Any], selection_margins: NDArray[Any]) -> dict[str, Any]:
    """How far the two models say the same of the same pairs."""
    same = int((np.sign(margins) == np.sign(selection_margins)).sum())
    return {
        "same_preference": wilson_interval(same, len(margins)).as_dict(),
        "margin_correlation": asdict(correlation(margins, selection_margins)),
    }


def _warnings(config: RewardAuditConfig, title: str, model: Mapping[str, Any], longer_wins: WinRate) -> list[str]:
    accuracy = Estimate(**model["accuracy"])
    found = []
    if accuracy.low <= config.minimum_accuracy:
        found.append(
            f"{title}: held-out accuracy is {accuracy.value:.3f}, and the lower bound of its interval "
            f"({accuracy.low:.3f}) is not above {config.minimum_accuracy:g}."
        )
    share = longer_wins.rate.value
    rule, by_length = ("longer", share) if share >= 0.5 else ("shorter", 1 - share)
    if accuracy.value <= by_length:
        found.append(
            f"{title}: held-out accuracy ({accuracy.value:.3f}) does not beat choosing the {rule} dialogue "
            f"({by_length:.3f})."
        )
    length = model["length_correlation"]["pearson"]
    if length is not None and abs(length) > MAX_LENGTH_CORRELATION:
        found.append(f"{title}: score and response length correlate by {length:+.2f}; the score may stand for length.")
    return found


def _metrics(audit: Mapping[str, Any]) -> dict[str, float]:
    metrics = {
        "reward_audit/num_pairs": float(audit["num_pairs"]),
        "reward_audit/longer_wins_accuracy": audit["longer_wins"]["rate"]["value"],
        "reward_audit/model_agreement": audit["agreement"]["same_preference"]["value"],
        "reward_audit/num_warnings": float(len(audit["warnings"])),
    }
    for name, prefix in (("reward_model", "reward_audit/"), ("selection_reward_model", "reward_audit/selection_")):
        model = audit["models"][name]
        metrics[f"{prefix}accuracy"] = model["accuracy"]["value"]
        metrics[f"{prefix}accuracy_low"] = model["accuracy"]["low"]
        metrics[f"{prefix}accuracy_high"] = model["accuracy"]["high"]
        metrics[f"{prefix}expected_calibration_error"] = model["expected_calibration_error"]
        if model["length_correlation"]["pearson"] is not None:
            metrics[f"{prefix}score_length_correlation"] = model["length_correlation"]["pearson"]
    return metrics


def _sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    from scipy.special import expit

    return np.asarray(expit(values))
