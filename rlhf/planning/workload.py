"""How much data a run has, after its preparation or before it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.config.pipeline import PipelineConfig
from rlhf.data.embedded import EMBEDDED_FOLDER, generated
from rlhf.data.schema import REQUIRED_FIELDS, Row, pairs_of, read_rows
from rlhf.modeling.conversations import encode_rows
from rlhf.modeling.hub import base_with_folder
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.paths import root
from rlhf.planning.shape import Workload
from rlhf.planning.survey import DataSurvey, survey_data

_MOST_ROWS = 1000
_PAIRS_PER_PROMPT = 4
_SHARE_OF_RESPONSE = 0.6
"""Where the base writes the responses: pairs of a prompt, and tokens up to the last whole sentence."""


def prepared_workload(data: Path, tokenizer: Any) -> Workload:
    """The data of a run whose data stage is done.

    Args:
        data: its output.
        tokenizer: of the run.
    """
    prompts = {split: _rows(data, "prompts", split) for split in ("train", "validation", "test")}
    pairs = {
        split: [pair for row in _rows(data, "preferences", split) for pair in pairs_of(row)]
        for split in ("train", "selection", "test")
    }
    demonstrations = _rows(data, "demonstrations", "train")
    answered = [(row["prompt"], row["completion"]) for row in _some(demonstrations)]
    answered += [(pair["prompt"], pair[side]) for pair in _some(pairs["train"]) for side in ("chosen", "rejected")]
    encoded = encode_rows(tokenizer, [prompt for prompt, _ in answered], [[answer for _, answer in answered]])
    lengths = np.array([(len(row.prompt), len(row.answers[0])) for row in encoded])
    asked = [len(row.prompt) for row in encode_rows(tokenizer, [row["prompt"] for row in _some(prompts["train"])], [])]
    return Workload(
        demonstrations=len(demonstrations),
        preferences=len(pairs["train"]),
        selection_preferences=len(pairs["selection"]),
        test_preferences=len(pairs["test"]),
        validation_prompts=len(prompts["validation"]),
        test_prompts=len(prompts["test"]),
        prompt_tokens=float(lengths[:, 0].mean()),
        response_tokens=float(lengths[:, 1].mean()),
        longest=int(lengths.sum(1).max()),
        longest_prompt=max(asked),
        rows=sum(map(len, chain(prompts.values(), pairs.values()))) + len(demonstrations),
        prompts=len(prompts["train"]),
    )


def expected_workload(survey: DataSurvey, config: PipelineConfig) -> Workload:
    """The data of a run before its data stage: what its files hold, less what the recipe keeps apart or leaves out.

    Args:
        survey: of the files.
        config: the recipe.
    """
    data, most = config.data, config.data.max_rows or max(survey.num_demonstrations, survey.num_preferences, 1)
    preferences = min(survey.num_preferences, most)
    demonstrations = min(survey.num_demonstrations or preferences, most)
    prompts = min(survey.num_prompts, most) if data.max_rows else survey.num_prompts
    train = 1 - data.test_fraction - data.validation_fraction
    reported = data.test_fraction * (1 - data.gate_fraction)
    response = min(survey.response_tokens[1], config.model.max_length - 1)
    return Workload(
        demonstrations=round(train * demonstrations),
        preferences=round(train * preferences * (1 - data.selection_fraction)),
        selection_preferences=round(train * preferences * data.selection_fraction),
        test_preferences=round(reported * preferences),
        validation_prompts=round(data.validation_fraction * prompts),
        test_prompts=round(reported * prompts),
        prompt_tokens=float(min(survey.prompt_tokens[0], config.model.max_length - response)),
        response_tokens=float(min(survey.response_tokens[0], response)),
        longest=min(config.model.max_length, survey.prompt_tokens[1] + response),
        longest_prompt=min(survey.prompt_tokens[1], config.model.max_length - 1),
        rows=demonstrations + preferences + prompts,
        prompts=round(train * prompts),
    )


def survey_before(config: PipelineConfig) -> tuple[DataSurvey, int] | None:
    """The data of a recipe whose data stage has yet to run, and the size of its vocabulary.

    Returns:
        None where it cannot be known: a single file in a form that import reads, or a base on the hub.

    Raises:
        DataError: a row cannot be read.
        ModelError: the base cannot be read.
    """
    model = base_with_folder(config.model)
    if model.base is not None and not Path(model.base).is_dir():
        return None
    with _folder(config) as folder:
        if not folder.is_dir():
            return None
        tokenizer, _ = prepare_tokenizer(model, _texts(folder) if model.base is None else [])
        if config.data.sampled_from is not None:
            return _survey_prompts(folder, tokenizer, config), len(tokenizer)
        return survey_data(folder, tokenizer), len(tokenizer)


@contextmanager
def _folder(config: PipelineConfig) -> Iterator[Path]:
    """Where the files are; of an embedded set that is not here yet, a copy for as long as the block takes."""
    embedded = config.data.embedded
    if embedded is None:
        yield root() / config.data.path
    elif (root() / EMBEDDED_FOLDER / embedded).is_dir():
        yield root() / EMBEDDED_FOLDER / embedded
    else:
        with generated(embedded) as folder:
            yield folder


def _survey_prompts(folder: Path, tokenizer: Any, config: PipelineConfig) -> DataSurvey:
    """Of data whose responses the base will write: one demonstration and a few pairs for each prompt."""
    prompts = [row["prompt"] for _, row in read_rows(folder / "prompts.jsonl", "prompts")][: config.data.max_rows]
    lengths = np.array([len(row.prompt) for row in encode_rows(tokenizer, prompts[:_MOST_ROWS], [])])
    longest = config.max_response_tokens
    return DataSurvey(
        len(prompts),
        _PAIRS_PER_PROMPT * len(prompts),
        len(prompts),
        (int(np.median(lengths)), int(lengths.max())),
        (int(_SHARE_OF_RESPONSE * longest), longest),
    )


def _texts(folder: Path) -> Iterator[str]:
    """The texts that a vocabulary is made of."""
    for kind in ("demonstrations", "preferences"):
        file = folder / f"{kind}.jsonl"
        for _, row in read_rows(file, kind) if file.is_file() else ():
            yield from (message["content"] for name in REQUIRED_FIELDS[kind] for message in row[name])


def _rows(data: Path, kind: str, split: str) -> list[Row]:
    return [row for _, row in read_rows(data / kind / f"{split}.jsonl", kind)]


def _some(rows: list[Row]) -> list[Row]:
    """Rows that are evenly spaced."""
    return rows[:: max(1, -(-len(rows) // _MOST_ROWS))]
