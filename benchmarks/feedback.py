"""Feedback in rounds against all of it at once, and a judge's labels against people's, on the embedded default.

    python -m benchmarks.feedback              # three recipes, three seeds each: an hour and a half on two cores
    python -m benchmarks.feedback --seeds 0    # one seed

Simulated raters and a simulated judge with the same rate of errors compare as many answers in each recipe, and no given
preference is used. What counts is the gold rule, which they know and no training does. Only results are measured, no
times, so the machine may be busy. A recipe and seed that is done is not run again, but for --fresh.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.plan import make_project, rlhf
from benchmarks.readme import table, write_part
from benchmarks.records import RESULTS, ROOT, measure_missing
from rlhf.config.feedback import AskConfig
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.data.schema import Row
from rlhf.feedback.ask import Author, Sampling, different_prompts, make_comparisons
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.stage import accuracy_of_reward_models
from rlhf.gold.calibrated_arithmetic import judge_arithmetic
from rlhf.paths import in_project
from rlhf.references import DatasetRef, PolicyRef, RewardModelsRef
from rlhf.tracking.artifacts import local_path, output_of

FILE = RESULTS / "feedback.json"
ARMS = {
    "three rounds": "three rounds of 1,000 comparisons, each about the newest policy",
    "one round": "one round of 3,000, all about the SFT policy",
    "judge": "the same by a judge's labels alone, which 200 of people's measure",
}
_NUM_PAIRS, _NUM_UPDATES = 1000, 16
_ERRORS = 0.05
_JUDGED = 600
"""Comparisons of the final policy's answers on which its reward model is measured."""


def recipe(arm: str, seed: int) -> dict[str, Any]:
    """The settings of a recipe, with as many comparisons and updates as the others."""
    values = load_config(ROOT / "configs" / "online.yaml").model_dump(mode="json") | {"name": arm.replace(" ", "-")}
    asked = {"simulated": {"num_raters": 4, "error_rate": _ERRORS}, "num_responses": 4, "given_preferences": "dropped"}
    in_rounds = arm == "three rounds"
    rl = values["rl"] | {"num_updates": _NUM_UPDATES if in_rounds else 3 * _NUM_UPDATES}
    feedback: dict[str, Any] = asked | {"num_pairs": _NUM_PAIRS if in_rounds else 3 * _NUM_PAIRS}
    if arm == "judge":
        feedback["judge"] = {
            "constitution": "configs/constitution/principles.yaml",
            "simulated": {"error_rate": _ERRORS, "position_bias": 0.0},
            "num_measured": 200,
        }
    first = {"method": "ppo", "rl": rl, "feedback": feedback}
    rounds = [first, first | {"start": "previous"}] if in_rounds else []
    values |= {"seed": seed, "rounds": rounds, "start": "previous" if in_rounds else "sft"}
    return values | {"rl": rl, "feedback": feedback, "registered": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", help=f"{', '.join(ARMS)} [default: all]")
    parser.add_argument("--seeds", default="0,1,2", help="[default: 0,1,2]")
    parser.add_argument("--fresh", action="store_true", help="run again what is done")
    options = parser.parse_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"there is no recipe {min(unknown)}; there are {', '.join(ARMS)}")
    with tempfile.TemporaryDirectory(prefix="rlhf-feedback-") as folder:
        root = Path(folder) / "project"
        make_project(root)
        cells = [(arm, seed) for seed in map(int, options.seeds.split(",")) for arm in options.arms or ARMS]
        rows = measure_missing(FILE, cells, partial(measure, root), fresh=options.fresh)
    write_part("feedback", part(rows))
    print(part(rows))


def measure(root: Path, arm: str, seed: int) -> dict[str, Any]:
    """Run a recipe, and look at its policy and the reward model that it had last."""
    settings = recipe(arm, seed)
    config = PipelineConfig.model_validate(settings)
    file = root / "configs" / "measured.yaml"
    # Rounds share their settings here; in the file each has its own, since references are not read.
    file.write_text(yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False))
    report = json.loads(rlhf(root, "run", str(file.relative_to(root)), "--json"))
    metrics = report["metrics"]
    return {
        **{name: metrics[f"evaluation/{name}"] for name in ("gold_gain", "gold_gain_low", "gold_gain_high", "kl")},
        "policy_gold": metrics["evaluation/policy_gold"],
        **_accuracy(root, config, report["run_id"]),
        "rounds": {
            stage["name"]: stage["trained_seconds"] for stage in report["stages"] if stage["name"] != "model_card"
        },
    }


def _accuracy(root: Path, config: PipelineConfig, run_id: str) -> dict[str, float]:
    """How often the last reward model prefers the better of two answers of the final policy, with its interval."""
    with in_project(root):
        policy = local_path(output_of(run_id, "policy", PolicyRef)[0]) / "policy"
        reward_models = local_path(output_of(run_id, "reward_model", RewardModelsRef)[0])
        data = local_path(output_of(run_id, "data", DatasetRef)[0])
    sampling = Sampling(config.compute, 256, config.model.max_length, config.max_response_tokens)
    ask = AskConfig(round="measured", num_pairs=_JUDGED, num_responses=8, seed=config.seed)
    prompts = different_prompts(data / "prompts" / "test.jsonl")
    author = Author("policy", policy, reward_models)
    asked = make_comparisons(sampling, ask, [author], prompts)
    gold = [judge_arithmetic([one.prompt] * 2, one.responses).rewards for one in asked]
    decided = [(one, rewards) for one, rewards in zip(asked, gold, strict=True) if rewards[0] != rewards[1]]
    rows = [_row(one, 0 if rewards[0] > rewards[1] else 1) for one, rewards in decided]
    accuracy = accuracy_of_reward_models(author, rows, sampling)["reward_model_accuracy"]
    return {
        "reward_model_accuracy": accuracy.value,
        "reward_model_accuracy_low": accuracy.low,
        "reward_model_accuracy_high": accuracy.high,
        "num_decided": len(decided),
    }


def _row(comparison: Comparison, better: int) -> Row:
    texts = [[{"role": "assistant", "content": text}] for text in comparison.responses]
    return {"prompt": comparison.prompt, "chosen": texts[better], "rejected": texts[1 - better]}


def part(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, by recipe and seed, and what differs between recipes of one seed."""
    cells = [
        [
            key,
            f"{row['gold_gain']:+.3f} ({row['gold_gain_low']:+.3f} to {row['gold_gain_high']:+.3f})",
            f"{row['kl']:.1f}",
            f"{row['reward_model_accuracy']:.1%} ({row['reward_model_accuracy_low']:.1%} to "
            f"{row['reward_model_accuracy_high']:.1%})",
        ]
        for key, row in sorted(rows.items())
    ]
    header = ["recipe", "gain of gold reward over SFT (95%)", "KL", "reward model on the final policy's answers (95%)"]
    words = "\n".join(f"- {arm}: {what}" for arm, what in ARMS.items())
    return "\n\n".join([words, table(header, cells), *_ratios(rows)])


def _ratios(rows: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    said = []
    for first, second in (("three rounds", "one round"), ("judge", "one round")):
        gains = [
            (rows[key]["gold_gain"], rows[f"{second}, seed {seed}"]["gold_gain"])
            for key in sorted(rows)
            if key.startswith(f"{first}, seed ") and f"{second}, seed {(seed := key.rpartition(' ')[2])}" in rows
        ]
        if gains:
            ratios = [one / other for one, other in gains]
            shown = ", ".join(f"{ratio:.0%}" for ratio in ratios)
            said.append(f"Gain of {first} as a share of that of {second}: {shown}, mean {np.mean(ratios):.0%}.")
    return said


if __name__ == "__main__":
    main()
