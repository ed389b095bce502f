"""Judges saved policies of the demo's task, whoever trained them: one sampler, the same held-out prompts and noise.

    python -m benchmarks.evaluate_policies --models .bench/models/demo --out result.json DIR [DIR ...]

Each policy answers test prompts, a third of them easy; the rule behind the data judges the answers.
"""

import argparse
import json
from pathlib import Path

from benchmarks.made_models import ModelSet
from rlhf.config.model import ComputeConfig
from rlhf.evaluation.prompts import choose_prompts
from rlhf.gold import calibrated_arithmetic
from rlhf.modeling.conversations import Conversation, decode_responses, encode_prompts
from rlhf.modeling.device import configure
from rlhf.modeling.generation import generate_responses
from rlhf.modeling.models import load_policy
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.text.lines import read_json_lines


def gold_of(folder: Path, prompts: list[Conversation], compute: ComputeConfig, max_response_tokens: int) -> float:
    """Mean gold reward of a policy's answers, sampled at temperature 1."""
    tokenizer = load_tokenizer(folder)
    responses = generate_responses(
        load_policy(folder, compute),
        tokenizer,
        encode_prompts(tokenizer, prompts),
        compute=compute,
        max_response_tokens=max_response_tokens,
        temperature=1.0,
        seed=0,
        batch_size=256,
    )
    return float(calibrated_arithmetic.judge_arithmetic(prompts, decode_responses(tokenizer, responses)).rewards.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+", type=Path)
    parser.add_argument("--models", type=Path, required=True, help="the demo's set, for its test prompts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-prompts", type=int, default=1024)
    parser.add_argument("--response-tokens", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parsed = parser.parse_args()
    compute = ComputeConfig(dtype="fp32", num_threads=parsed.threads)
    configure(compute)
    rows = list(read_json_lines(ModelSet(parsed.models).data / "prompts" / "test.jsonl"))
    chosen = choose_prompts(rows, parsed.num_prompts, calibrated_arithmetic.RULE.kinds)
    gold = [gold_of(folder, list(chosen.prompts), compute, parsed.response_tokens) for folder in parsed.policies]
    parsed.out.write_text(json.dumps({"gold": gold, "num_prompts": len(chosen.prompts)}) + "\n")


if __name__ == "__main__":
    main()
