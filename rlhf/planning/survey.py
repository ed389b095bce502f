"""Surveys of a data folder, a base model and a machine: the facts that a recipe's settings follow from."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rlhf.config.model import ModelConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import Row, pairs_of, read_rows
from rlhf.errors import ConfigError, DataError, InputError
from rlhf.modeling.conversations import encode_rows
from rlhf.modeling.device import best_device
from rlhf.modeling.files import local_files
from rlhf.modeling.hub import base_with_folder
from rlhf.modeling.run_models import check_models
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.planning.shape import ModelShape, first, shape_in

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MOST_ROWS = 2000
"""Rows whose lengths are measured in tokens, evenly spaced over the file."""


@dataclass(frozen=True)
class DataSurvey:
    """A data folder, in tokens of a base model.

    Attributes:
        num_demonstrations: rows.
        num_preferences: pairs and rankings.
        num_prompts: different prompts of all files.
        prompt_tokens: of a median prompt, and of one in a hundred.
        response_tokens: of a median response with its EOS, and of one in twenty.
    """

    num_demonstrations: int
    num_preferences: int
    num_prompts: int
    prompt_tokens: tuple[int, int]
    response_tokens: tuple[int, int]


@dataclass(frozen=True)
class ModelSurvey:
    """A base model.

    Attributes:
        base: folder or hub id.
        shape: its sizes.
        context: tokens that it reads; None where its config.json does not say.
        tokenizer: as a run prepares it.
    """

    base: str
    shape: ModelShape
    context: int | None
    tokenizer: Any


@dataclass(frozen=True)
class Machine:
    """Where a recipe is to run.

    Attributes:
        device: cpu or cuda.
        memory: bytes, of the device.
        num_threads: physical cores of the CPU.
    """

    device: str
    memory: int
    num_threads: int


def survey_data(folder: Path, tokenizer: Any) -> DataSurvey:
    """Read a data folder.

    Args:
        folder: demonstrations.jsonl, preferences.jsonl and perhaps prompts.jsonl.
        tokenizer: of the base model.

    Raises:
        DataError: a file cannot be read, or there are no preferences.
        InputError: the folder is not there, or holds no such files.
    """
    if not folder.is_dir() or not (folder / "preferences.jsonl").is_file():
        raise InputError(
            f"{folder}: there is no folder with preferences.jsonl; `rlhf data import FILE` makes one of a file of "
            "preferences, and --data names another folder"
        )
    preferences = [row for _, row in read_rows(folder / "preferences.jsonl", "preferences")]
    demonstrations = _rows(folder, "demonstrations")
    prompts = {prompt_key(row["prompt"]) for row in (*preferences, *demonstrations, *_rows(folder, "prompts"))}
    lengths = list(_lengths([*demonstrations, *_chosen(preferences)], tokenizer))
    if not lengths:
        raise DataError(f"{folder}: no row has a response; import the data again")
    asked, answered = (np.array(column) for column in zip(*lengths, strict=True))
    return DataSurvey(
        len(demonstrations),
        len(preferences),
        len(prompts),
        (int(np.median(asked)), int(np.quantile(asked, 0.99, method="higher"))),
        (int(np.median(answered)), int(np.quantile(answered, 0.95, method="higher"))),
    )


def survey_model(model: ModelConfig) -> ModelSurvey:
    """Read a base model's files, without its weights.

    Raises:
        ModelError: it cannot be a base.
    """
    check_models(model, ())
    folder = Path(base_with_folder(model).base or "")
    config = json.loads(local_files(folder).read_settings()["config.json"])
    tokenizer, _ = prepare_tokenizer(model, ())
    context = first(config, "max_position_embeddings", "n_positions", "n_ctx")
    return ModelSurvey(str(model.base), shape_in(folder), context, tokenizer)


def this_machine() -> Machine:
    """The device that is there, and its memory."""
    device, threads = best_device(), psutil.cpu_count(logical=False) or 1
    return Machine(device, memory_of(device), threads)


def memory_of(device: str) -> int:
    """Bytes of a CUDA device; of the CPU what the machine, or the container around this process, has.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("compute.device is cuda, but torch finds no CUDA device; set it to cpu")
        return int(torch.cuda.get_device_properties(0).total_memory)
    total: int = psutil.virtual_memory().total
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else "max"
    return min(total, int(limit)) if limit.isdigit() else total


def _rows(folder: Path, kind: str) -> list[Row]:
    file = folder / f"{kind}.jsonl"
    return [row for _, row in read_rows(file, kind)] if file.is_file() else []


def _chosen(preferences: list[Row]) -> Iterator[Row]:
    for row in preferences:
        for pair in pairs_of(row):
            yield {"prompt": pair["prompt"], "completion": pair["chosen"]}


def _lengths(rows: list[Row], tokenizer: Any) -> Iterator[tuple[int, int]]:
    """Tokens of prompt and response, of rows that are evenly spaced."""
    kept = rows[:: max(1, -(-len(rows) // _MOST_ROWS))]
    for row in encode_rows(tokenizer, [row["prompt"] for row in kept], [[row["completion"] for row in kept]]):
        yield len(row.prompt), len(row.answers[0])
