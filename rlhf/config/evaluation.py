"""Settings of the reward audit and of the evaluation."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, Positive, Probability, Section
from rlhf.config.data import GoldName
from rlhf.config.judge import EvaluationJudgeConfig


class RewardAuditConfig(Section):
    """Measurement of the reward models on held-out pairs."""

    num_bins: Annotated[int, Field(ge=2, le=100)] = 10
    """Bins of the reliability diagram and of the expected calibration error."""
    batch_size: Count = 64
    """Dialogues per forward pass."""
    minimum_accuracy: Probability = 0.5
    """Accuracy that a reward model must have: it is unfit where the interval is wholly below, and whether it is fit is
    unknown where the interval is not wholly above."""
    fit_accuracy: Probability = 0.6
    """Accuracy from which on a reward model is fit, and not weak, where the lower bound is above."""
    num_perturbed: Annotated[int, Field(ge=0)] = 400
    """Held-out pairs that are changed in ways that make no response better, such as repetition, or a word
    that is added. 0: none are."""
    maximum_flip_rate: Probability = 0.5
    """Share of right preferences that such a change may overturn: a reward model is unfit where the interval is wholly
    above, and weak where it is wholly above half of it."""
    learning_curve: bool = False
    """Whether reward models are trained on an eighth, a quarter and a half of the pairs as well, which takes seven
    eighths of the reward model's training once more, to say whether more labels would help."""
    on_unfit: Literal["stop", "report"] = "stop"
    """Whether a run stops where a reward model is unfit, before a policy is trained by it, or only says so."""

    @model_validator(mode="after")
    def _thresholds_are_in_order(self) -> Self:
        if self.fit_accuracy < self.minimum_accuracy:
            raise ValueError(
                f"fit_accuracy is {self.fit_accuracy:g}, below minimum_accuracy ({self.minimum_accuracy:g}); raise it"
            )
        if not self.num_perturbed and self.maximum_flip_rate != 0.5:
            raise ValueError("maximum_flip_rate is set but num_perturbed is 0, so it would be ignored; drop it")
        return self


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
    best_of_n: Annotated[int, Field(ge=0, le=4096)] = 0
    """Responses sampled from the SFT policy to each validation prompt (N), of which the best n = 1, 2, 4, ..., N by the
    reward model's score are set beside the policy, as the cheap way to the same distance. 0: none."""
    smallest_set_change: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Change of a share, against the SFT baseline, that an evaluation set of the data should be able to show. Where
    a set has too few prompts for it, the report says how many it takes."""
    gold: GoldName | None = None
    """Rule for the worth of a response; no other stage reads it. calibrated_arithmetic: right answers, or hedged
    answers where they are wrong. pleasant_words: share of English words that people rate as pleasant. Empty: the rule
    behind the labels of the embedded data set, or no rule."""
    judge: EvaluationJudgeConfig | None = None
    """A model that judges beside them. Empty: none. It is never the one whose verdict is the headline, and no gate."""
    references: bool = False
    """Whether the policy's answers are compared with reference answers as well: the completions of the data's test
    demonstrations."""

    @model_validator(mode="after")
    def _best_of_one_is_none(self) -> Self:
        if self.best_of_n == 1:
            raise ValueError("best_of_n is 1, of which nothing is best; set it to 2 or more, such as 64, or to 0")
        return self
