"""The task of supervised fine-tuning."""

from rlhf.config.model import Setup
from rlhf.config.supervised import SFTConfig
from rlhf.references import DatasetRef, ModelRef
from tasks.stage import Attempt, stage


@stage("sft", version="1", module="rlhf.supervised.sft")
def train_sft(attempt: Attempt, config: SFTConfig, setup: Setup, data: DatasetRef) -> ModelRef:
    """Fine-tune the base model on the demonstrations' completions."""
    from rlhf.supervised import sft

    sft.train_sft(config, attempt.setup(setup), attempt.path(data), attempt.workspace)
    return attempt.save(ModelRef)
