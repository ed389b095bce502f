"""The policies that may be chosen, and what a run leaves behind once one is."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.config.rl import RLConfig
from rlhf.files.atomic import new_folder
from rlhf.files.tidying import tidy_up
from rlhf.modeling.models import save_model
from rlhf.rl.checkpoint import TrainerState, explain_write_errors, latest_checkpoint, number_of
from rlhf.rl.checks import run_flags
from rlhf.rl.objective import best_evaluation, paired_gain
from rlhf.rl.validation import generations_path
from rlhf.workspace import Workspace

_OF_PROMPTS = ("objectives", "scores")  # which the generations have


def keep_candidate(checkpoints: Path, update: int, policy: Any, tokenizer: Any) -> None:
    """Save a policy as the best one so far; it appears all at once.

    Raises:
        CheckpointError: it cannot be written, for instance because the disk is full.
    """
    final = _candidate(checkpoints, update)
    with explain_write_errors(f"the policy {final}", checkpoints), new_folder(final) as temporary:
        save_model(policy, tokenizer, temporary)


def remove_other_candidates(checkpoints: Path, evaluations: Sequence[Mapping[str, Any]], kl_budget: float) -> None:
    """Keep the best policy, and the one that was best when the newest checkpoint was written, where a run goes on."""
    kept = {_candidate(checkpoints, best_evaluation(evaluations, kl_budget)["update"])}
    last = latest_checkpoint(checkpoints)
    if last is not None:
        then = [evaluation for evaluation in evaluations if evaluation["update"] <= number_of(last)]
        kept.add(_candidate(checkpoints, best_evaluation(then, kl_budget)["update"]))
    for folder in (checkpoints / "candidates").iterdir():
        if folder not in kept:
            tidy_up(folder)


def write_results(workspace: Workspace, state: TrainerState, stopped_because: str, config: RLConfig) -> None:
    """Write the chosen policy, all evaluations with their generations, and a summary to the output."""
    best, output = best_evaluation(state.evaluations, config.kl_budget), workspace.output
    shutil.copytree(_candidate(workspace.checkpoints, best["update"]), output / "policy", dirs_exist_ok=True)
    (output / "generations").mkdir(parents=True, exist_ok=True)
    lines = []
    for evaluation in state.evaluations:
        generations = generations_path(workspace.checkpoints, evaluation["update"])
        shutil.copy(generations, output / "generations" / generations.name)
        gain = paired_gain(evaluation, state.evaluations[0])
        shown = {name: value for name, value in evaluation.items() if name not in _OF_PROMPTS}
        error = gain.standard_error if math.isfinite(gain.standard_error) else None
        shown |= {"gain": gain.mean, "gain_standard_error": error, "chosen": evaluation is best}
        lines.append(json.dumps(shown) + "\n")
    (output / "evaluations.jsonl").write_text("".join(lines))
    alarms = state.alarms.get("raised", [])
    summary = {
        "num_updates": state.next_update,
        "stopped_because": stopped_because,
        "chosen_update": best["update"],
        "chosen_objective": best["objective"],
        "alarms": alarms,
        "flags": run_flags(config, state.evaluations, stopped_because, alarms),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _candidate(checkpoints: Path, update: int) -> Path:
    return checkpoints / "candidates" / f"update_{update:04d}"
