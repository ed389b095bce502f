"""Outcomes of checks of models' files, kept below `.rlhf/`, so that each check is made once.

Only what passed is kept: a model that was refused is looked at again the next time.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.paths import checked_models_folder


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
    path = _path(kind, key)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(verdict), encoding="utf-8")
        unfinished.replace(path)


def _path(kind: str, key: object) -> Path:
    digest = hashlib.sha256(json.dumps([kind, key], sort_keys=True).encode()).hexdigest()
    return checked_models_folder() / f"{kind}-{digest[:32]}.json"
