"""The interpreter and libraries of a run: those at hand where they match, else made from the run's lock file."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from rlhf.files.locks import lock_of, locked
from rlhf.paths import local_folder
from rlhf.provenance import lock_sha256, machine
from rlhf.runs.reproduction.plan import NotReproducibleError, ReproductionPlan

logger = logging.getLogger(__name__)
_COMPLETE = "complete"
_LAST_LINES = 15


def interpreter(plan: ReproductionPlan) -> Path:
    """The Python that the run is made again with.

    Raises:
        NotReproducibleError: the lock file does not resolve any more.
    """
    if is_this_environment(plan):
        return Path(sys.executable)
    python = _python(plan)
    name = f"{plan.record.lock_sha256[:16]}-{python.name}"
    folder = local_folder("environments") / name
    with locked(lock_of(folder)):
        if not (folder / _COMPLETE).is_file():
            _make(folder, python, plan)
    return folder / "bin" / "python"


def is_this_environment(plan: ReproductionPlan) -> bool:
    """Whether the lock is that of this checkout, and the libraries that are installed are those of the run."""
    now, then = machine(), plan.record.machine
    libraries = [name for name in then if name.startswith("version.")]
    same = all(now.get(name) == then[name] for name in libraries)
    return same and lock_sha256() == plan.record.lock_sha256 and _minor(now["python"]) == _minor(then["python"])


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _python(plan: ReproductionPlan) -> Path:
    """A Python of the run's minor version; this one where there is none, which the verdict then says."""
    wanted = f"python{_minor(plan.record.machine['python'])}"
    if wanted == f"python{sys.version_info.major}.{sys.version_info.minor}":
        return Path(getattr(sys, "_base_executable", sys.executable)).with_name(wanted)
    program = shutil.which(wanted)
    if program is None:
        logger.warning("%s is not on the path, so Python %s is used", wanted, sys.version.split()[0])
    return Path(program or sys.executable)


def _make(folder: Path, python: Path, plan: ReproductionPlan) -> None:
    """The last file that is written says that it is whole; what a kill left is made anew."""
    logger.info("making an environment from the lock file of MLflow run %s in %s", plan.run_id, folder)
    shutil.rmtree(folder, ignore_errors=True)
    program = str(python) if python.exists() else sys.executable
    _run([program, "-m", "venv", str(folder)], plan)
    lock = folder / "requirements.lock"
    lock.write_bytes(plan.lock)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, "install", "--requirement", str(lock)], plan)
    (folder / _COMPLETE).touch()


def _run(command: list[str], plan: ReproductionPlan) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = "\n".join(f"  {line}" for line in f"{done.stdout}{done.stderr}".strip().splitlines()[-_LAST_LINES:])
        raise NotReproducibleError(
            f"no environment can be made from the lock file of MLflow run {plan.run_id} (sha256 "
            f"{plan.record.lock_sha256}):\n{last}"
        )
