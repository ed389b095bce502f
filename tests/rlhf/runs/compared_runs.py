"""What the runs are like that the tests of comparison make, and the stages in them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from rlhf.evaluation.statistics import mean_interval, win_rate

MakeRun = Callable[..., str]
CONFIG = {"name": "demo", "seed": 0, "rl": {"kl_coef": 0.1}, "compute": {"dtype": "bf16", "num_threads": 2}}
TAGS = {
    "recipe": "demo",
    "mlflow.source.git.commit": "a" * 40,
    "rlhf.git_dirty": "false",
    "rlhf.data_md5": "d" * 32 + ".dir",
    "rlhf.reproducible": "true",
    "rlhf.python": "3.11.7",
    "rlhf.lock_sha256": "1" * 64,
    "rlhf.version.torch": "2.13.0",
}


def rows_of(values: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    """What evaluation keeps of its prompts: values by model and judge."""
    number = len(values["policy"]["gold"])
    return [
        {
            "prompt": [{"role": "user", "content": f"question {row}"}],
            **{model: {judge: found[row] for judge, found in judges.items()} for model, judges in values.items()},
        }
        for row in range(number)
    ]


def evaluation(gold: list[float], baseline: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """A stage of policy evaluation, by what each prompt's answers are worth."""
    baseline = baseline or [0.0] * len(gold)
    gains = [a - b for a, b in zip(gold, baseline, strict=True)]
    gain, rate, policy = mean_interval(gains), win_rate(gold, baseline).rate, mean_interval(gold)
    rows = rows_of({"policy": {"gold": gold}, "baseline": {"gold": baseline}})
    metrics = {"num_prompts": float(len(gold)), "policy_gold": policy.value}
    for name, one in (("gold_gain", gain), ("win_rate", rate)):
        metrics |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    return {
        "metrics": {f"evaluation/{name}": value for name, value in metrics.items()},
        "files": {
            "evaluation.json": json.dumps({"models": {"policy": {"gold": policy.as_dict()}}}),
            "judgements.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        },
        **more,
    }
