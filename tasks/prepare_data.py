"""Data preparation."""

from rlhf import project
from rlhf.config import DataConfig, ModelConfig
from rlhf.references import DatasetRef, DataSource
from tasks.pipeline import current_pipeline
from tasks.stage import StageRun, stage


def prepare_data(config: DataConfig, model: ModelConfig, max_response_tokens: int) -> DatasetRef:
    """Find the data, and split, clean and report it unless that was done before."""
    from rlhf.data.source import resolve

    source = resolve(config, project.root())
    current_pipeline().record_source(source)
    return _prepare(config, model, max_response_tokens, source)


@stage("data", module="rlhf.data.prepare", makes=DatasetRef)
def _prepare(run: StageRun, config: DataConfig, model: ModelConfig, max_response_tokens: int, source: DataSource) -> None:
    """Validate, split, decontaminate, settle the tokenizer, cut to the context."""
    from rlhf.data.prepare import prepare_data

    prepare_data(config, model, max_response_tokens, source, project.root(), run.workspace)
