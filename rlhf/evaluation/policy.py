"""The policy against the SFT baseline it started from: the same test prompts, the same sampling noise.

The headline is the verdict of who knows best: the gold rule where there is one, elsewhere the selection reward model.
The reward model that PPO climbed has a row of its own, since its verdict flatters the policy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.model import Setup
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import read_rows
from rlhf.evaluation.answers import Ids, respond, total_logprobs
from rlhf.evaluation.gold import find_rule, shares
from rlhf.evaluation.overoptimization import CurvePoint, curve_warnings, draw_overoptimization, overoptimization_curve
from rlhf.evaluation.prompts import PromptChoice, choose_prompts
from rlhf.evaluation.side_by_side import write_judgements, write_side_by_side
from rlhf.evaluation.statistics import (
    Estimate,
    correlation,
    distinct_n,
    mean_interval,
    num_prompts,
    paired_bootstrap,
    share_interval,
    win_rate,
)
from rlhf.gold.rules import GoldRule, Judgement
from rlhf.modeling.context import StageContext, start_stage
from rlhf.modeling.conversations import Conversation, decode_responses, encode_prompts
from rlhf.modeling.models import load_policy
from rlhf.rewards.scoring import score_rows_once
from rlhf.workspace import Workspace

_LEAST_EOS_RATE = 0.9


@dataclass(frozen=True)
class JudgedResponses:
    """One response per row of the prompts by one model, judged; N of them.

    Attributes:
        prompts: the key of each response's prompt, [N]; two rows that differ in case or space have one.
        texts: without special tokens, [N].
        lengths: tokens, EOS included, [N].
        ended: the response has its EOS, [N].
        scores: by the reward model that PPO climbed, [N].
        selection_scores: by the reward model that chose the checkpoint, [N].
        gold: by the gold rule, where there is one.
    """

    prompts: Sequence[str]
    texts: Sequence[str]
    lengths: NDArray[np.int64]
    ended: NDArray[np.bool_]
    scores: NDArray[np.float64]
    selection_scores: NDArray[np.float64]
    gold: Judgement | None

    def values(self) -> dict[str, NDArray[np.float64]]:
        """What each judge gives the responses, by the judge's name. The first judge gives the headline."""
        gold = {} if self.gold is None else {"gold": self.gold.rewards}
        return {**gold, "selection_reward_model": self.selection_scores, "reward_model": self.scores}


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
    `overoptimization.png`.

    Args:
        config: prompts, sampling, intervals.
        setup: seed, model and compute settings.
        max_response_tokens: longest response, as PPO was told.
        data: the data stage's output.
        policy: the PPO stage's output.
        baseline: the SFT stage's output.
        reward_models: the reward-model stage's output.
        workspace: where results go.

    Raises:
        DataError: there are too few test prompts.
    """
    context = start_stage(config, setup, data / "tokenizer")
    rule = find_rule(config, data)
    rows = [row for _, row in read_rows(data / "prompts" / "test.jsonl", "prompts")]
    choice = choose_prompts(rows, config.num_prompts, rule.kinds if rule else None)
    prompts = encode_prompts(context.tokenizer, choice.prompts)

    ids, kl = _sample(context, max_response_tokens, prompts, policy, baseline)
    scores = [
        _score(context, reward_models / name, prompts, ids) for name in ("reward_model", "selection_reward_model")
    ]
    ours, theirs = (
        _judge(context.tokenizer, choice.prompts, ids[model], scores[0][model], scores[1][model], rule)
        for model in (0, 1)
    )
    curve = overoptimization_curve(policy, rule)
    evaluation = _compare(context, choice, ours, theirs, kl)
    evaluation["max_response_tokens"] = max_response_tokens
    evaluation["gold_meaning"] = rule.meaning if rule else None
    evaluation["warnings"] += curve_warnings(curve)
    _write(workspace, evaluation, curve)
    draw_overoptimization(curve, workspace.output / "overoptimization.png")
    samples = _samples(choice.prompts, ours, theirs)
    write_judgements(samples, workspace.output)
    for folder in (workspace.output, workspace.report):
        write_side_by_side(samples[: config.num_side_by_side], folder)
    _log(workspace, evaluation, curve)


def _sample(
    context: StageContext[EvaluationConfig], max_response_tokens: int, prompts: Ids, policy: Path, baseline: Path
) -> tuple[tuple[Ids, Ids], NDArray[np.float64]]:
    """Responses of policy and baseline, and each of the policy's k1, summed over its tokens. One model at a time."""
    seed = context.seed("evaluation")
    model = load_policy(policy / "policy", context.compute)
    ours = respond(context, model, prompts, max_response_tokens, seed)
    our_logprobs = total_logprobs(context, model, prompts, ours)
    model = load_policy(baseline / "policy", context.compute)
    theirs = respond(context, model, prompts, max_response_tokens, seed)
    return (ours, theirs), our_logprobs - total_logprobs(context, model, prompts, ours)


def _score(
    context: StageContext[EvaluationConfig], folder: Path, prompts: Ids, ids: tuple[Ids, Ids]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of both models' responses."""
    rows = [(*prompt, *response) for responses in ids for prompt, response in zip(prompts, responses, strict=True)]
    pad_token_id = context.tokenizer.pad_token_id
    ours, theirs = np.split(score_rows_once(folder, context.compute, rows, pad_token_id, context.config.batch_size), 2)
    return ours, theirs


def _judge(
    tokenizer: Any,
    prompts: Sequence[Conversation],
    ids: Ids,
    scores: NDArray[np.float64],
    selection_scores: NDArray[np.float64],
    rule: GoldRule | None,
) -> JudgedResponses:
    texts = decode_responses(tokenizer, ids)
    return JudgedResponses(
        [prompt_key(prompt) for prompt in prompts],
        texts,
        np.array([len(row) for row in ids]),
        np.array([tokenizer.eos_token_id in row for row in ids]),
        scores,
        selection_scores,
        rule.judge(prompts, texts) if rule else None,
    )


def _compare(
    context: StageContext[EvaluationConfig],
    choice: PromptChoice,
    ours: JudgedResponses,
    theirs: JudgedResponses,
    kl: NDArray[np.float64],
) -> dict[str, Any]:
    config, seed = context.config, context.seed("bootstrap")
    values, baseline_values = ours.values(), theirs.values()
    judge = next(iter(values))
    gains = {
        name: paired_bootstrap(values[name] - baseline_values[name], config.num_bootstrap, seed, ours.prompts).as_dict()
        for name in values
    }
    win_rates = {name: win_rate(values[name], baseline_values[name], ours.prompts).as_dict() for name in values}
    evaluation = {
        "judge": judge,
        "num_responses": len(choice.prompts),
        "num_prompts": num_prompts(ours.prompts),
        "num_prompts_by_kind": dict(choice.num_by_kind),
        "temperature": config.temperature,
        "win_rate": win_rates[judge],
        "win_rates": win_rates,
        "gains": gains,
        "kl": mean_interval(kl, ours.prompts).as_dict(),
        "models": {"policy": _describe(ours), "baseline": _describe(theirs)},
        "score_gold_correlation": {
            name: asdict(correlation(one.scores, one.gold.rewards))
            for name, one in (("policy", ours), ("baseline", theirs))
            if one.gold is not None
        },
        "notes": list(choice.notes),
    }
    return evaluation | {"warnings": _warnings(evaluation)}


def _describe(responses: JudgedResponses) -> dict[str, Any]:
    estimates = {
        "score": mean_interval(responses.scores, responses.prompts),
        "selection_score": mean_interval(responses.selection_scores, responses.prompts),
        "response_tokens": mean_interval(responses.lengths, responses.prompts),
        "eos_rate": share_interval(responses.ended, responses.prompts),
    }
    if responses.gold is not None:
        gold = mean_interval(responses.gold.rewards, responses.prompts)
        estimates |= {"gold": gold, **shares(responses.gold, responses.prompts)}
    return {
        **{name: estimate.as_dict() for name, estimate in estimates.items()},
        "distinct_1": distinct_n(responses.texts, 1),
        "distinct_2": distinct_n(responses.texts, 2),
    }


def _warnings(evaluation: Mapping[str, Any]) -> list[str]:
    won, gain = Estimate(**evaluation["win_rate"]["rate"]), Estimate(**evaluation["gains"][evaluation["judge"]])
    ended = evaluation["models"]["policy"]["eos_rate"]["value"]
    found = []
    if won.low <= 0.5:
        found.append(f"The win rate's interval ({won.low:.3f} to {won.high:.3f}) does not lie above one half.")
    if gain.low <= 0:
        found.append(
            f"The gain over the baseline is not above zero by its interval ({gain.low:+.3f} to {gain.high:+.3f})."
        )
    if ended < _LEAST_EOS_RATE:
        found.append(f"Only {ended:.1%} of the policy's responses end by themselves; the others are cut off.")
    return found


def _samples(prompts: Sequence[Conversation], ours: JudgedResponses, theirs: JudgedResponses) -> list[dict[str, Any]]:
    def side(responses: JudgedResponses, row: int) -> dict[str, Any]:
        return {
            "response": responses.texts[row],
            "ended": bool(responses.ended[row]),
            **{name: float(values[row]) for name, values in responses.values().items()},
        }

    return [
        {"prompt": prompt, "policy": side(ours, row), "baseline": side(theirs, row)}
        for row, prompt in enumerate(prompts)
    ]


def _write(workspace: Workspace, evaluation: Mapping[str, Any], curve: Sequence[CurvePoint]) -> None:
    files = {"evaluation.json": evaluation, "curve.json": {"points": [point.as_dict() for point in curve]}}
    for name, content in files.items():
        (workspace.output / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _log(workspace: Workspace, evaluation: Mapping[str, Any], curve: Sequence[CurvePoint]) -> None:
    for point in curve:
        means = {"score": point.score, "selection_score": point.selection_score, "kl": point.kl, "gold": point.gold}
        found = {f"evaluation/curve_{name}": one.value for name, one in means.items() if one is not None}
        found["evaluation/curve_distinct_2"] = point.distinct_2
        workspace.log_metrics(found, point.update)
    workspace.log_metrics(_metrics(evaluation), None)


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `evaluation.json` under the names that `rlhf.metrics` declares."""
    metrics = {name: float(evaluation[name]) for name in ("num_responses", "num_prompts")}
    metrics["num_warnings"] = float(len(evaluation["warnings"]))
    intervals = {"win_rate": evaluation["win_rate"]["rate"], "kl": evaluation["kl"]}
    names = {"gold": "gold", "reward_model": "score", "selection_reward_model": "selection_score"}
    intervals |= {f"{names[judge]}_gain": gain for judge, gain in evaluation["gains"].items()}
    intervals |= {f"{names[judge]}_win_rate": one["rate"] for judge, one in evaluation["win_rates"].items()}
    for name, estimate in intervals.items():
        metrics |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
    for model, figures in evaluation["models"].items():
        for name, figure in figures.items():
            metrics[f"{model}_{name}"] = figure["value"] if isinstance(figure, dict) else figure
    for model, found in evaluation["score_gold_correlation"].items():
        if found["spearman"] is not None:
            metrics[f"{model}_score_gold_correlation"] = found["spearman"]
    return {f"evaluation/{name}": value for name, value in metrics.items()}
