"""Principles by which a model judges, or criticizes and revises: a file of the user's own."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from rlhf.errors import ConfigError, one_line
from rlhf.files.plain_yaml import load_yaml, read_yaml_below

_MOST = 1000


@dataclass(frozen=True)
class CritiquePrinciple:
    """A principle of critique and revision.

    Attributes:
        name: for records.
        critique: request for what is wrong with an answer.
        revision: request for a better one.
    """

    name: str
    critique: str
    revision: str


def read_principles(name: str, root: Path) -> list[str]:
    """The principles in a file, a list of texts in JSON or YAML.

    Args:
        name: below the root.
        root: the project's root.

    Raises:
        ConfigError: the file is not there, or holds something else.
    """
    path, values = _read(name, root)
    if not isinstance(values, list) or not values or len(values) > _MOST:
        raise ConfigError(f"constitution: {path} holds no list of 1 to {_MOST:,} principles; write one text for each")
    for number, principle in enumerate(values, start=1):
        if not isinstance(principle, str) or not principle.strip():
            raise ConfigError(f"constitution: {path}: principle {number} is no text; write what is to be preferred")
    return [str(principle).strip() for principle in values]


def read_critiques(name: str, root: Path) -> list[CritiquePrinciple]:
    """The principles of critique and revision in a file.

    A mapping of names to `critique` and `revision`, or, as the paper's own file has them, to `prompt` (a text or a list
    of one) and `edit_request`.

    Args:
        name: below the root.
        root: the project's root.

    Raises:
        ConfigError: the file is not there, or holds something else.
    """
    path, values = _read(name, root)
    if not isinstance(values, dict) or not values or len(values) > _MOST:
        raise ConfigError(
            f"constitution: {path} holds no mapping of 1 to {_MOST:,} names to principles; write critique and revision "
            f"for each name"
        )
    return [_critique(str(title), value, path) for title, value in values.items()]


def _critique(name: str, value: object, path: Path) -> CritiquePrinciple:
    texts = []
    for ours, theirs in (("critique", "prompt"), ("revision", "edit_request")):
        found = value.get(ours, value.get(theirs)) if isinstance(value, dict) else None
        text = found[0] if isinstance(found, list) and len(found) == 1 else found
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"constitution: {path}: {name} has no text under {ours} (or {theirs}); write the request")
        texts.append(text.strip())
    return CritiquePrinciple(name, *texts)


def _read(name: str, root: Path) -> tuple[Path, object]:
    path, text = read_yaml_below(root, name, "constitution")
    try:
        return path, load_yaml(text)  # which reads JSON, too
    except yaml.YAMLError as error:
        raise ConfigError(f"constitution: {path} is neither JSON nor YAML: {one_line(error)}") from None
