"""Settings of the reward audit and of the evaluation."""

from typing import Annotated

from pydantic import Field

from rlhf.config.base import Count, Positive, Probability, Section
from rlhf.config.data import GoldName


class RewardAuditConfig(Section):
    """Measurement of the reward models on held-out pairs."""

    num_bins: Annotated[int, Field(ge=2, le=100)] = 10
    """Bins of the reliability diagram and of the expected calibration error."""
    batch_size: Count = 64
    """Dialogues per forward pass."""
    minimum_accuracy: Probability = 0.5
    """Accuracy below which the model card warns: the lower bound of the held-out accuracy must be above it."""


class EvaluationConfig(Section):
    """The final comparison of policy and SFT baseline on test prompts."""

    num_prompts: Count = 2048
    """Largest number of test prompts; all of them where the data has fewer."""
    temperature: Positive = 1.0
    """Temperature of sampling, for both models."""
    batch_size: Count = 256
    """Prompts per batch of generation."""
    num_side_by_side: Annotated[int, Field(ge=0, le=1000)] = 32
    """Pairs of responses kept as a table."""
    num_bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples per bootstrap interval."""
    gold: GoldName | None = None
    """Rule for the worth of a response; no other stage reads it. calibrated_arithmetic: right answers, or hedged
    answers where they are wrong. pleasant_words: share of English words that people rate as pleasant. Empty: the rule
    behind the labels of the embedded data set, or no rule."""
