"""A candidate against the champion: the same gate prompts, the same sampling noise, each with its own tokenizer.

The two may have been trained on different data, and so have different vocabularies. What is compared is their text: by
the gold rule where the data has one, otherwise by the selection reward models of both, each in its own tokens. What is
measured is kept by row; bounds are for the gates to take.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.model import Setup
from rlhf.config.retrain import JudgesConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.errors import DataError
from rlhf.evaluation.answers import (
    CHAMPIONS_JUDGE,
    OWN_JUDGE,
    Context,
    JudgedAnswers,
    decode_answers,
    interval_metrics,
    judge_answers,
    respond,
    total_logprobs,
)
from rlhf.evaluation.gold import find_rule
from rlhf.evaluation.judge_report import REPORT, judge_markdown, judge_metrics
from rlhf.evaluation.judged import open_judge
from rlhf.evaluation.prompts import gate_prompts
from rlhf.evaluation.side_by_side import as_table, side_by_side
from rlhf.evaluation.statistics import mean_interval, paired_bootstrap, win_rate
from rlhf.modeling.context import start_stage
from rlhf.modeling.conversations import Conversation, encode_prompts
from rlhf.modeling.models import load_policy
from rlhf.rewards.scoring import Answers, score_answers
from rlhf.workspace import Workspace

_TITLES = {"champion": "Champion", "candidate": "Candidate"}
_MODELS = ("candidate", "champion")


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

    Writes `comparison.json` and `side_by_side.md`; of an LLM judge, which decides nothing, also `judge.md`, its
    criteria and its verdicts.

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
        ModelError: a reward model cannot be used, or a dialogue is longer than it reads.
        ScoringError: a judge's scores are not one finite number for each answer.
        JudgeNotBelievedError: people have labelled nothing by which an LLM judge could be measured.
        EndpointError: its endpoint does not answer. What it answered is kept.
    """
    context, theirs_context = (start_stage(config, setup, folder) for folder in (candidate, champion))
    llm_judge = open_judge(config, data, context.seed("bootstrap"), "comparison")
    rule = find_rule(config, data)
    choice = gate_prompts(data, config)
    contexts = {candidate: context, champion: theirs_context}
    prompts, notes = _that_fit(choice.prompts, contexts, max_response_tokens)
    seed = context.seed("comparison", noise)
    ours, kl = _answer(context, max_response_tokens, seed, candidate, prompts, baseline)
    theirs, _ = _answer(theirs_context, max_response_tokens, seed, champion, prompts)
    folders = {OWN_JUDGE: reward_models} | ({CHAMPIONS_JUDGE: champion_reward_models} if champion_reward_models else {})
    models = {name: folder / "selection_reward_model" for name, folder in folders.items()}
    judged = judge_answers(context, models, prompts, (ours, theirs), rule)
    safety = {
        judge.name: score_answers(judge, setup.compute, prompts, ours, config.batch_size).tolist()
        for judge in judges.safety
    }
    comparison = _compare(context, [prompt_key(prompt) for prompt in prompts], *judged, kl)
    comparison["by_row"]["safety"] = safety
    comparison["notes"] = [*choice.notes, *notes]
    comparison["llm_judge"] = llm_judge.compare(prompts, *judged, workspace.output) if llm_judge else None
    if llm_judge is not None:
        for folder in (workspace.output, workspace.report):
            (folder / REPORT).write_text(judge_markdown(comparison["llm_judge"], _MODELS), encoding="utf-8")
    text = json.dumps(comparison, indent=2, allow_nan=False) + "\n"
    (workspace.output / "comparison.json").write_text(text, encoding="utf-8")
    first = prompts[: config.num_side_by_side]
    samples = side_by_side(first, dict(zip(_MODELS, judged, strict=True)))
    for folder in (workspace.output, workspace.report):
        (folder / "side_by_side.md").write_text(as_table(samples, _TITLES, "gate"), encoding="utf-8")
    workspace.log_metrics(_metrics(comparison), None)


def _that_fit(
    prompts: Sequence[Conversation], contexts: Mapping[Path, Context], max_response_tokens: int
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
            f"tokens for the response; lower rl.max_response_tokens, or give the alias champion to another version"
        )
    kept = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    dropped = len(prompts) - len(kept)
    return kept, [f"{dropped:,} gate prompts are too long for one of the two and were left out."] if dropped else []


def _answer(
    context: Context,
    max_response_tokens: int,
    seed: int,
    folder: Path,
    prompts: Sequence[Conversation],
    baseline: Path | None = None,
) -> tuple[Answers, NDArray[np.float64]]:
    """One model's answers, and the k1 of each to the baseline, summed over its tokens, [N]; 0 without a baseline."""
    model, kl = load_policy(folder, context.compute), np.zeros(len(prompts))
    encoded = encode_prompts(context.tokenizer, prompts)
    ids = respond(context, model, encoded, max_response_tokens, seed)
    if baseline is not None:
        ours = total_logprobs(context, model, encoded, ids)
        kl = ours - total_logprobs(context, load_policy(baseline, context.compute), encoded, ids)
    return decode_answers(context, ids), kl


def _compare(
    context: Context, prompts: Sequence[str], ours: JudgedAnswers, theirs: JudgedAnswers, kl: NDArray[np.float64]
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
        "models": {
            name: {figure: estimate.as_dict() for figure, estimate in judged.estimates(prompts).items()}
            for name, judged in zip(_MODELS, (ours, theirs), strict=True)
        },
        "by_row": {
            "prompts": list(prompts),
            "gains": {name: gain.tolist() for name, gain in gains.items()},
            "kl": kl.tolist(),
            "lengths": ours.lengths.tolist(),
            "champion_lengths": theirs.lengths.tolist(),
        },
    }


def _metrics(comparison: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `comparison.json` under the names that `rlhf.metrics` declares."""
    metrics = {name: float(comparison[name]) for name in ("num_prompts", "length_growth")}
    intervals = {"win_rate": comparison["win_rate"]["rate"], "gain": comparison["gain"], "kl": comparison["kl"]}
    metrics |= interval_metrics(intervals)
    for model, figures in comparison["models"].items():
        metrics |= {f"{model}_{name}": figure["value"] for name, figure in figures.items()}
    metrics |= judge_metrics(comparison["llm_judge"], _MODELS)
    return {f"comparison/{name}": value for name, value in metrics.items()}
