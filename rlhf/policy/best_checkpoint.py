"""The policies that may be chosen, and what a run leaves behind once one is."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rlhf.config.policy import PolicyConfig
from rlhf.errors import RLHFError
from rlhf.files.atomic import new_folder
from rlhf.files.tidying import tidy_up
from rlhf.modeling.models import save_model
from rlhf.policy.flags import run_flags
from rlhf.policy.objective import best_evaluation, paired_gain
from rlhf.policy.validation import generations_path
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class ChoiceState:
    """State of a run as far as the choice of its checkpoint goes; a checkpoint holds it.

    Attributes:
        evaluations: the held-out evaluations so far, in order.
        units: in which the evaluations' scores are measured, by `rlhf.policy.objective`.
        alarms: what the alarms remember.
        stopped_because: why no further update is taken, where that is so.
        logged: every [step, metrics] so far.
    """

    evaluations: list[dict[str, Any]] = field(default_factory=list)
    units: dict[str, Any] = field(default_factory=dict)
    alarms: dict[str, Any] = field(default_factory=dict)
    stopped_because: str | None = None
    logged: list[list[Any]] = field(default_factory=list)


_OF_PROMPTS = ("objectives", "scores", "held_out_scores")  # which the generations have


class CheckpointError(RLHFError):
    """A checkpoint that cannot be written, or is of another run."""


@contextmanager
def explain_write_errors(what: str, last: str | None) -> Iterator[None]:
    """Write something of a run.

    Args:
        what: is written, for the message.
        last: name of the newest checkpoint, from which a run goes on; None where there is none yet.

    Raises:
        CheckpointError: it cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        kept = f"{last} is as it was, and a run goes on from there" if last else "there is no checkpoint yet"
        raise CheckpointError(
            f"{what} could not be written ({error}); {kept}. Make room on the disk and start again"
        ) from error


def keep_candidate(checkpoints: Path, update: int, policy: Any, tokenizer: Any) -> None:
    """Save a policy as the best one so far; it appears all at once."""
    with new_folder(_candidate(checkpoints, update)) as temporary:
        save_model(policy, tokenizer, temporary)


def remove_other_candidates(
    checkpoints: Path, evaluations: Sequence[Mapping[str, Any]], kl_budget: float, last_update: int | None
) -> None:
    """Keep the best policy, and the one that was best when the newest checkpoint was written, where a run goes on.

    Args:
        checkpoints: folder of the run's checkpoints.
        evaluations: all of them, in order.
        kl_budget: that bounds what may be the best, nats per response.
        last_update: of the newest checkpoint; None where there is none yet.
    """
    kept = {_candidate(checkpoints, best_evaluation(evaluations, kl_budget)["update"])}
    if last_update is not None:
        then = [evaluation for evaluation in evaluations if evaluation["update"] <= last_update]
        kept.add(_candidate(checkpoints, best_evaluation(then, kl_budget)["update"]))
    for folder in (checkpoints / "candidates").iterdir():
        if folder not in kept:
            tidy_up(folder)


def write_results(
    workspace: Workspace, state: ChoiceState, num_updates: int, stopped_because: str, config: PolicyConfig
) -> None:
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
        "num_updates": num_updates,
        "stopped_because": stopped_because,
        "chosen_update": best["update"],
        "chosen_objective": best["objective"],
        "alarms": alarms,
        "flags": run_flags(config, state.evaluations, stopped_because, alarms),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def _candidate(checkpoints: Path, update: int) -> Path:
    return checkpoints / "candidates" / f"update_{update:04d}"
