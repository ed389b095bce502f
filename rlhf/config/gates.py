"""Settings of the gates that a run's own figures must pass."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from rlhf.config.base import Section


class FigureGate(Section):
    """A limit that a figure of the reward audit or of the evaluation must keep, with its whole 95% interval."""

    figure: Annotated[str, Field(max_length=200)]
    """Name of the metric, such as evaluation/kl; any that has an interval."""
    at_least: float | None = None
    """Smallest lower end of the interval."""
    at_most: float | None = None
    """Largest upper end of the interval."""

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"the gate of {self.figure} needs a limit: give either at_least or at_most")
        return self
