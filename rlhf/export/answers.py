"""Greedy answers before and after an export: it is good where the tokens are the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from rlhf.chat.policies import ChatPolicy
from rlhf.config.flat import policy_setting
from rlhf.data.stories import openings
from rlhf.errors import InputError, ModelError
from rlhf.modeling.conversations import Conversation, encode_prompts
from rlhf.modeling.files import readable
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.references import EvaluationRef
from rlhf.text.lines import read_json_lines
from rlhf.tracking.artifacts import local_path, output_of

NUM_PROMPTS = 10
_NUM_TOKENS = 64


@dataclass(frozen=True)
class Questions:
    """What both are asked.

    Attributes:
        dialogues: what each prompt is made of.
        prompts: token ids of each prompt, the chat template included.
        num_tokens: longest answer.
        eos_token_id: ends an answer.
    """

    dialogues: Sequence[Conversation]
    prompts: Sequence[Sequence[int]]
    num_tokens: int
    eos_token_id: int


def questions(policy: ChatPolicy, number: int = NUM_PROMPTS) -> Questions:
    """The first prompts of the run's evaluation, in the tokens of the policy; openings of stories without one.

    Args:
        policy: what is exported.
        number: how many prompts.
    """
    tokenizer = load_tokenizer(policy.folder)
    dialogues = list(islice(_evaluated(policy), number))
    if not dialogues:
        dialogues = [_message(text) for text in openings(random.Random(1))[:number]]
    longest = int(policy_setting(policy.settings, "max_response_tokens", _NUM_TOKENS))
    return Questions(dialogues, encode_prompts(tokenizer, dialogues), min(longest, _NUM_TOKENS), tokenizer.eos_token_id)


def _evaluated(policy: ChatPolicy) -> Any:
    if policy.run_id is None:
        return
    try:
        reference, _ = output_of(policy.run_id, "evaluation", EvaluationRef)
        file = local_path(reference) / "side_by_side.jsonl"
    except InputError:
        return
    yield from (row["prompt"] for row in read_json_lines(file))


def _message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def answers(folder: Path, asked: Questions) -> list[list[int]]:
    """Greedy answers of a model in a folder, as anybody loads it with transformers, in fp32 on the CPU.

    Raises:
        ModelError: it cannot be loaded so.
    """
    import torch

    with readable(f"{folder}: transformers cannot load the model"):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    ends = model.generation_config.eos_token_id
    if asked.eos_token_id not in (ends if isinstance(ends, list) else [ends]):
        raise ModelError(
            f"{folder}: generation_config.json ends answers with token {ends}, and the tokenizer's EOS token is "
            f"{asked.eos_token_id}, so answers would have no end for others; set eos_token_id there"
        )
    model.eval()
    found = []
    for prompt in asked.prompts:
        ids = torch.tensor([list(prompt)])
        with torch.inference_mode():
            whole = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=asked.num_tokens,
                pad_token_id=asked.eos_token_id,
            )
        found.append(whole[0, len(prompt) :].tolist())
    return found


def first_difference(before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> str | None:
    """A sentence about answers that are not the same; None where all are.

    Args:
        before: token ids of each answer.
        after: the same prompts' answers after the export.
    """
    differing = [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if list(old) != list(new)]
    if not differing:
        return None
    number = differing[0]
    old, new = before[number], after[number]
    place = next(
        (at for at, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), min(len(old), len(new))
    )
    parts = [list(tokens[place : place + 5]) for tokens in (old, new)]
    return (
        f"{len(differing)} of {len(before)} greedy answers are others; answer {number + 1} differs from its token "
        f"{place + 1} on ({parts[0]} before, {parts[1]} after)"
    )
