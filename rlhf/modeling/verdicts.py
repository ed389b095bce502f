"""Outcomes of checks of models' files, kept below `.rlhf/`, so that each check is made once.

Only what passed is kept: a model that was refused is looked at again the next time.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.files.atomic import write_file
from rlhf.paths import local_folder


def recall(kind: str, key: object) -> Any | None:
    """Outcome that was kept under a key, or None.

    Args:
        kind: which check it was.
        key: JSON that decides the outcome of the check.
    """
    try:
        return json.loads(_path(kind, key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def keep(kind: str, key: object, verdict: object) -> None:
    """Keep the outcome of a check. Where that cannot be written, the check is made again the next time."""
    with suppress(OSError):
        write_file(_path(kind, key), json.dumps(verdict))


def _path(kind: str, key: object) -> Path:
    digest = hashlib.sha256(json.dumps([kind, key], sort_keys=True).encode()).hexdigest()
    return local_folder("models") / f"{kind}-{digest[:32]}.json"
