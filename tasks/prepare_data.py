"""The task of data preparation."""

from dataclasses import dataclass

from rlhf.config.data import DataConfig
from rlhf.config.model import ComputeConfig, ModelConfig
from rlhf.paths import root
from rlhf.references import DatasetRef, DataSource, FeedbackRef, RevisionsRef
from tasks.pipeline_run import read_data
from tasks.stage import Attempt, stage


@dataclass(frozen=True)
class CollectedSoFar:
    """What a recipe's own stages have collected by now.

    Attributes:
        data: as it was prepared before that.
        parts: revised answers, and feedback of rounds.
        given_preferences: the preferences of the data are used as well.
    """

    data: DatasetRef
    parts: tuple[FeedbackRef | RevisionsRef, ...] = ()
    given_preferences: bool = True


def prepare_data(
    config: DataConfig,
    model: ModelConfig,
    max_response_tokens: int,
    compute: ComputeConfig,
    collected: CollectedSoFar | None = None,
) -> DatasetRef:
    """Find the data of this run, and make its splits and the tokenizer of it."""
    from rlhf.data.versions.resolve import resolve

    source = resolve(config, root())
    read_data(source)
    # Where no model is run, data is the same whatever it would be run on.
    computed_on = compute if config.sampled_from else None
    if collected is None:
        return _prepare(config, model, max_response_tokens, source, computed_on)
    return _prepare(
        config,
        model,
        max_response_tokens,
        source,
        computed_on,
        collected.parts,
        collected.given_preferences,
        collected.data,
    )


@stage("data", version="1", module="rlhf.data.preparation.prepare")
def _prepare(
    attempt: Attempt,
    config: DataConfig,
    model: ModelConfig,
    max_response_tokens: int,
    source: DataSource,
    compute: ComputeConfig | None,
    collected: tuple[FeedbackRef | RevisionsRef, ...] = (),
    given_preferences: bool = True,
    before: DatasetRef | None = None,
) -> DatasetRef:
    """Validate, split, decontaminate and cut the data, and settle the tokenizer. What has no responses is sampled."""
    from rlhf.data.preparation.prepare import Collected, prepare_data

    added = None
    if before is not None:
        folders = [attempt.path(part) for part in collected]
        added = Collected(folders, given_preferences, attempt.path(before) / "tokenizer")
    prepare_data(config, attempt.model(model), max_response_tokens, source, root(), attempt.workspace, compute, added)
    return attempt.save(DatasetRef, source=source)
