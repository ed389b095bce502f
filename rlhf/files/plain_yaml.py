"""YAML without what makes a few lines stand for all memory: anchors, aliases, endless nesting, large texts."""

from pathlib import Path
from typing import Any

import yaml

from rlhf.errors import ConfigError
from rlhf.files.names import below

MAX_BYTES = 10**6
MAX_DEPTH = 32
_AGAIN = "anchors (&) and aliases (*) are not read; write the value out where it is used"


class RefusedYAMLError(yaml.MarkedYAMLError):
    """Sound YAML that is not read here; `problem` and `problem_mark` say what and where."""


class _Constructor:
    """Values that YAML takes and Python does not, such as the day 2025-13-01, are errors of their line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[misc]  # of the loader
        except (ValueError, OverflowError) as error:
            raise RefusedYAMLError(
                problem=f"{node.value!r:.60} is no value ({error})", problem_mark=node.start_mark
            ) from None


class PlainLoader(_Constructor, yaml.SafeLoader):
    """YAML's safe loader, in Python: its messages are the better ones."""


class FastPlainLoader(_Constructor, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader in C, where libyaml is installed."""


Loader = type[PlainLoader] | type[FastPlainLoader]


def load_yaml(text: str | bytes, kind: Loader = PlainLoader) -> Any:
    """The value of a text in YAML; None where the text is empty.

    Args:
        text: from anywhere.
        kind: which loader.

    Raises:
        yaml.YAMLError: it is no YAML, or one that is refused here.
    """
    return open_yaml(text, kind)[1]


def open_yaml(text: str | bytes, kind: Loader = PlainLoader) -> tuple[yaml.Node | None, Any]:
    """The nodes of a text in YAML, which know their lines, and its value.

    Raises:
        yaml.YAMLError: it is no YAML, or one that is refused here.
    """
    if len(text) > MAX_BYTES:
        raise RefusedYAMLError(problem=f"it has more than {MAX_BYTES // 10**6} MB, and settings are shorter")
    _refuse_what_grows(text, kind)
    loader = kind(text)
    try:
        node = loader.get_single_node()
        return node, loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()


def read_yaml_text(path: Path) -> str:
    """The text of a file, and of one that is too large no more than that takes.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1).decode("utf-8")


def read_yaml_below(root: Path, name: str, setting: str) -> tuple[Path, str]:
    """The path and the text of a file that a setting names below the project's root.

    Raises:
        ConfigError: it is not there, or not UTF-8.
        InputError: the path would leave the root.
    """
    path = below(root, name, setting)
    try:
        return path, read_yaml_text(path)
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: {error.strerror}; name a file that is there") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path} is not UTF-8; save it as UTF-8") from None


def _refuse_what_grows(text: str | bytes, kind: Loader) -> None:
    """Event by event, before anything is made of them."""
    depth = 0
    for event in yaml.parse(text, kind):
        mark: Any = event.start_mark  # Python's and C's are two types
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RefusedYAMLError(problem=_AGAIN, problem_mark=mark)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RefusedYAMLError(problem=f"it is nested more than {MAX_DEPTH} deep", problem_mark=mark)
