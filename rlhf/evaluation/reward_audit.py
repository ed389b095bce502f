"""Audit of the two reward models on pairs that neither was trained on.

Several pairs may share a prompt: of several raters, of rankings. The prompt is the unit of all intervals.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.config.model import Setup
from rlhf.data.preparation.annotations import FILE as ANNOTATIONS
from rlhf.data.preparation.annotations import TIE
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import read_rows
from rlhf.evaluation.agreement import annotator_agreement
from rlhf.evaluation.calibration import calibration
from rlhf.evaluation.figures import ScoredPairs, draw_reliability, draw_scores
from rlhf.evaluation.reward_verdict import verdict_on, worst
from rlhf.evaluation.robustness import Pair, Perturber, Scores
from rlhf.evaluation.statistics import (
    Estimate,
    WinRate,
    correlation,
    mean_interval,
    quantile_groups,
    share_interval,
    win_rate,
)
from rlhf.headline import FITNESS
from rlhf.modeling.context import StageContext, start_stage
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.models import load_reward_model
from rlhf.rewards.scoring import score_rows
from rlhf.text.lines import read_json_lines
from rlhf.workspace import Workspace

TITLES = {
    "reward_model": "Reward model",
    "selection_reward_model": "Selection reward model (chooses checkpoints)",
}
MAX_LENGTH_CORRELATION = 0.5
_NUM_MARGIN_GROUPS = 4
_MOST_DISTINCT_MARGINS = 8
_MOST_ANNOTATORS = 50
_VOID_MARGIN = 5.0
"""A pair that a model has right by as much as this is still pulled apart with half of the loss's full slope."""
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs as a reward model reads them.

    Attributes:
        rows: the pairs, as prepared, [N].
        held_out: the annotators that the models have not learned from.
        prompts: the key of each pair's prompt, [N].
        chosen: token ids of prompt and chosen response, [N].
        rejected: token ids of prompt and rejected response, [N].
        response_tokens: length of the chosen, then of the rejected responses, [2N].
        characters: length of the chosen, then of the rejected dialogues, [2N].
    """

    rows: Sequence[dict[str, Any]]
    held_out: Sequence[str]
    prompts: Sequence[str]
    chosen: Sequence[Sequence[int]]
    rejected: Sequence[Sequence[int]]
    response_tokens: NDArray[np.int64]
    characters: NDArray[np.int64]

    @property
    def longer_wins(self) -> WinRate:
        """How often the chosen dialogue is the longer one, in characters."""
        chosen, rejected = np.split(self.characters, 2)
        return win_rate(chosen, rejected, self.prompts)


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
        ModelError: a pair is longer than a reward model reads.
        ScoringError: the scores are not one finite number for each dialogue.
    """
    context = start_stage(config, setup, data / "tokenizer")
    pairs = _read_pairs(data, context.tokenizer)
    perturber = _perturber(context, pairs)
    scored: dict[str, ScoredPairs] = {}
    models: dict[str, dict[str, Any]] = {}
    for name, title in TITLES.items():
        score = _scorer(context, reward_models / name)
        scored[name] = _score(context, score, title, pairs)
        robustness = [change.as_dict() for change in perturber.measure(score)] if perturber else []
        margins = _trained_margins(reward_models / name)
        models[name] = {**_describe(scored[name], pairs), "margins": margins, "robustness": robustness}
    verdicts = {TITLES[name]: verdict_on(config, model) for name, model in models.items()}
    for model, verdict in zip(models.values(), verdicts.values(), strict=True):
        model |= {"verdict": verdict.verdict, "reasons": list(verdict.reasons)}
    overall = worst(verdicts)
    differences = {name: of_model.chosen - of_model.rejected for name, of_model in scored.items()}
    audit = {
        "verdict": overall.verdict,
        "reasons": list(overall.reasons),
        "num_pairs": len(pairs.rows),
        "num_prompts": len(set(pairs.prompts)),
        "longer_wins": pairs.longer_wins.as_dict(),
        "annotators": _annotators(data),
        "models": models,
        "agreement": _agreement(differences["reward_model"], differences["selection_reward_model"], pairs),
        "warnings": [text for name in models for text in _warnings(TITLES[name], models[name], pairs)],
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
    return HeldOutPairs(
        rows,
        json.loads((data / "report.json").read_text(encoding="utf-8")).get("held_out_annotators", []),
        [prompt_key(prompt) for prompt in prompts],
        [[*prompt, *response] for prompt, response in ids["chosen"]],
        [[*prompt, *response] for prompt, response in ids["rejected"]],
        np.array([len(response) for side in ids.values() for _, response in side]),
        np.array([count_characters([*row["prompt"], *row[side]]) for side in ids for row in rows]),
    )


def _scorer(context: StageContext[RewardAuditConfig], folder: Path) -> Scores:
    reward_model = load_reward_model(folder, context.compute)

    def scores(rows: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        scored = score_rows(reward_model, str(folder), context.compute, rows, context.config.batch_size)
        return scored.astype(np.float64)

    return scores


def _perturber(context: StageContext[RewardAuditConfig], pairs: HeldOutPairs) -> Perturber | None:
    """Changes some of the pairs, drawn at random; None where nothing is to be changed."""
    rng = np.random.default_rng(context.seed("perturbed"))
    drawn = np.sort(rng.permutation(len(pairs.rows))[: context.config.num_perturbed])
    if not len(drawn):
        return None
    rows = [pairs.rows[place] for place in drawn]
    some = [
        Pair(pairs.prompts[place], row["prompt"], row["chosen"][0]["content"], row["rejected"][0]["content"])
        for place, row in zip(drawn, rows, strict=True)
    ]
    return Perturber(context.tokenizer, some, context.setup.model.max_length)


def _score(context: StageContext[RewardAuditConfig], score: Scores, title: str, pairs: HeldOutPairs) -> ScoredPairs:
    config = context.config
    chosen, rejected = np.split(score([*pairs.chosen, *pairs.rejected]), 2)
    won = win_rate(chosen, rejected, pairs.prompts)
    calibrated = calibration(chosen - rejected, config.num_bins, context.seed("calibration"), pairs.prompts)
    return ScoredPairs(title, chosen, rejected, won.num_prompts, won.rate, calibrated)


def _trained_margins(folder: Path) -> dict[str, float] | None:
    """Mean and largest margin of the pairs that a reward model learned from; None without margins."""
    margins: dict[str, float] | None = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("margins")
    return margins


def _describe(scored: ScoredPairs, pairs: HeldOutPairs) -> dict[str, Any]:
    margins = scored.chosen - scored.rejected
    by_margin = quantile_groups(np.abs(margins), _NUM_MARGIN_GROUPS)
    lengths = correlation(np.concatenate([scored.chosen, scored.rejected]), pairs.response_tokens)
    return {
        "accuracy": scored.accuracy.as_dict(),
        "accuracy_over_length_rule": _over_length_rule(margins, pairs),
        "expected_calibration_error": scored.calibration.expected_calibration_error,
        "expected_calibration_error_null": asdict(scored.calibration.null),
        "brier": scored.calibration.brier.as_dict(),
        "log_loss": scored.calibration.log_loss.as_dict(),
        "reliability": [asdict(group) for group in scored.calibration.bins],
        "by_score_margin": [_group(margins, pairs, group, np.abs(margins)) for group in by_margin],
        "by_source": _by_field("source", margins, pairs),
        "by_annotator": _by_field("annotator", margins, pairs)[:_MOST_ANNOTATORS],
        "held_out_annotators": _held_out_annotators(margins, pairs),
        "by_annotated_margin": _by_annotated_margin(margins, pairs),
        "length_correlation": asdict(lengths),
        "length_by_pairs": _length_by_pairs(margins, pairs),
        "scores": {"chosen": _distribution(scored.chosen), "rejected": _distribution(scored.rejected)},
    }


def _over_length_rule(margins: NDArray[Any], pairs: HeldOutPairs) -> dict[str, Any]:
    """Accuracy less that of the better rule of "the longer one wins" and "the shorter one wins", pair by pair."""
    chosen, rejected = np.split(pairs.characters, 2)
    longer = np.sign(chosen - rejected)
    rule = 1 if longer.sum() >= 0 else -1
    difference = mean_interval((np.sign(margins) - rule * longer) / 2, pairs.prompts)
    return {"rule": "longer" if rule == 1 else "shorter", **difference.as_dict()}


def _length_by_pairs(margins: NDArray[Any], pairs: HeldOutPairs) -> dict[str, Any]:
    """Whether the score follows length within a pair: correlation of the two differences, and accuracy by length.

    A pair's two responses have one prompt, so that nothing else about the prompt is in the correlation. Which of them
    stands first says nothing: every pair counts in both orders, and both means are 0.
    """
    longer = np.subtract(*np.split(pairs.response_tokens, 2))
    both_orders = (np.concatenate([values, -values]) for values in (margins, longer))
    rows = {"shorter_chosen": np.flatnonzero(longer < 0), "longer_chosen": np.flatnonzero(longer > 0)}
    groups = {name: _group(margins, pairs, group) if len(group) else None for name, group in rows.items()}
    return {"correlation": asdict(correlation(*both_orders)), **groups}


def _annotators(data: Path) -> dict[str, Any] | None:
    """How far annotators of the same two responses agree; None where no two were compared twice."""
    path = data / ANNOTATIONS
    if not path.is_file():
        return None
    items = list(read_json_lines(path))
    agreement = annotator_agreement([item["verdicts"] for item in items], TIE, [item["prompt"] for item in items])
    return agreement.as_dict() if agreement else None


def _by_field(field: str, margins: NDArray[Any], pairs: HeldOutPairs) -> list[dict[str, Any]]:
    """Accuracy by the field `source` or `annotator`; nothing where no row has one."""
    if not any(row.get(field) for row in pairs.rows):
        return []
    names = np.array([str(row.get(field) or "unnamed") for row in pairs.rows])
    return [{field: str(name), **_group(margins, pairs, np.flatnonzero(names == name))} for name in np.unique(names)]


def _held_out_annotators(margins: NDArray[Any], pairs: HeldOutPairs) -> dict[str, Any] | None:
    """Accuracy on the pairs of annotators that the model has not learned from; None where there are none."""
    rows = np.flatnonzero([row.get("annotator") in pairs.held_out for row in pairs.rows])
    return _group(margins, pairs, rows) if len(rows) else None


def _by_annotated_margin(margins: NDArray[Any], pairs: HeldOutPairs) -> list[dict[str, Any]]:
    """Accuracy by the rater's margin: a group a value where there are few values, quarters where there are many."""
    known = np.array([i for i, row in enumerate(pairs.rows) if row.get("margin") is not None], dtype=np.intp)
    annotated = np.array([float(row.get("margin") or 0.0) for row in pairs.rows])
    values = np.unique(annotated[known])
    if len(values) <= _MOST_DISTINCT_MARGINS:
        groups = [known[annotated[known] == value] for value in values]
    else:
        groups = [known[group] for group in quantile_groups(annotated[known], _NUM_MARGIN_GROUPS)]
    return [_group(margins, pairs, group, annotated) for group in groups]


def _group(
    margins: NDArray[Any], pairs: HeldOutPairs, group: NDArray[np.intp], by: NDArray[Any] | None = None
) -> dict[str, Any]:
    """Accuracy on some of the pairs, and between which values of `by` they lie."""
    won = win_rate(margins[group], np.zeros(len(group)), [pairs.prompts[row] for row in group])
    span = {} if by is None else {"from": float(by[group].min()), "to": float(by[group].max())}
    return {**span, "count": len(group), "num_prompts": won.num_prompts, "accuracy": won.rate.as_dict()}


def _distribution(scores: NDArray[Any]) -> dict[str, Any]:
    quantiles = zip(_QUANTILES, np.quantile(scores, _QUANTILES), strict=True)
    return {
        "mean": float(scores.mean()),
        "standard_deviation": float(scores.std()),
        "quantiles": {f"{share:.0%}": float(value) for share, value in quantiles},
    }


def _agreement(margins: NDArray[Any], selection_margins: NDArray[Any], pairs: HeldOutPairs) -> dict[str, Any]:
    """How far the two models say the same of the same pairs."""
    same = np.sign(margins) == np.sign(selection_margins)
    return {
        "same_preference": share_interval(same, pairs.prompts).as_dict(),
        "margin_correlation": asdict(correlation(margins, selection_margins)),
    }


def _warnings(title: str, model: Mapping[str, Any], pairs: HeldOutPairs) -> list[str]:
    accuracy, over_rule = Estimate(**model["accuracy"]), model["accuracy_over_length_rule"]
    rule, by_pairs = pairs.longer_wins.rate, model["length_by_pairs"]
    warnings = []
    # Where the rule is not told from a coin, the accuracy's own bound has said all.
    if not rule.low <= 0.5 <= rule.high and over_rule["low"] <= 0:
        share = max(rule.value, 1 - rule.value)
        warnings.append(
            f"{title}: held-out accuracy ({accuracy.value:.3f}) is not shown to beat choosing the {over_rule['rule']} "
            f"dialogue ({share:.3f}): the difference is {over_rule['value']:+.3f} ({over_rule['low']:+.3f} to "
            f"{over_rule['high']:+.3f})."
        )
    length = by_pairs["correlation"]["pearson"]
    if length is not None and abs(length) > MAX_LENGTH_CORRELATION:
        warnings.append(
            f"{title}: score and response length correlate by {length:+.2f} within pairs; the score may stand for "
            f"length."
        )
    margins = model["margins"]
    if margins and margins["largest"] > _VOID_MARGIN:
        warnings.append(
            f"{title}: it was trained with margins of up to {margins['largest']:g}. Beyond {_VOID_MARGIN:g} the loss "
            f"hardly bends, so its probabilities and their calibration mean nothing; give smaller margins, such as by "
            f"reward_model.margin_by_rating."
        )
    elif margins and margins["mean"] > 0:
        warnings.append(
            f"{title}: it was trained with margins, {margins['mean']:.2f} on average, so its scores are further apart "
            f"by as much and its probabilities over-confident by design."
        )
    for side in ("shorter", "longer"):
        group = by_pairs[f"{side}_chosen"]
        if group and group["accuracy"]["high"] < 0.5:
            warnings.append(
                f"{title}: where raters chose the {side} response, accuracy is {group['accuracy']['value']:.3f} "
                f"({group['accuracy']['low']:.3f} to {group['accuracy']['high']:.3f}): worse than a coin."
            )
    return warnings


def _metrics(audit: Mapping[str, Any]) -> dict[str, float]:
    metrics = {
        "reward_audit/num_pairs": float(audit["num_pairs"]),
        "reward_audit/num_prompts": float(audit["num_prompts"]),
        "reward_audit/longer_wins_accuracy": audit["longer_wins"]["rate"]["value"],
        "reward_audit/model_agreement": audit["agreement"]["same_preference"]["value"],
        "reward_audit/num_warnings": float(len(audit["warnings"])),
        "reward_audit/fitness": FITNESS[audit["verdict"]],
    }
    for name, prefix in (("reward_model", "reward_audit/"), ("selection_reward_model", "reward_audit/selection_")):
        model = audit["models"][name]
        metrics |= {
            f"{prefix}accuracy": model["accuracy"]["value"],
            f"{prefix}accuracy_low": model["accuracy"]["low"],
            f"{prefix}accuracy_high": model["accuracy"]["high"],
            f"{prefix}expected_calibration_error": model["expected_calibration_error"],
            f"{prefix}expected_calibration_error_null": model["expected_calibration_error_null"]["high"],
            f"{prefix}brier": model["brier"]["value"],
            f"{prefix}log_loss": model["log_loss"]["value"],
        }
        correlations = {
            "score_length_correlation": model["length_correlation"],
            "pair_length_correlation": model["length_by_pairs"]["correlation"],
        }
        pearson = {key: coefficients["pearson"] for key, coefficients in correlations.items()}
        metrics |= {f"{prefix}{key}": value for key, value in pearson.items() if value is not None}
        if flips := [change["flips"]["value"] for change in model["robustness"] if change["flips"]]:
            metrics[f"{prefix}largest_flip_rate"] = max(flips)
        groups = {f"{side}_chosen": model["length_by_pairs"][f"{side}_chosen"] for side in ("shorter", "longer")}
        for key, group in {**groups, "held_out_annotators": model["held_out_annotators"]}.items():
            if group is not None:
                metrics[f"{prefix}accuracy_{key}"] = group["accuracy"]["value"]
    if audit["annotators"] is not None:
        metrics["reward_audit/annotator_agreement"] = audit["annotators"]["all"]["value"]
    return metrics
