"""Prefect's stored result of a stage, looked at before Prefect reads it.

A result file says itself by which serializer it is to be read, pickle among them, and its JSON names classes that
Prefect imports and calls. Whoever can write the file would run code, so one that is not as this project writes it is
removed unread; MLflow has the record of what was made.
"""

import json
import logging
from pathlib import Path
from typing import Any

from prefect.serializers import JSONSerializer

from rlhf.files.names import open_regular
from rlhf.references import Reference

logger = logging.getLogger("rlhf.stage")
_LARGEST = 10**6


def remove_if_foreign(path: Path, kind: type[Reference]) -> None:
    """Remove a result file that is not the JSON of a reference of this kind.

    Args:
        path: where Prefect would read it; there may be nothing.
        kind: what the stage returns.
    """
    if not path.is_symlink() and not path.is_file():
        return
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        with open_regular(path) as file:
            _check(json.loads(file.read(_LARGEST)), kind)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        path.unlink()
        logger.warning("%s: this is no result of a stage (%.200s); it was removed unread", path, error)


def _check(record: Any, kind: type[Reference]) -> None:
    if record.keys() != {"metadata", "result"}:
        raise ValueError("it has other parts than metadata and result")
    serializer = record["metadata"]["serializer"]
    if serializer != JSONSerializer().model_dump():
        raise ValueError(f"it asks for the serializer {serializer}")
    result = json.loads(record["result"])
    if result.keys() != {"__class__", "data"} or result["__class__"] != f"{kind.__module__}.{kind.__qualname__}":
        raise ValueError(f"it is no {kind.__name__}")
    kind.model_validate(result["data"])
