"""The policy against reference answers: completions of the data's test demonstrations, which nothing learned from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import read_rows
from rlhf.errors import DataError
from rlhf.evaluation.answers import OWN_JUDGE, Context, decode_answers, judge_answers, respond
from rlhf.evaluation.judged import LLMJudge
from rlhf.evaluation.prompts import choose_prompts
from rlhf.evaluation.statistics import win_rate
from rlhf.gold.rules import GoldRule
from rlhf.modeling.conversations import Conversation, encode_prompts
from rlhf.modeling.models import load_policy
from rlhf.rewards.scoring import Answers


def compare_with_references(
    context: Context,
    max_response_tokens: int,
    data: Path,
    policy: Path,
    reward_models: Path,
    rule: GoldRule | None,
    judge: LLMJudge | None,
    output: Path,
) -> dict[str, Any]:
    """Win rates of the policy's answers against reference answers to the same prompts, by every judge, for JSON.

    Args:
        context: of the evaluation.
        max_response_tokens: longest response of the policy.
        data: the data stage's output.
        policy: a folder that loads with from_pretrained.
        reward_models: the reward-model stage's output.
        rule: the gold rule, where there is one.
        judge: an LLM judge, where there is one.
        output: folder for the judge's verdicts.

    Raises:
        DataError: the data has no test demonstrations, or they leave no room for a response.
    """
    references = _references(data)
    prompts = _that_fit(context, [prompt for prompt, _ in references.values()], max_response_tokens)
    texts = [references[prompt_key(prompt)][1] for prompt in prompts]
    encoded = encode_prompts(context.tokenizer, prompts)
    seed = context.seed("references")
    ids = respond(context, load_policy(policy, context.compute), encoded, max_response_tokens, seed)
    written = decode_answers(context, ids), Answers(texts, [True] * len(texts))
    models = {name: reward_models / name for name in (OWN_JUDGE, "reward_model")}
    ours, theirs = judge_answers(context, models, prompts, written, rule)
    keys = [prompt_key(prompt) for prompt in prompts]
    return {
        "num_prompts": len(keys),
        "num_demonstrations": len(references),
        "win_rates": {name: win_rate(ours.values[name], theirs.values[name], keys).as_dict() for name in ours.values},
        "llm_judge": judge.compare(prompts, ours, theirs, output) if judge else None,
    }


def _that_fit(context: Context, prompts: Sequence[Conversation], max_response_tokens: int) -> Sequence[Conversation]:
    """At most `num_prompts` of those that leave the policy room for its longest response, in an order of a hash."""
    limit = context.setup.model.max_length - max_response_tokens
    encoded = encode_prompts(context.tokenizer, prompts)
    rows = [{"prompt": prompt} for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) <= limit]
    if len(rows) < 2:
        raise DataError(
            f"evaluation.references is set, but {len(rows)} of {len(prompts)} test demonstrations leave room for "
            f"{max_response_tokens} tokens of a response in model.max_length ({limit + max_response_tokens}); raise "
            f"it, or drop evaluation.references"
        )
    return choose_prompts(rows, context.config.num_prompts, None).prompts


def _references(data: Path) -> Mapping[str, tuple[Conversation, str]]:
    """A reference answer to each prompt, the first where there are several, by the prompt's key."""
    path = data / "demonstrations" / "test.jsonl"
    rows = [row for _, row in read_rows(path, "demonstrations")] if path.is_file() and path.stat().st_size else []
    if not rows:
        raise DataError(
            "evaluation.references is set, but the data has no demonstrations in its test split; give more of them, "
            "raise data.test_fraction, or drop it"
        )
    found: dict[str, tuple[Conversation, str]] = {}
    for row in rows:
        found.setdefault(prompt_key(row["prompt"]), (row["prompt"], row["completion"][0]["content"]))
    return found
