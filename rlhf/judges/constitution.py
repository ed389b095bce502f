"""Principles by which a model judges, or criticizes and revises: a file of the user's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import ConfigError, one_line
from rlhf.files.plain_yaml import open_yaml, read_yaml_below

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


@dataclass(frozen=True)
class Criteria:
    """What makes an answer good, by a file of texts.

    Attributes:
        name: of the file.
        content: of the file.
        texts: one for each criterion.
    """

    name: str
    content: str
    texts: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def within(self, form: str) -> str:
        """A question with all of them."""
        return form.format("\n".join(f"- {text}" for text in self.texts))


def read_criteria(name: str, root: Path) -> Criteria:
    """The criteria in a file, a list of texts in JSON or YAML.

    Args:
        name: below the root.
        root: the project's root.

    Raises:
        ConfigError: the file is not there, or holds something else.
    """
    setting = "evaluation.judge.criteria"
    _, content = read_yaml_below(root, name, setting)
    return Criteria(name, content, tuple(read_principles(name, root, setting)))


def read_principles(name: str, root: Path, setting: str = "constitution") -> list[str]:
    """The principles in a file, a list of texts in JSON or YAML.

    Args:
        name: below the root.
        root: the project's root.
        setting: that names the file, for messages.

    Raises:
        ConfigError: the file is not there, or holds something else.
    """
    path, node, values = _read(name, root, setting)
    if not isinstance(node, yaml.SequenceNode) or not values or len(values) > _MOST:
        raise ConfigError(f"{setting}: {path} holds no list of 1 to {_MOST:,} principles; write one text for each")
    for number, (principle, written) in enumerate(zip(values, node.value, strict=True), start=1):
        if not isinstance(principle, str) or not principle.strip():
            line = written.start_mark.line + 1
            raise ConfigError(f"{setting}: {path}:{line}: principle {number} is no text; write what is to be preferred")
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
    path, _, values = _read(name, root, "constitution")
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


def _read(name: str, root: Path, setting: str) -> tuple[Path, yaml.Node | None, Any]:
    path, text = read_yaml_below(root, name, setting)
    try:
        return path, *open_yaml(text)  # which reads JSON, too
    except yaml.YAMLError as error:
        raise ConfigError(f"{setting}: {path} is neither JSON nor YAML: {one_line(error)}; correct it there") from None
