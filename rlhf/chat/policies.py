"""Policies to talk to, found by what a person names: a run, a version of a registered policy, or a folder."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from rlhf.errors import InputError
from rlhf.paths import stage_folder
from rlhf.references import ModelCardRef, ModelRef, PolicyRef, Reference, RewardModelsRef
from rlhf.runs.audit.target import find_target
from rlhf.runs.filters import Filters
from rlhf.runs.listing import list_runs
from rlhf.tracking.artifacts import OutputRemovedError, local_path, output_of
from rlhf.tracking.records import Condition
from rlhf.tracking.stores import open_store
from rlhf.tracking.tags import FINGERPRINT_TAG, PARENT_TAG, STAGE_TAG

logger = logging.getLogger(__name__)
SFT = "sft"
"""Names the SFT policy of the run that is talked to."""
_NEWEST = 50


@dataclass(frozen=True)
class ChatPolicy:
    """A policy that can be loaded.

    Attributes:
        title: for a person: `policy`, `SFT policy`.
        name: for a row of feedback: the run and the stage, or the folder.
        folder: weights and tokenizer.
        run_id: the pipeline run that it is of; None for a folder that no run here has made.
        settings: the run's settings by dotted name; none for such a folder.
        reward_models: the folder with the run's two reward models; None where there are none.
        is_sft: PPO found no better checkpoint, so it is the SFT policy.
    """

    title: str
    name: str
    folder: Path
    run_id: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    reward_models: Path | None = None
    is_sft: bool = False


def find_policy(text: str | None) -> ChatPolicy:
    """The policy that is meant.

    Args:
        text: run id or the beginning of one, a version, or a folder with a model; None for the newest finished run.

    Raises:
        InputError: there is no such policy, or nothing of it is left to talk to.
    """
    if text is None:
        return _policy_of(_newest_run())
    folder = Path(text)
    if not folder.is_dir():
        return _policy_of(find_target(text).run_id)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: there is no config.json here, so this is no model's folder; give the folder of one"
        )
    try:
        target = find_target(text)
    except InputError as error:
        logger.info("%s", error)
        return ChatPolicy(folder.name, str(folder), folder)
    return _policy_of(target.run_id, folder)


def find_beside(text: str, policy: ChatPolicy) -> ChatPolicy:
    """The policy that answers beside another.

    Args:
        text: `sft`, or what `find_policy` takes.
        policy: the other.

    Raises:
        InputError: there is no such policy.
    """
    if text != SFT:
        other = find_policy(text)
        return (
            replace(other, title=f"{other.title} of {str(other.run_id)[:8]}") if other.title == policy.title else other
        )
    if policy.run_id is None:
        raise InputError(
            f"{policy.folder}: no run in this MLflow store has made this model, so its SFT policy is not known; "
            "name the folder of another model in place of sft"
        )
    return _sft_policy(policy.run_id)


def _newest_run() -> str:
    rows = list_runs(open_store(), Filters(state="finished"), _NEWEST).rows
    if not rows:
        raise InputError("no run has finished yet; start with `rlhf run CONFIG`, or name a run that is under way")
    return rows[0].run_id


def _policy_of(run_id: str, folder: Path | None = None) -> ChatPolicy:
    """A run's policy; while PPO is under way its best so far, and before that the SFT policy."""
    if folder is not None:
        return _with_run(folder.name, str(folder), folder, run_id)
    folder = _output(run_id, "model_card", ModelCardRef) or _below(_output(run_id, "policy", PolicyRef), "policy")
    title = "policy"
    if folder is None:
        folder, title = _best_so_far(run_id), "policy, best so far"
    if folder is None:
        logger.warning("PPO of run %s has kept no policy yet, so this is the SFT policy", run_id[:8])
        return _sft_policy(run_id)
    return _with_run(title, f"{run_id}/policy", folder, run_id)


def _sft_policy(run_id: str) -> ChatPolicy:
    folder = _below(_output(run_id, SFT, ModelRef), "policy")
    if folder is None:
        raise InputError(
            f"run {run_id} has no SFT policy yet, or it was removed; wait for its stage sft (`rlhf runs` shows how far "
            "it is), or name another run"
        )
    return _with_run("SFT policy", f"{run_id}/sft", folder, run_id)


def _with_run(title: str, name: str, folder: Path, run_id: str) -> ChatPolicy:
    record = open_store().runs([run_id])[run_id]
    reward_models = _output(run_id, "reward_model", RewardModelsRef)
    is_sft = record.metrics.get("policy/chosen_update") == 0
    return ChatPolicy(title, name, folder, run_id, record.params, reward_models, is_sft)


def _output(run_id: str, stage: str, kind: type[Reference]) -> Path | None:
    """The verified output of a stage; None while there is none."""
    try:
        reference, _ = output_of(run_id, stage, kind)
    except OutputRemovedError:
        raise
    except InputError as error:
        logger.info("%s", error)
        return None
    return local_path(reference)


def _below(folder: Path | None, name: str) -> Path | None:
    return folder / name if folder is not None else None


def _best_so_far(run_id: str) -> Path | None:
    """The policy that PPO holds for the best one by now, on the machine that trains it."""
    conditions = [Condition("tag", PARENT_TAG, "=", run_id), Condition("tag", STAGE_TAG, "=", "policy")]
    for record in open_store().search(conditions, limit=1):
        kept = stage_folder("policy", record.tags[FINGERPRINT_TAG]) / "checkpoints" / "candidates"
        return max(kept.glob("update_????"), default=None)
    return None
