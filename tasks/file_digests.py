"""Files of the user's that a stage reads, as far as a fingerprint knows them: their digests."""

from rlhf.errors import ConfigError
from rlhf.files.hashing import sha256
from rlhf.files.names import below
from rlhf.paths import root


def digest(setting: str, name: str) -> str:
    """The sha256 of a file below the project's root.

    Args:
        setting: that names the file.
        name: its path.

    Raises:
        ConfigError: there is no such file.
    """
    path = below(root(), name, setting)
    if not path.is_file():
        raise ConfigError(f"{setting}: {path}: there is no such file; name one that is there, below the project's root")
    return sha256(path)
