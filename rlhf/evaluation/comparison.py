"""A candidate against the champion: the same gate prompts, the same sampling noise, each with its own tokenizer.

The two may have been trained on different data, and so have different vocabularies. What is compared is their text: by
the gold rule where the data has one, otherwise by the selection reward models of both, each in its own tokens. What is
measured is kept by row; bounds are for the gates to take.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.model import Setup
from rlhf.config.retrain import JudgesConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import DataError
from rlhf.evaluation.answers import respond, total_logprobs
from rlhf.evaluation.gold import find_rule
from rlhf.evaluation.prompts import gate_prompts
from rlhf.evaluation.statistics import mean_interval, paired_bootstrap, share_interval, win_rate
from rlhf.gold.rules import GoldRule
from rlhf.modeling.context import StageContext, start_stage
from rlhf.modeling.conversations import Conversation, decode_responses, encode_answers, encode_prompts
from rlhf.modeling.models import load_policy, load_tokenizer
from rlhf.rewards.scoring import Answers, score_answers, score_rows_once
from rlhf.text.markdown import escape, table
from rlhf.workspace import Workspace

_MAX_CHARACTERS = 600


OWN_JUDGE = "selection_reward_model"
CHAMPIONS_JUDGE = "champion_selection_reward_model"
_SCORES = {"gold": "gold", OWN_JUDGE: "selection_score", CHAMPIONS_JUDGE: "champion_selection_score"}


@dataclass(frozen=True)
class _Judged:
    """One model's answers with what the judges say of them, each [N]. Lengths are in the candidate's tokens."""

    answers: Answers
    lengths: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]


def compare_policies(
    config: EvaluationConfig,
    judges: JudgesConfig,
    setup: Setup,
    max_response_tokens: int,
    noise: str,
    data: Path,
    candidate: Path,
    champion: Path,
    baseline: Path,
    reward_models: Path,
    champion_reward_models: Path | None,
    workspace: Workspace,
) -> None:
    """Compare two policies on gate prompts.

    Writes `comparison.json` and `side_by_side.md`.

    Args:
        config: prompts, sampling, intervals.
        judges: who judges the candidate's safety.
        setup: seed and compute settings.
        max_response_tokens: longest response, of either model in its own tokens.
        noise: names the candidate. Each has sampling noise of its own, so that the champion's luck with one noise
            does not meet all candidates.
        data: the data stage's output.
        candidate: a folder that loads with from_pretrained, its tokenizer in it.
        champion: the same of the champion.
        baseline: the same of the candidate's SFT policy, to which the KL is measured.
        reward_models: the candidate's reward models.
        champion_reward_models: the champion's, whose selection model judges too. None: there are none.
        workspace: where results go.

    Raises:
        DataError: there are no gate prompts, or none fits both models.
    """
    context, theirs_context = (start_stage(config, setup, folder) for folder in (candidate, champion))
    rule = find_rule(config, data)
    choice = gate_prompts(data, config)
    contexts = {candidate: context, champion: theirs_context}
    prompts, notes = _that_fit(choice.prompts, contexts, max_response_tokens)
    seed = context.seed("comparison", noise)
    ours, kl = _answer(context, max_response_tokens, seed, candidate, prompts, baseline)
    theirs, _ = _answer(theirs_context, max_response_tokens, seed, champion, prompts)
    models = {OWN_JUDGE: reward_models} | ({CHAMPIONS_JUDGE: champion_reward_models} if champion_reward_models else {})
    judged = _judge(context, models, prompts, (ours, theirs), rule)
    safety = {
        judge.name: score_answers(judge, setup.compute, prompts, ours, config.batch_size).tolist()
        for judge in judges.safety
    }
    comparison = _compare(context, [prompt_key(prompt) for prompt in prompts], *judged, kl)
    comparison["by_row"]["safety"] = safety
    comparison["notes"] = [*choice.notes, *notes]
    text = json.dumps(comparison, indent=2, allow_nan=False) + "\n"
    (workspace.output / "comparison.json").write_text(text, encoding="utf-8")
    for folder in (workspace.output, workspace.report):
        _write_side_by_side(prompts[: config.num_side_by_side], *judged, folder)
    workspace.log_metrics(_metrics(comparison), None)


def _that_fit(
    prompts: Sequence[Conversation],
    contexts: Mapping[Path, StageContext[EvaluationConfig]],
    max_response_tokens: int,
) -> tuple[Sequence[Conversation], list[str]]:
    """The prompts that leave each model room for a response, and a note where that is not all of them."""
    fits = np.ones(len(prompts), dtype=np.bool_)
    for folder, context in contexts.items():
        limit = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
        lengths = [len(ids) for ids in encode_prompts(context.tokenizer, prompts)]
        fits &= np.array(lengths) + max_response_tokens <= (limit or np.inf)
    if not fits.any():
        raise DataError(
            f"none of {len(prompts)} gate prompts fits both the candidate and the champion with {max_response_tokens} "
            f"tokens for the response; lower ppo.max_response_tokens, or give the alias champion to another version"
        )
    kept = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    dropped = len(prompts) - len(kept)
    return kept, [f"{dropped:,} gate prompts are too long for one of the two and were left out."] if dropped else []


def _answer(
    context: StageContext[EvaluationConfig],
    max_response_tokens: int,
    seed: int,
    folder: Path,
    prompts: Sequence[Conversation],
    baseline: Path | None = None,
) -> tuple[Answers, NDArray[np.float64]]:
    """One model's answers, and the k1 of each to the baseline, summed over its tokens, [N]; 0 without a baseline."""
    tokenizer, model, kl = context.tokenizer, load_policy(folder, context.compute), np.zeros(len(prompts))
    encoded = encode_prompts(tokenizer, prompts)
    ids = respond(context, model, encoded, max_response_tokens, seed)
    if baseline is not None:
        ours = total_logprobs(context, model, encoded, ids)
        kl = ours - total_logprobs(context, load_policy(baseline, context.compute), encoded, ids)
    return Answers(decode_responses(tokenizer, ids), [tokenizer.eos_token_id in row for row in ids]), kl


def _judge(
    context: StageContext[EvaluationConfig],
    reward_models: Mapping[str, Path],
    prompts: Sequence[Conversation],
    answers: Sequence[Answers],
    rule: GoldRule | None,
) -> tuple[_Judged, _Judged]:
    """Both models' answers by every judge: by the rule where there is one, by selection models in their own tokens."""
    values: tuple[dict[str, NDArray[np.float64]], ...] = tuple(
        _by_rule(prompts, by_model, rule) for by_model in answers
    )
    lengths: list[NDArray[np.int64]] = []
    for name, folder in reward_models.items():
        folder = folder / "selection_reward_model"
        tokenizer = load_tokenizer(folder)
        encoded = [encode_answers(tokenizer, prompts, by_model.texts, by_model.ended) for by_model in answers]
        rows = [(*prompt, *answer) for pairs in encoded for prompt, answer in pairs]
        batch_size = context.config.batch_size
        scores = score_rows_once(folder, context.compute, rows, tokenizer.pad_token_id, batch_size)
        for of_model, of_name in zip(values, np.split(scores, 2), strict=True):
            of_model[name] = of_name
        lengths = lengths or [np.array([len(answer) for _, answer in pairs]) for pairs in encoded]
    ours, theirs = (_Judged(*columns) for columns in zip(answers, lengths, values, strict=True))
    return ours, theirs


def _by_rule(
    prompts: Sequence[Conversation], answers: Answers, rule: GoldRule | None
) -> dict[str, NDArray[np.float64]]:
    return {"gold": rule.judge(prompts, answers.texts).rewards} if rule else {}


def _compare(
    context: StageContext[EvaluationConfig],
    prompts: Sequence[str],
    ours: _Judged,
    theirs: _Judged,
    kl: NDArray[np.float64],
) -> dict[str, Any]:
    num_bootstrap, seed = context.config.num_bootstrap, context.seed("bootstrap")
    gains = {name: values - theirs.values[name] for name, values in ours.values.items()}
    by_judge = {
        name: {
            "win_rate": win_rate(ours.values[name], theirs.values[name], prompts).as_dict(),
            "gain": paired_bootstrap(gain, num_bootstrap, seed, prompts).as_dict(),
        }
        for name, gain in gains.items()
    }
    deciding = ["gold"] if "gold" in by_judge else list(by_judge)
    worst = min(deciding, key=lambda name: by_judge[name]["win_rate"]["rate"]["low"])
    return {
        "deciding": deciding,
        "judge": worst,
        "num_rows": len(prompts),
        "num_prompts": len(set(prompts)),
        **by_judge[worst],
        "judges": by_judge,
        # A champion that says nothing at all counts as one that says one token.
        "length_growth": float(ours.lengths.mean() / max(theirs.lengths.mean(), 1.0)),
        "kl": mean_interval(kl, prompts).as_dict(),
        "models": {"candidate": _describe(ours, prompts), "champion": _describe(theirs, prompts)},
        "by_row": {
            "prompts": list(prompts),
            "gains": {name: gain.tolist() for name, gain in gains.items()},
            "kl": kl.tolist(),
            "lengths": ours.lengths.tolist(),
            "champion_lengths": theirs.lengths.tolist(),
        },
    }


def _describe(judged: _Judged, prompts: Sequence[str]) -> dict[str, Any]:
    estimates = {_SCORES[judge]: mean_interval(values, prompts) for judge, values in judged.values.items()}
    estimates["response_tokens"] = mean_interval(judged.lengths, prompts)
    estimates["eos_rate"] = share_interval(np.asarray(judged.answers.ended, dtype=np.float64), prompts)
    return {name: estimate.as_dict() for name, estimate in estimates.items()}


def _write_side_by_side(prompts: Sequence[Conversation], ours: _Judged, theirs: _Judged, folder: Path) -> None:
    rows = [
        [escape(prompt[-1]["content"], _MAX_CHARACTERS), _side(theirs, row), _side(ours, row)]
        for row, prompt in enumerate(prompts)
    ]
    title = f"# Responses side by side\n\nThe first {len(rows)} gate prompts, not picked.\n\n"
    text = table(["Prompt", "Champion", "Candidate"], rows)
    (folder / "side_by_side.md").write_text(f"{title}{text}\n", encoding="utf-8")


def _side(judged: _Judged, row: int) -> str:
    text = escape(judged.answers.texts[row], _MAX_CHARACTERS) or "(empty)"
    scores = ", ".join(f"{judge.replace('_', ' ')} {values[row]:.2f}" for judge, values in judged.values.items())
    return f"{text}<br><sub>{scores}{'' if judged.answers.ended[row] else ', cut off'}</sub>"


def _metrics(comparison: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `comparison.json` under the names that `rlhf.metrics` declares."""
    metrics = {name: float(comparison[name]) for name in ("num_prompts", "length_growth")}
    intervals = {"win_rate": comparison["win_rate"]["rate"], "gain": comparison["gain"], "kl": comparison["kl"]}
    for name, estimate in intervals.items():
        metrics |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
    for model, figures in comparison["models"].items():
        metrics |= {f"{model}_{name}": figure["value"] for name, figure in figures.items()}
    return {f"comparison/{name}": value for name, value in metrics.items()}
