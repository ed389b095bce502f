"""The policy against the SFT baseline it started from: the same test prompts, the same sampling noise.

The headline is the verdict of who knows best: the gold rule where there is one, elsewhere the selection reward model.
The reward model that PPO climbed has a row of its own, since its verdict flatters the policy.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.model import Setup
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import read_rows, write_rows
from rlhf.data.set_measures import set_metrics
from rlhf.evaluation.against_references import compare_with_references
from rlhf.evaluation.answers import (
    OWN_JUDGE,
    SCORES,
    Context,
    Ids,
    JudgedAnswers,
    decode_answers,
    interval_metrics,
    respond,
    total_logprobs,
)
from rlhf.evaluation.best_of_n import measure_best_of_n
from rlhf.evaluation.gold import find_rule, shares
from rlhf.evaluation.judge_report import REPORT, judge_markdown, judge_metrics
from rlhf.evaluation.judged import open_judge
from rlhf.evaluation.length_control import length_controlled_win_rate
from rlhf.evaluation.overoptimization import CurvePoint, Findings, curve_warnings, examine, overoptimization_curve
from rlhf.evaluation.overoptimization_figure import draw_overoptimization
from rlhf.evaluation.paired import Resampling
from rlhf.evaluation.prompts import PromptChoice, choose_prompts
from rlhf.evaluation.sets import EvaluationSet, Texts, answer_sets, measure_sets, read_sets, set_responses
from rlhf.evaluation.side_by_side import as_json_lines, as_table, side_by_side
from rlhf.evaluation.statistics import (
    Estimate,
    correlation,
    distinct_n,
    mean_interval,
    paired_bootstrap,
    win_rate,
)
from rlhf.evaluation.verbosity import verbosity
from rlhf.gold.rules import GoldRule
from rlhf.modeling.context import start_stage
from rlhf.modeling.conversations import Conversation, encode_prompts
from rlhf.modeling.models import load_policy
from rlhf.rewards.scoring import score_rows_once
from rlhf.workspace import Workspace

_LEAST_EOS_RATE = 0.9
_FIGURES = ("score", "selection_score", "response_tokens", "eos_rate", "refusal_rate", "gold")
_TITLES = {"baseline": "SFT baseline", "policy": "Policy"}


def evaluate_policy(
    config: EvaluationConfig,
    setup: Setup,
    max_response_tokens: int,
    data: Path,
    policy: Path,
    baseline: Path,
    reward_models: Path,
    workspace: Workspace,
) -> None:
    """Compare the policy with its baseline on test prompts, and judge what PPO kept on its way.

    Writes `evaluation.json`, `judgements.jsonl`, `side_by_side.jsonl`, `side_by_side.md`, `curve.json` and
    `overoptimization.png`; where the data has evaluation sets `set_responses.jsonl`; of an LLM judge `judge.md`, its
    criteria and its verdicts.

    Args:
        config: prompts, sampling, intervals.
        setup: seed, model and compute settings.
        max_response_tokens: longest response, as PPO was told.
        data: the data stage's output.
        policy: the PPO stage's output.
        baseline: the SFT stage's output.
        reward_models: the reward-model stage's output.
        workspace: where results go; samples of best-of-n that a killed run has left in its checkpoints are used.

    Raises:
        DataError: there are too few test prompts.
        ModelError: a dialogue is longer than a reward model reads.
        ScoringError: the scores are not one finite number for each response.
        JudgeNotBelievedError: people have labelled nothing by which an LLM judge could be measured.
        EndpointError: its endpoint does not answer. What it answered is kept.
    """
    context = start_stage(config, setup, data / "tokenizer")
    judge, rule = open_judge(config, data, context.seed("bootstrap")), find_rule(config, data)
    rows = [row for _, row in read_rows(data / "prompts" / "test.jsonl", "prompts")]
    choice = choose_prompts(rows, config.num_prompts, rule.kinds if rule else None)
    prompts = encode_prompts(context.tokenizer, choice.prompts)

    sets = read_sets(data)
    ids, kl, of_sets = _sample(context, max_response_tokens, prompts, sets, policy, baseline)
    scores = {name: _score(context, reward_models / name, prompts, ids) for name in (OWN_JUDGE, "reward_model")}
    ours, theirs = (
        _judge(context, choice.prompts, of_model, {name: both[row] for name, both in scores.items()}, rule)
        for row, of_model in enumerate(ids)
    )
    curve, started, best_of_n = overoptimization_curve(policy, rule), time.monotonic(), None
    if config.best_of_n:
        asked, checkpoints = curve.prompts, workspace.checkpoints
        best_of_n = measure_best_of_n(context, max_response_tokens, asked, baseline, reward_models, rule, checkpoints)
    seconds = {"evaluation/best_of_n_seconds": time.monotonic() - started} if best_of_n else {}
    findings = examine(curve, config.num_bootstrap, context.seed("bootstrap"), best_of_n)
    evaluation = _compare(context, choice, ours, theirs, kl)
    evaluation |= measure_sets(context, sets, *of_sets)
    if sets:
        write_rows(workspace.output / "set_responses.jsonl", set_responses(sets, *of_sets))
    evaluation["max_response_tokens"] = max_response_tokens
    evaluation["gold_meaning"] = rule.meaning if rule else None
    evaluation["warnings"] += curve_warnings(curve.points)
    evaluation["overoptimization"] = findings.as_dict()
    evaluation["llm_judge"] = judge.compare(choice.prompts, ours, theirs, workspace.output) if judge else None
    evaluation["references"] = None
    if config.references:
        folders = data, policy / "policy", reward_models
        against = workspace.output / "references"
        evaluation["references"] = compare_with_references(context, max_response_tokens, *folders, rule, judge, against)
    _write(workspace, evaluation, curve.points)
    draw_overoptimization(curve.points, workspace.output / "overoptimization.png", findings)
    samples = side_by_side(choice.prompts, {"policy": ours, "baseline": theirs})
    first = samples[: config.num_side_by_side]
    (workspace.output / "judgements.jsonl").write_text(as_json_lines(samples), encoding="utf-8")
    for folder in (workspace.output, workspace.report):
        (folder / "side_by_side.jsonl").write_text(as_json_lines(first), encoding="utf-8")
        (folder / "side_by_side.md").write_text(as_table(first, _TITLES, "test"), encoding="utf-8")
    _write_judged(workspace, evaluation)
    _log(workspace, curve.points, findings, _metrics(evaluation) | seconds)


def _sample(
    context: Context,
    max_response_tokens: int,
    prompts: Ids,
    sets: Sequence[EvaluationSet],
    policy: Path,
    baseline: Path,
) -> tuple[tuple[Ids, Ids], NDArray[np.float64], list[list[Texts]]]:
    """Responses of policy and baseline, each of the policy's k1, summed over its tokens, and both's answers to sets.

    One model is in memory at a time.
    """
    seed = context.seed("evaluation")
    model = load_policy(policy / "policy", context.compute)
    ours = respond(context, model, prompts, max_response_tokens, seed)
    our_logprobs = total_logprobs(context, model, prompts, ours)
    of_sets = [answer_sets(context, model, sets, max_response_tokens)]
    model = load_policy(baseline / "policy", context.compute)
    theirs = respond(context, model, prompts, max_response_tokens, seed)
    of_sets.append(answer_sets(context, model, sets, max_response_tokens))
    return (ours, theirs), our_logprobs - total_logprobs(context, model, prompts, ours), of_sets


def _score(
    context: Context, folder: Path, prompts: Ids, ids: tuple[Ids, Ids]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of both models' responses."""
    rows = [(*prompt, *response) for responses in ids for prompt, response in zip(prompts, responses, strict=True)]
    ours, theirs = np.split(score_rows_once(folder, context.compute, rows, context.config.batch_size), 2)
    return ours, theirs


def _judge(
    context: Context,
    prompts: Sequence[Conversation],
    ids: Ids,
    scores: Mapping[str, NDArray[np.float64]],
    rule: GoldRule | None,
) -> JudgedAnswers:
    """One model's responses with the judges' values. The first judge gives the headline."""
    answers = decode_answers(context, ids)
    judgement = rule.judge(prompts, answers.texts) if rule else None
    values = ({"gold": judgement.rewards} if judgement else {}) | dict(scores)
    return JudgedAnswers(answers, np.array([len(row) for row in ids]), values, judgement)


def _compare(
    context: Context, choice: PromptChoice, ours: JudgedAnswers, theirs: JudgedAnswers, kl: NDArray[np.float64]
) -> dict[str, Any]:
    config, seed = context.config, context.seed("bootstrap")
    values, baseline_values = ours.values, theirs.values
    prompts = [prompt_key(prompt) for prompt in choice.prompts]
    judge = next(iter(values))
    gains = {
        name: paired_bootstrap(values[name] - baseline_values[name], config.num_bootstrap, seed, prompts).as_dict()
        for name in values
    }
    win_rates = {name: win_rate(values[name], baseline_values[name], prompts).as_dict() for name in values}
    won = (1 + np.sign(values[judge] - baseline_values[judge])) / 2
    at_equal_length = length_controlled_win_rate(won, ours.lengths, theirs.lengths, prompts, config.num_bootstrap, seed)
    evaluation = {
        "judge": judge,
        "num_responses": len(choice.prompts),
        "num_prompts": len(set(prompts)),
        "num_prompts_by_kind": dict(choice.num_by_kind),
        "temperature": config.temperature,
        "win_rate": win_rates[judge],
        "win_rates": win_rates,
        "length_controlled_win_rate": at_equal_length.as_dict(),
        "gains": gains,
        "kl": mean_interval(kl, prompts).as_dict(),
        "verbosity": verbosity(
            values["reward_model"],
            baseline_values["reward_model"],
            ours.lengths,
            theirs.lengths,
            prompts,
            Resampling(config.num_bootstrap, seed),
        ),
        "models": {"policy": _describe(ours, prompts), "baseline": _describe(theirs, prompts)},
        "score_gold_correlation": {
            name: asdict(correlation(judged.values["reward_model"], judged.values["gold"]))
            for name, judged in (("policy", ours), ("baseline", theirs))
            if "gold" in judged.values
        },
        "notes": list(choice.notes),
    }
    return evaluation | {"warnings": _warnings(evaluation)}


def _describe(judged: JudgedAnswers, prompts: Sequence[str]) -> dict[str, Any]:
    estimates = judged.estimates(prompts)
    ordered = {name: estimates[name] for name in _FIGURES if name in estimates}
    properties = shares(judged.judgement, prompts) if judged.judgement else {}
    return {
        **{name: estimate.as_dict() for name, estimate in (ordered | properties).items()},
        "distinct_1": distinct_n(judged.answers.texts, 1),
        "distinct_2": distinct_n(judged.answers.texts, 2),
    }


def _warnings(evaluation: Mapping[str, Any]) -> list[str]:
    won, gain = Estimate(**evaluation["win_rate"]["rate"]), Estimate(**evaluation["gains"][evaluation["judge"]])
    ended = evaluation["models"]["policy"]["eos_rate"]["value"]
    warnings = []
    if won.low <= 0.5:
        warnings.append(f"The win rate's interval ({won.low:.3f} to {won.high:.3f}) does not lie above one half.")
    if gain.low <= 0:
        warnings.append(
            f"The gain over the baseline is not above zero by its interval ({gain.low:+.3f} to {gain.high:+.3f})."
        )
    if ended < _LEAST_EOS_RATE:
        warnings.append(f"Only {ended:.1%} of the policy's responses end by themselves; the others are cut off.")
    return warnings


def _write(workspace: Workspace, evaluation: Mapping[str, Any], curve: Sequence[CurvePoint]) -> None:
    files = {"evaluation.json": evaluation, "curve.json": {"points": [point.as_dict() for point in curve]}}
    for name, content in files.items():
        (workspace.output / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_judged(workspace: Workspace, evaluation: Mapping[str, Any]) -> None:
    if evaluation["llm_judge"] is not None:
        for folder in (workspace.output, workspace.report):
            text = judge_markdown(evaluation["llm_judge"], ("policy", "baseline"))
            (folder / REPORT).write_text(text, encoding="utf-8")


def _log(workspace: Workspace, curve: Sequence[CurvePoint], findings: Findings, metrics: Mapping[str, float]) -> None:
    for point in curve:
        means = {"score": point.score, "selection_score": point.selection_score, "kl": point.kl, "gold": point.gold}
        curves = {name: mean.value for name, mean in means.items() if mean is not None}
        curves["distinct_2"] = point.distinct_2
        workspace.log_metrics({f"evaluation/curve_{name}": value for name, value in curves.items()}, point.update)
    for best in findings.best_of_n.points if findings.best_of_n else ():
        values = {f"evaluation/best_of_n_{name}": value.value for name, value in best.values.items()}
        workspace.log_metrics(values, best.num_samples)
    workspace.log_metrics({**metrics, **_overoptimization_metrics(findings)}, None)


def _overoptimization_metrics(findings: Findings) -> dict[str, float]:
    """Turn and fits; what is infinite or not known is left out."""
    turn, metrics = findings.turn, {}
    if turn.state != "unknown":
        metrics["evaluation/over_optimized"] = float(turn.state == "over_optimized")
    if turn.state == "over_optimized":
        span = {"": turn.update, "_low": turn.earliest, "_high": turn.latest}
        metrics |= {f"evaluation/over_optimized_from{end}": float(update) for end, update in span.items()}
    for name, fit in findings.fits.items():
        if fit is None:
            continue
        figures = {"alpha": fit.alpha, "beta": fit.beta} | ({"peak": fit.peak} if fit.peak_seen else {})
        intervals = {f"{name}_fit_{figure}": estimate.as_dict() for figure, estimate in figures.items()}
        metrics |= {f"evaluation/{figure}": value for figure, value in interval_metrics(intervals).items()}
        if fit.r_squared is not None:
            metrics[f"evaluation/{name}_fit_r_squared"] = fit.r_squared
    return metrics


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `evaluation.json` under the names that `rlhf.metrics` declares."""
    metrics = {name: float(evaluation[name]) for name in ("num_responses", "num_prompts")}
    metrics["num_warnings"] = float(len(evaluation["warnings"]))
    intervals = {"win_rate": evaluation["win_rate"]["rate"], "kl": evaluation["kl"]}
    intervals["length_controlled_win_rate"] = evaluation["length_controlled_win_rate"]
    intervals |= {f"{SCORES[judge]}_gain": gain for judge, gain in evaluation["gains"].items()}
    intervals |= {f"{SCORES[judge]}_win_rate": won["rate"] for judge, won in evaluation["win_rates"].items()}
    intervals |= {name: figure for name, figure in evaluation["verbosity"].items() if isinstance(figure, dict)}
    metrics |= interval_metrics(intervals)
    for model, figures in evaluation["models"].items():
        for name, figure in figures.items():
            metrics[f"{model}_{name}"] = figure["value"] if isinstance(figure, dict) else figure
    for model, coefficients in evaluation["score_gold_correlation"].items():
        if coefficients["spearman"] is not None:
            metrics[f"{model}_score_gold_correlation"] = coefficients["spearman"]
    metrics |= judge_metrics(evaluation["llm_judge"], ("policy", "baseline"))
    if (references := evaluation["references"]) is not None:
        won = {f"reference_{SCORES[judge]}_win_rate": one["rate"] for judge, one in references["win_rates"].items()}
        metrics |= interval_metrics(won)
        of_judge = judge_metrics(references["llm_judge"], ("policy", "baseline"))
        metrics |= {f"reference_{name}": of_judge[name] for name in of_judge if name.startswith("judge_win_rate")}
    return {f"evaluation/{name}": value for name, value in metrics.items()} | set_metrics(evaluation["sets"])
