"""Audit of the two reward models on pairs that neither was trained on.

Several pairs may share a prompt: of several raters, of rankings. The prompt is the unit of all intervals.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import RewardAuditConfig
from rlhf.config.model import Setup
from rlhf.config.supervised import member_name
from rlhf.data.preparation.annotations import FILE as ANNOTATIONS
from rlhf.data.preparation.annotations import TIE
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import read_rows
from rlhf.evaluation.agreement import Agreement, annotator_agreement
from rlhf.evaluation.audit_summary import audit_metrics, unreachable_thresholds, warnings_of
from rlhf.evaluation.calibration import Calibration, calibration
from rlhf.evaluation.ensembles import measure_ensemble
from rlhf.evaluation.figures import ScoredPairs, draw_reliability, draw_scores
from rlhf.evaluation.learning_curve import LearningCurve, learning_curve
from rlhf.evaluation.pair_groups import (
    MOST_GROUPS,
    HeldOutPairs,
    accuracy_by,
    accuracy_by_category,
    accuracy_by_strength,
    accuracy_of,
    accuracy_on_held_out_annotators,
    count_characters,
    right,
)
from rlhf.evaluation.reward_verdict import verdict_on, worst
from rlhf.evaluation.robustness import Pair, Perturber, Scores
from rlhf.evaluation.statistics import (
    correlation,
    mean_interval,
    quantile_groups,
    share_interval,
    win_rate,
)
from rlhf.evaluation.temperature import NoTemperatureError, TemperatureScaling, temperature_scaling
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
_NUM_MARGIN_GROUPS = 4
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def audit_reward_models(
    config: RewardAuditConfig,
    setup: Setup,
    data: Path,
    reward_models: Path,
    workspace: Workspace,
    curve: Mapping[int, Path] | None = None,
) -> None:
    """Measure both reward models on the held-out pairs; write `audit.json` and its figures.

    Args:
        config: bins and batches of the audit.
        setup: seed, model and compute settings.
        data: the data stage's output.
        reward_models: the reward-model stage's output.
        workspace: where results go.
        curve: reward models of a learning curve, by the number of pairs that each was trained on, rising.

    Raises:
        DataError: there are no held-out pairs.
        ModelError: a pair is longer than a reward model reads.
        ScoringError: the scores are not one finite number for each dialogue.
    """
    context = start_stage(config, setup, data / "tokenizer")
    pairs = _read_pairs(data, context.tokenizer)
    perturber = _perturber(context, pairs)
    annotators = _annotators(data)
    ceiling = annotators.ceiling if annotators else None
    scored: dict[str, ScoredPairs] = {}
    models: dict[str, dict[str, Any]] = {}
    for name, title in TITLES.items():
        score = _scorer(context, reward_models / name)
        scored[name] = _score(context, score, title, pairs)
        robustness = [change.as_dict() for change in perturber.measure(score)] if perturber else []
        margins = _trained_margins(reward_models / name)
        models[name] = {**_describe(scored[name], pairs), "margins": margins, "robustness": robustness}
    verdicts = {TITLES[name]: verdict_on(config, model, ceiling) for name, model in models.items()}
    for model, verdict in zip(models.values(), verdicts.values(), strict=True):
        model |= {"verdict": verdict.verdict, "reasons": list(verdict.reasons)}
        model |= {"reaches_annotators": _reaches(model, annotators)}
    overall = worst(verdicts)
    differences = {name: of_model.margins for name, of_model in scored.items()}
    of_curve = _learning_curve(context, curve, pairs) if curve else None
    audit = {
        "verdict": overall.verdict,
        "reasons": list(overall.reasons),
        "num_pairs": len(pairs.rows),
        "num_prompts": len(set(pairs.prompts)),
        "longer_wins": pairs.longer_wins.as_dict(),
        "annotators": annotators.as_dict() if annotators else None,
        "models": models,
        "agreement": _agreement(differences["reward_model"], differences["selection_reward_model"], pairs),
        "ensemble": _ensemble(context, reward_models, scored["reward_model"], pairs),
        "learning_curve": of_curve.as_dict() if of_curve else None,
        "warnings": [
            *unreachable_thresholds(config, ceiling),
            *(text for name in models for text in warnings_of(TITLES[name], models[name], pairs.longer_wins.rate)),
        ],
    }
    (workspace.output / "audit.json").write_text(json.dumps(audit, indent=2) + "\n", encoding="utf-8")
    draw_reliability(list(scored.values()), workspace.output / "reliability.png")
    draw_scores(list(scored.values()), workspace.output / "scores.png")
    workspace.log_metrics(audit_metrics(audit), None)
    if of_curve:
        for size, accuracy in zip(of_curve.num_pairs, of_curve.accuracy, strict=True):
            workspace.log_metrics({"reward_audit/learning_curve_accuracy": accuracy.value}, size)


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
    return Perturber(context.tokenizer, some, context.setup.model.max_length, context.config.maximum_flip_rate)


def _score(context: StageContext[RewardAuditConfig], score: Scores, title: str, pairs: HeldOutPairs) -> ScoredPairs:
    num_bins = context.config.num_bins
    chosen, rejected = _score_pairs(score, pairs)
    won = win_rate(chosen, rejected, pairs.prompts)
    calibrated = calibration(chosen - rejected, num_bins, context.seed("calibration"), pairs.prompts)
    scaling: TemperatureScaling | str
    try:
        scaling = temperature_scaling(chosen - rejected, num_bins, context.seed("temperature"), pairs.prompts)
    except NoTemperatureError as error:
        scaling = str(error)
    return ScoredPairs(title, chosen, rejected, won.num_prompts, won.rate, calibrated, scaling)


def _score_pairs(score: Scores, pairs: HeldOutPairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of the chosen and of the rejected responses."""
    chosen, rejected = np.split(score([*pairs.chosen, *pairs.rejected]), 2)
    return chosen, rejected


def _ensemble(
    context: StageContext[RewardAuditConfig], reward_models: Path, first: ScoredPairs, pairs: HeldOutPairs
) -> dict[str, Any] | None:
    """What the members of the ensemble say together; None where there is one reward model."""
    folders: list[Path] = []
    while (folder := reward_models / member_name(len(folders) + 2)).is_dir():
        folders.append(folder)
    if not folders:
        return None
    others = [_score_pairs(_scorer(context, folder), pairs) for folder in folders]
    chosen, rejected = zip((first.chosen, first.rejected), *others, strict=True)
    return measure_ensemble(chosen, rejected, pairs)


def _learning_curve(
    context: StageContext[RewardAuditConfig], models: Mapping[int, Path], pairs: HeldOutPairs
) -> LearningCurve:
    scores = [_score_pairs(_scorer(context, folder), pairs) for folder in models.values()]
    outcomes = [right(chosen - rejected) for chosen, rejected in scores]
    return learning_curve(list(models), outcomes, context.seed("learning_curve"), pairs.prompts)


def _trained_margins(folder: Path) -> dict[str, float] | None:
    """Mean and largest margin of the pairs that a reward model learned from; None without margins."""
    margins: dict[str, float] | None = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("margins")
    return margins


def _describe(scored: ScoredPairs, pairs: HeldOutPairs) -> dict[str, Any]:
    margins = scored.margins
    by_margin = quantile_groups(np.abs(margins), _NUM_MARGIN_GROUPS)
    lengths = correlation(np.concatenate([scored.chosen, scored.rejected]), pairs.response_tokens)
    return {
        "accuracy": scored.accuracy.as_dict(),
        "accuracy_over_length_rule": _over_length_rule(margins, pairs),
        **_calibration(scored.calibration),
        "temperature_scaling": _scaling(scored.scaling),
        "reliability": [asdict(group) for group in scored.calibration.bins],
        "by_score_margin": [accuracy_of(margins, pairs, group, np.abs(margins)) for group in by_margin],
        "by_source": accuracy_by("source", margins, pairs),
        **accuracy_by_category(margins, pairs),
        "by_annotator": accuracy_by("annotator", margins, pairs)[:MOST_GROUPS],
        "held_out_annotators": accuracy_on_held_out_annotators(margins, pairs),
        **accuracy_by_strength(margins, pairs),
        "length_correlation": asdict(lengths),
        "length_by_pairs": _length_by_pairs(margins, pairs),
        "scores": {"chosen": _distribution(scored.chosen), "rejected": _distribution(scored.rejected)},
    }


def _calibration(of: Calibration) -> dict[str, Any]:
    return {
        "expected_calibration_error": of.expected_calibration_error,
        "expected_calibration_error_null": asdict(of.null),
        "expected_calibration_error_interval": of.interval.as_dict(),
        "brier": of.brier.as_dict(),
        "log_loss": of.log_loss.as_dict(),
    }


def _scaling(scaling: TemperatureScaling | str) -> dict[str, Any]:
    """Calibration with one temperature; `left_out` says why where there is none."""
    if isinstance(scaling, str):
        return {"left_out": scaling}
    return {
        "left_out": None,
        "temperature": scaling.temperature.as_dict(),
        "folds": scaling.folds,
        **_calibration(scaling.calibration),
        "log_loss_change": scaling.log_loss_change.as_dict(),
        "brier_change": scaling.brier_change.as_dict(),
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
    groups = {name: accuracy_of(margins, pairs, group) if len(group) else None for name, group in rows.items()}
    return {"correlation": asdict(correlation(*both_orders)), **groups}


def _annotators(data: Path) -> Agreement | None:
    """How far annotators of the same two responses agree; None where no two were compared twice."""
    path = data / ANNOTATIONS
    if not path.is_file():
        return None
    items = list(read_json_lines(path))
    return annotator_agreement([item["verdicts"] for item in items], TIE, [item["prompt"] for item in items])


def _reaches(model: Mapping[str, Any], annotators: Agreement | None) -> bool | None:
    """Whether the interval of the accuracy reaches how often two annotators agree; None where that is unknown."""
    decided = annotators.decided if annotators else None
    return None if decided is None else bool(model["accuracy"]["high"] >= decided.value)


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
