"""A working tree of its own with a run's code, data, models and configuration: a project root like any other."""

import logging
import shutil
from pathlib import Path
from typing import Any

import yaml

from rlhf.config.pipeline import METHOD_SECTIONS
from rlhf.data.versions.repository import TRACKED
from rlhf.earlier_names import recorded_setting
from rlhf.files.git import GitError, git
from rlhf.files.hashing import dvc_md5
from rlhf.paths import root, source_root
from rlhf.runs.reproduction.plan import NotReproducibleError, ReproductionPlan, bases_of, is_elsewhere, reads_data

logger = logging.getLogger(__name__)
CONFIG_FILE = "reproduced.yaml"


def make_tree(plan: ReproductionPlan, folder: Path) -> Path:
    """Check a run's commit out, apply its patch, and put its data, models and configuration there.

    Args:
        plan: what is to be made again.
        folder: where the tree is to be; it must not be there.

    Returns:
        The folder.

    Raises:
        NotReproducibleError: the patch does not apply.
        DataError: the data cannot be had.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    git(source_root(), "worktree", "add", "--quiet", "--detach", str(folder), plan.commit)
    if plan.patch:
        _apply(plan, folder)
    settings = _with_models(plan, folder)
    if reads_data(plan.stage):
        settings["data"]["path"] = _put_data(plan, folder)
    if plan.num_threads is not None:
        settings["compute"]["num_threads"] = plan.num_threads
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return folder


def remove_tree(folder: Path) -> None:
    """Remove a tree and all that was made in it."""
    shutil.rmtree(folder)
    git(source_root(), "worktree", "prune")


def _apply(plan: ReproductionPlan, folder: Path) -> None:
    try:
        git(folder, "apply", "--binary", "--whitespace=nowarn", "-", given=plan.patch)
    except GitError as error:
        raise NotReproducibleError(
            f"the patch of MLflow run {plan.run_id} does not apply to commit {plan.commit}: {error.reason}"
        ) from None


def _with_models(plan: ReproductionPlan, folder: Path) -> dict[str, Any]:
    """The settings, with models that lie below the project's root linked to; those of the hub at their commits."""
    settings: dict[str, Any] = yaml.safe_load(yaml.safe_dump(dict(plan.settings)))
    for setting, path in bases_of(plan.record, plan.settings):
        link = folder / path
        if not link.resolve().is_relative_to(folder.resolve()):
            _set(settings, setting, str((root() / path).resolve()))
        elif not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((root() / path).resolve(), target_is_directory=True)
    base = plan.record.bases.get("model.base")
    if base is not None and base.revision is not None:
        settings["model"]["revision"] = base.revision
    rounds = {f"rounds.{number}.": choice for number, choice in enumerate(settings.get("rounds", ()))}
    for place, choice in {**rounds, "": settings}.items():
        section = METHOD_SECTIONS[choice.get("method", "ppo")]
        for number, source in enumerate(choice[recorded_setting(section, choice)]["rewards"]):
            base = plan.record.bases.get(f"{place}{section}.rewards.{number}.path")
            if base is not None and base.revision is not None:
                source["revision"] = base.revision
    return settings


def _set(settings: Any, name: str, value: str) -> None:
    """Set a setting by its dotted name, in which a number stands for an item of a list."""
    *sections, last = name.split(".")
    for section in sections:
        settings = settings[int(section)] if isinstance(settings, list) else settings[section]
    settings[last] = value


def _put_data(plan: ReproductionPlan, folder: Path) -> str:
    """Bring the data that the run read into the tree. Returns what `data.path` has to be there."""
    data = plan.record.data
    assert data is not None, "a plan without data was refused"
    if data.embedded is not None and data.path != TRACKED and not is_elsewhere(plan.record, plan.settings):
        return str(plan.settings["data"]["path"])  # which is not read: the run generates its data
    if is_elsewhere(plan.record, plan.settings):
        return str((root() / plan.settings["data"]["path"]).resolve())
    destination = folder / "data"
    if data.embedded is None:
        from rlhf.data.versions.stores import check_out

        check_out(data.md5, destination, root())
    elif (root() / "data").is_dir() and dvc_md5(root() / "data") == data.md5:
        shutil.copytree(root() / "data", destination)
    # Else the run generates it, and checks the md5.
    meta = {"generator": data.embedded, "md5": data.md5} if data.embedded else None
    tracked = {"outs": [{"md5": data.md5, "hash": "md5", "path": "data"}]} | ({"meta": meta} if meta else {})
    (folder / "data.dvc").write_text(yaml.safe_dump(tracked, sort_keys=False), encoding="utf-8")
    return "data"
