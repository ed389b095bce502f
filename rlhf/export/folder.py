"""A policy as a folder that transformers, vLLM and other tools load as it is."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf.chat.policies import ChatPolicy
from rlhf.errors import InputError, ModelError
from rlhf.export.answers import NUM_PROMPTS, Questions, answers, first_difference, questions
from rlhf.files.atomic import install, staged

_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Copy:
    """A copy of a policy that answers as the policy does.

    Attributes:
        folder: it goes at the end of the block.
        asked: what both were asked.
        answers: token ids of each answer.
    """

    folder: Path
    asked: Questions
    answers: Sequence[Sequence[int]]


def export_folder(policy: ChatPolicy, destination: Path) -> int:
    """Copy a policy with its tokenizer, chat template, EOS token and card, and see that it answers as before.

    Args:
        policy: what is copied.
        destination: a folder that is not there, or empty.

    Returns:
        Number of prompts to which both gave the same tokens.

    Raises:
        InputError: there is something at the destination.
        ModelError: transformers cannot load it, or it answers otherwise. Nothing is left at the destination then.
    """
    check_free(destination)
    with copied(policy, destination) as copy:
        install(copy.folder, destination)
    return len(copy.answers)


@contextmanager
def copied(policy: ChatPolicy, beside: Path, num_prompts: int = NUM_PROMPTS) -> Iterator[Copy]:
    """A copy that was checked, in a temporary folder.

    Args:
        policy: what is copied.
        beside: a place, beside which the folder is made.
        num_prompts: how many prompts are asked.

    Raises:
        ModelError: transformers cannot load it, or it answers otherwise.
    """
    asked = questions(policy, num_prompts)
    before = answers(policy.folder, asked)
    with staged(beside) as folder:
        shutil.copytree(policy.folder, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        if not (folder / _TEMPLATE).is_file():
            raise ModelError(
                f"{policy.folder}: there is no {_TEMPLATE}, so nobody would know how to write a dialogue for it; "
                "export a policy that a run has made"
            )
        difference = first_difference(before, answers(folder, asked))
        if difference is not None:
            raise ModelError(f"{folder}: the copy does not answer as {policy.folder}: {difference}; look at the disk")
        yield Copy(folder, asked, before)


def check_free(destination: Path) -> None:
    """Refuse a place where something is.

    Raises:
        InputError: there is something.
    """
    if destination.is_dir() and not any(destination.iterdir()):
        return
    if destination.exists() or destination.is_symlink():
        raise InputError(f"{destination}: there is something of this name already; give another one, or remove it")
