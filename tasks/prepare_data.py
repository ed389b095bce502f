"""The task of data preparation."""

from rlhf.config import DataConfig, ModelConfig
from rlhf.project import root
from rlhf.references import DatasetRef, DataSource
from tasks.pipeline import current
from tasks.stage import Attempt, stage


def prepare_data(config: DataConfig, model: ModelConfig, max_response_tokens: int) -> DatasetRef:
    """Find the data of this run, and make its splits and the tokenizer of it."""
    from rlhf.data.source import resolve

    source = resolve(config, root())
    current().read_data(source)
    return _prepare(config, model, max_response_tokens, source)


@stage("data", version="1", module="rlhf.data.prepare")
def _prepare(
    attempt: Attempt, config: DataConfig, model: ModelConfig, max_response_tokens: int, source: DataSource
) -> DatasetRef:
    """Validate, split, decontaminate and cut the data, and settle the tokenizer."""
    from rlhf.data.prepare import prepare_data

    prepare_data(config, attempt.model(model), max_response_tokens, source, root(), attempt.workspace)
    return attempt.save(DatasetRef, source=source)
