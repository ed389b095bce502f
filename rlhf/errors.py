"""The errors that a person can do something about.

Each message says what is wrong, what was found and what to do. The command line prints it without a traceback and
exits with `exit_code`.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rlhf.addresses import with_public_addresses


def one_line(error: BaseException) -> str:
    """What a library's error says, on one line and without secrets in addresses; its name where it says nothing."""
    return with_public_addresses(" ".join(str(error).split())) or type(error).__name__


class RLHFError(Exception):
    """Base of every error that this project raises on purpose."""

    exit_code = 1


class InputError(RLHFError, ValueError):
    """Something that was given is wrong: a setting, a file, a model folder."""

    exit_code = 2


class ConfigError(InputError):
    """A setting that is unknown, ill-typed or at odds with another."""


class DataError(InputError):
    """A data set that cannot be used as it is."""


class ModelError(InputError):
    """A model folder that cannot be used as it is."""


class ArtifactMismatchError(RLHFError):
    """What a reference names is gone, or is not what was stored."""


class DiskSpaceError(InputError):
    """A disk has less room than a stage will need."""


class StartError(RLHFError):
    """A PPO run does not start where it must: KL 0 to the reference, ratio 1 on the first minibatch.

    Attributes:
        alarm: the setting of `rl.alarms` that holds what is allowed.
    """

    def __init__(self, alarm: str, message: str) -> None:
        super().__init__(message)
        self.alarm = alarm


class UnfitRewardModelError(RLHFError):
    """A reward model that no policy should be trained by."""

    def __init__(self, reasons: Sequence[str], run_id: str) -> None:
        super().__init__(
            f"no policy is trained, since a reward model is unfit: {'; '.join(reasons)}. The audit is MLflow run "
            f"{run_id}; look at the preferences, or set reward_audit.on_unfit to report to go on all the same"
        )


class TrainingDivergedError(RLHFError):
    """A loss that is not finite, or a quantity beyond its limit.

    Attributes:
        step: optimizer step or update at which it was seen.
        checkpoint: the last good checkpoint, where there is one.
    """

    def __init__(self, step: int, what: str, checkpoint: Path | None) -> None:
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint had been written yet"
        super().__init__(f"step {step}: {what}; {kept}. Lower the learning rate, or look at the data of that step")
        self.step = step
        self.checkpoint = str(checkpoint) if checkpoint else None


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like `name`."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def check_name(name: str, where: str) -> None:
    """Refuse a name that cannot be written into what is kept of a run, or that no system takes.

    Args:
        name: of a file, as Python has it.
        where: it stands, for the message.

    Raises:
        InputError: its bytes are not UTF-8, or one is NUL.
    """
    if "\0" in name:
        raise InputError(f"{name!r}, {where}: it holds a NUL, which ends a name; remove it")
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise InputError(f"{shown}, {where}: the name is not UTF-8; rename it (`ls -b` shows it)") from None
