"""Principles by which a model judges: a file of the user's own."""

from pathlib import Path

import yaml

from rlhf.errors import ConfigError, one_line
from rlhf.files.names import below
from rlhf.files.plain_yaml import load_yaml, read_yaml_text

_MOST = 1000


def read_principles(name: str, root: Path) -> list[str]:
    """The principles in a file, a list of texts in JSON or YAML.

    Args:
        name: below the root.
        root: the project's root.

    Raises:
        ConfigError: the file is not there, or holds something else.
    """
    path = below(root, name, "constitution")
    try:
        values = load_yaml(read_yaml_text(path))  # which reads JSON, too
    except OSError as error:
        raise ConfigError(f"constitution: {path}: {error.strerror}; name a file that is there") from None
    except UnicodeDecodeError:
        raise ConfigError(f"constitution: {path} is not UTF-8; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"constitution: {path} is neither JSON nor YAML: {one_line(error)}") from None
    if not isinstance(values, list) or not values or len(values) > _MOST:
        raise ConfigError(f"constitution: {path} holds no list of 1 to {_MOST:,} principles; write one text for each")
    for number, principle in enumerate(values, start=1):
        if not isinstance(principle, str) or not principle.strip():
            raise ConfigError(f"constitution: {path}: principle {number} is no text; write what is to be preferred")
    return [str(principle).strip() for principle in values]
