"""A candidate against the champion: the same held-out prompts, the same sampling noise, each with its own tokenizer.

The two may have been trained on different data, and so have different vocabularies. What is compared is their text, by
one judge: the gold rule where the data has one, otherwise the candidate's selection reward model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.compute import configure, seeded
from rlhf.config import EvaluationConfig, JudgesConfig, Setup
from rlhf.conversations import Conversation, decode_responses, encode_answers, encode_prompts
from rlhf.data.schema import read_rows
from rlhf.errors import DataError
from rlhf.evaluation.gold import judge_by_rule
from rlhf.evaluation.judges import Answers, judge_answers, score_rows_once
from rlhf.evaluation.prompts import choose_prompts
from rlhf.evaluation.statistics import mean_interval, paired_bootstrap, wilson_interval, win_rate
from rlhf.generation import generate_responses
from rlhf.markdown import escape, table
from rlhf.models import load_policy, load_tokenizer
from rlhf.workspace import Workspace

_MAX_CHARACTERS = 600


@dataclass(frozen=True)
class _Judged:
    """One model's answers with what the judges say of them, each [N]."""

    answers: Answers
    lengths: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]


def compare_policies(
    config: EvaluationConfig,
    judges: JudgesConfig,
    setup: Setup,
    max_response_tokens: int,
    data: Path,
    candidate: Path,
    champion: Path,
    evaluation: Path,
    reward_models: Path,
    workspace: Workspace,
) -> None:
    """Compare two policies on test prompts.

    Writes `comparison.json` and `side_by_side.md`.

    Args:
        config: prompts, sampling, intervals.
        judges: who judges the candidate's safety.
        setup: seed and compute settings.
        max_response_tokens: longest response, of either model in its own tokens.
        data: the data stage's output.
        candidate: a folder that loads with from_pretrained, its tokenizer in it.
        champion: the same of the champion.
        evaluation: the candidate's evaluation against its SFT policy, which has measured the KL.
        reward_models: the candidate's reward models.
        workspace: where results go.

    Raises:
        DataError: there are too few test prompts, or none fits both models.
    """
    configure(setup.compute)
    has_gold = json.loads((data / "report.json").read_text(encoding="utf-8"))["gold"] is not None
    rows = [row for _, row in read_rows(data / "prompts" / "test.jsonl", "prompts")]
    choice = choose_prompts(rows, config.num_prompts, has_gold)
    prompts, notes = _that_fit(choice.prompts, (candidate, champion), max_response_tokens)
    answers = tuple(_answer(config, setup, max_response_tokens, folder, prompts) for folder in (candidate, champion))
    ours, theirs = _judge(config, setup, reward_models / "selection_reward_model", prompts, answers, has_gold)
    safety = {
        judge.name: judge_answers(judge, setup.compute, prompts, ours.answers, config.batch_size).tolist()
        for judge in judges.safety
    }
    kl = json.loads((evaluation / "evaluation.json").read_text(encoding="utf-8"))["kl"]
    comparison = _compare(config, setup, ours, theirs)
    comparison |= {"kl": kl, "safety": safety, "notes": [*choice.notes, *notes]}
    text = json.dumps(comparison, indent=2, allow_nan=False) + "\n"
    (workspace.output / "comparison.json").write_text(text, encoding="utf-8")
    for folder in (workspace.output, workspace.report):
        _write_side_by_side(prompts[: config.num_side_by_side], ours, theirs, folder)
    workspace.log_metrics(_metrics(comparison), None)


def _that_fit(
    prompts: Sequence[Conversation], folders: Sequence[Path], max_response_tokens: int
) -> tuple[Sequence[Conversation], list[str]]:
    """The prompts that leave each model room for a response, and a note where that is not all of them."""
    fits = np.ones(len(prompts), dtype=np.bool_)
    for folder in folders:
        limit = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
        lengths = [len(ids) for ids in encode_prompts(load_tokenizer(folder), prompts)]
        fits &= np.array(lengths) + max_response_tokens <= (limit or np.inf)
    if not fits.any():
        raise DataError(
            f"none of {len(prompts)} test prompts fits both the candidate and the champion with {max_response_tokens} "
            f"tokens for the response; lower ppo.max_response_tokens, or give the alias champion to another version"
        )
    kept = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    dropped = len(prompts) - len(kept)
    return kept, [f"{dropped:,} test prompts are too long for one of the two and were left out."] if dropped else []


def _answer(
    config: EvaluationConfig, setup: Setup, max_response_tokens: int, folder: Path, prompts: Sequence[Conversation]
) -> Answers:
    tokenizer = load_tokenizer(folder)
    ids = generate_responses(
        load_policy(folder, setup.compute),
        tokenizer,
        encode_prompts(tokenizer, prompts),
        compute=setup.compute,
        max_response_tokens=max_response_tokens,
        temperature=config.temperature,
        seed=seeded(setup.seed, "comparison"),
        batch_size=config.batch_size,
    )
    return Answers(decode_responses(tokenizer, ids), [tokenizer.eos_token_id in row for row in ids])


def _judge(
    config: EvaluationConfig,
    setup: Setup,
    reward_model: Path,
    prompts: Sequence[Conversation],
    answers: Sequence[Answers],
    has_gold: bool,
) -> tuple[_Judged, _Judged]:
    """Both models' answers in the candidate's tokens: scores and lengths; and the rule's word where there is one."""
    tokenizer = load_tokenizer(reward_model)
    encoded = [encode_answers(tokenizer, prompts, one.texts, one.ended) for one in answers]
    rows = [(*prompt, *answer) for pairs in encoded for prompt, answer in pairs]
    scores = score_rows_once(reward_model, setup.compute, rows, tokenizer.pad_token_id, config.batch_size)
    ours, theirs = (
        _Judged(
            one,
            np.array([len(answer) for _, answer in pairs]),
            _by_rule(prompts, one, has_gold) | {"selection_reward_model": found},
        )
        for one, pairs, found in zip(answers, encoded, np.split(scores, 2), strict=True)
    )
    return ours, theirs


def _by_rule(prompts: Sequence[Conversation], answers: Answers, has_gold: bool) -> dict[str, NDArray[np.float64]]:
    return {"gold": judge_by_rule(prompts, answers.texts).rewards} if has_gold else {}


def _compare(config: EvaluationConfig, setup: Setup, ours: _Judged, theirs: _Judged) -> dict[str, Any]:
    seed = seeded(setup.seed, "bootstrap")
    gains = {
        name: paired_bootstrap(values - theirs.values[name], config.num_bootstrap, seed).as_dict()
        for name, values in ours.values.items()
    }
    win_rates = {name: win_rate(values, theirs.values[name]).as_dict() for name, values in ours.values.items()}
    judge = next(iter(ours.values))
    return {
        "judge": judge,
        "num_prompts": len(ours.answers.texts),
        "win_rate": win_rates[judge],
        "gain": gains[judge],
        "win_rates": win_rates,
        "gains": gains,
        # A champion that says nothing at all counts as one that says one token.
        "length_growth": float(ours.lengths.mean() / max(theirs.lengths.mean(), 1.0)),
        "models": {"candidate": _describe(ours), "champion": _describe(theirs)},
    }


def _describe(judged: _Judged) -> dict[str, Any]:
    names = {"gold": "gold", "selection_reward_model": "selection_score"}
    ended = judged.answers.ended
    estimates = {names[judge]: mean_interval(values) for judge, values in judged.values.items()}
    estimates["response_tokens"] = mean_interval(judged.lengths)
    estimates["eos_rate"] = wilson_interval(sum(ended), len(ended))
    return {name: estimate.as_dict() for name, estimate in estimates.items()}


def _write_side_by_side(prompts: Sequence[Conversation], ours: _Judged, theirs: _Judged, folder: Path) -> None:
    rows = [
        [escape(prompt[-1]["content"], _MAX_CHARACTERS), _side(theirs, row), _side(ours, row)]
        for row, prompt in enumerate(prompts)
    ]
    title = f"# Responses side by side\n\nThe first {len(rows)} test prompts, not picked.\n\n"
    text = table(["Prompt", "Champion", "Candidate"], rows)
    (folder / "side_by_side.md").write_text(f"{title}{text}\n", encoding="utf-8")


def _side(judged: _Judged, row: int) -> str:
    text = escape(judged.answers.texts[row], _MAX_CHARACTERS) or "(empty)"
    scores = ", ".join(f"{judge.replace('_', ' ')} {values[row]:.2f}" for judge, values in judged.values.items())
    return f"{text}<br><sub>{scores}{'' if judged.answers.ended[row] else ', cut off'}</sub>"


def _metrics(comparison: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `comparison.json` under the names that `rlhf.metrics` declares."""
    metrics = {"num_prompts": float(comparison["num_prompts"]), "length_growth": comparison["length_growth"]}
    for name, estimate in (("win_rate", comparison["win_rate"]["rate"]), ("gain", comparison["gain"])):
        metrics |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
    for model, figures in comparison["models"].items():
        metrics |= {f"{model}_{name}": figure["value"] for name, figure in figures.items()}
    return {f"comparison/{name}": value for name, value in metrics.items()}
