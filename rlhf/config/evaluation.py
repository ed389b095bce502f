"""Settings of the reward audit and of the evaluation."""

from typing import Annotated

from pydantic import Field

from rlhf.config.base import Count, Positive, Probability, Section
from rlhf.config.data import GoldName


class RewardAuditConfig(Section):
    """What is measured of the reward models on held-out pairs."""

    num_bins: Annotated[int, Field(ge=2, le=100)] = 10
    """Bins of the reliability diagram and of the expected calibration error."""
    batch_size: Count = 64
    """Dialogues a forward pass."""
    minimum_accuracy: Probability = 0.5
    """The model card warns where the lower bound of the held-out accuracy is not above this."""


class EvaluationConfig(Section):
    """The final comparison of policy and SFT baseline on test prompts."""

    num_prompts: Count = 2048
    """Test prompts, at most; fewer where the data has fewer."""
    temperature: Positive = 1.0
    """Temperature of sampling, for both models."""
    batch_size: Count = 256
    """Prompts a generation batch."""
    num_side_by_side: Annotated[int, Field(ge=0, le=1000)] = 32
    """Pairs of responses kept as a table."""
    num_bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples behind a bootstrap interval."""
    gold: GoldName | None = None
    """Rule that says what each response is worth; no other stage reads it. calibrated_arithmetic: right answers,
    hedged where they are wrong. pleasant_words: share of words that people rate as pleasant, in English. Empty: the
    rule behind the labels of the embedded data set, or none."""
