"""Supervised fine-tuning."""

from rlhf.config import SFTConfig, Setup
from rlhf.references import DatasetRef, ModelRef
from tasks.stage import StageRun, stage


@stage("sft", module="rlhf.sft", makes=ModelRef)
def train_sft(run: StageRun, config: SFTConfig, setup: Setup, data: DatasetRef) -> None:
    """Fine-tune the model on the demonstrations' completions."""
    from rlhf import sft

    sft.train_sft(config, setup, run.local(data), run.workspace)
