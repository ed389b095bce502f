"""Settings of best-of-n: the best of several responses to each prompt becomes a demonstration."""

from typing import Annotated

from pydantic import Field

from rlhf.config.base import Count
from rlhf.config.offline import OfflineConfig
from rlhf.config.policy import EvaluationAlarms


class BestOfNConfig(OfflineConfig):
    """Best-of-n, or rejection sampling (Llama 2, 2307.09288, 3.2.3): sample, rank, fine-tune the SFT policy."""

    num_samples: Annotated[int, Field(ge=2)] = 8
    """Responses sampled per prompt (n), of which the one with the best score is learned."""
    num_prompts: Count | None = None
    """Training prompts that are answered, drawn by the seed. Empty: all."""
    alarms: EvaluationAlarms = EvaluationAlarms()
    """Thresholds at which training says that something is wrong."""
