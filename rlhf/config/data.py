"""Settings of the data."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.config.base import Count, Section

EmbeddedName = Literal["calibrated_arithmetic", "stories"]
GoldName = Literal["calibrated_arithmetic", "pleasant_words"]
RULE_BEHIND: Mapping[EmbeddedName, GoldName] = {
    "calibrated_arithmetic": "calibrated_arithmetic",
    "stories": "pleasant_words",
}
"""The gold rule that labels the pairs of an embedded data set."""


class DataConfig(Section):
    """Place of the data, and its splits."""

    path: str = "data"
    """Folder with demonstrations.jsonl, preferences.jsonl, prompts.jsonl and datasheet.md, or one file of
    preferences. `data` is the folder that DVC tracks. Not read where embedded names a set."""
    embedded: EmbeddedName | None = None
    """Embedded data set, generated into `embedded/NAME` where that folder is missing. calibrated_arithmetic: sums, with
    demonstrations and preferences. stories: only prompts (see sampled_from). Empty: path holds your own data."""
    sampled_from: Literal["base"] | None = None
    """Writer of the demonstrations and of the compared responses where the embedded set has only prompts. base:
    model.base, which the data stage samples. Empty: the data has responses."""
    allow_dirty_data: bool = False
    """Permission to run although data/ differs from data.dvc. The run is then marked as not reproducible."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of prompts (by hash) that no stage trains on. Only reported figures use them, and gate_fraction takes a
    part of them away."""
    gate_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """Share of the test prompts (by hash) on which retraining decides whether a candidate becomes the champion. No
    report uses them. Without retraining they are only kept aside."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of prompts (by hash) on which training is watched and the checkpoint is chosen."""
    selection_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the training prompts (by hash) whose preferences train only the selection reward model."""
    max_rows: Count | None = None
    """Number of rows of each file that are used, from the first on, for trials. Where responses are sampled: number of
    prompts. Empty: all rows."""
    overlong: Literal["error", "drop"] = "error"
    """Treatment of a row whose last turn alone is longer than model.max_length. error: the run stops and names the row.
    drop: the row is left out and counted."""

    ties: Literal["drop", "soft_label"] = "drop"
    """Treatment of two answers that raters ranked as equal. drop: they are left out. soft_label: the reward models
    learn from them as pairs that either answer wins with probability 1/2. Held-out figures never count them."""
    held_out_annotators: tuple[str, ...] = ()
    """Annotators whose preferences no stage learns from, so that the audit tells whether the reward models agree with
    people whom they have not learned from."""

    @model_validator(mode="after")
    def _something_left(self) -> Self:
        if self.test_fraction + self.validation_fraction >= 1.0:
            raise ValueError(
                f"test_fraction ({self.test_fraction}) and validation_fraction ({self.validation_fraction}) leave "
                f"nothing to train on; make them smaller"
            )
        return self

    @model_validator(mode="after")
    def _responses_come_from_one_place(self) -> Self:
        if self.embedded == "stories" and self.sampled_from is None:
            raise ValueError("embedded is stories, which has prompts and no responses; set sampled_from to base")
        if self.sampled_from is not None and self.embedded != "stories":
            raise ValueError(
                f"sampled_from is {self.sampled_from}, but the data ({self.embedded or self.path}) has responses of "
                f"its own, which would be ignored; drop sampled_from, or set embedded to stories"
            )
        return self

    @model_validator(mode="after")
    def _embedded_data_is_generated(self) -> Self:
        if self.embedded is not None and self.path != type(self).model_fields["path"].default:
            raise ValueError(
                f"embedded is {self.embedded}, which is generated into embedded/{self.embedded}, so path ({self.path}) "
                f"would be ignored; drop path, or, for data of your own, set embedded to none"
            )
        if self.embedded is not None and self.allow_dirty_data:
            raise ValueError(
                f"embedded is {self.embedded}, whose folder is what its generator makes or is refused, so "
                f"allow_dirty_data would be ignored; drop it, or, for data/ of your own, set embedded to none"
            )
        return self
