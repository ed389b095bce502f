"""The task of data preparation."""

from rlhf.config.data import DataConfig
from rlhf.config.model import ComputeConfig, ModelConfig
from rlhf.paths import root
from rlhf.references import DatasetRef, DataSource
from tasks.pipeline_run import read_data
from tasks.stage import Attempt, stage


def prepare_data(
    config: DataConfig, model: ModelConfig, max_response_tokens: int, compute: ComputeConfig
) -> DatasetRef:
    """Find the data of this run, and make its splits and the tokenizer of it."""
    from rlhf.data.versions.resolve import resolve

    source = resolve(config, root())
    read_data(source)
    # Where no model is run, data is the same whatever it would be run on.
    return _prepare(config, model, max_response_tokens, source, compute if config.sampled_from else None)


@stage("data", version="1", module="rlhf.data.preparation.prepare")
def _prepare(
    attempt: Attempt,
    config: DataConfig,
    model: ModelConfig,
    max_response_tokens: int,
    source: DataSource,
    compute: ComputeConfig | None,
) -> DatasetRef:
    """Validate, split, decontaminate and cut the data, and settle the tokenizer. What has no responses is sampled."""
    from rlhf.data.preparation.prepare import prepare_data

    prepare_data(config, attempt.model(model), max_response_tokens, source, root(), attempt.workspace, compute)
    return attempt.save(DatasetRef, source=source)
