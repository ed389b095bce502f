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
    """Where the data is, and how it is split."""

    path: str = "data"
    """Folder with demonstrations.jsonl, preferences.jsonl, prompts.jsonl and datasheet.md, or one file of
    preferences. `data` is the folder that DVC tracks."""
    embedded: EmbeddedName | None = None
    """Generator of the embedded data set. calibrated_arithmetic: path must hold it; it is generated where path is
    `data` and that is missing. stories: prompts alone, which every run generates for itself (see sampled_from); path
    is not read. Empty: path holds data of your own."""
    sampled_from: Literal["base"] | None = None
    """Who wrote the demonstrations and the responses under comparison, where the embedded set has prompts alone. base:
    model.base, which the data stage samples. Empty: the data has its own."""
    allow_dirty_data: bool = False
    """Run although data/ differs from data.dvc. The run is then marked as not reproducible."""
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of prompts (by hash) that nothing is trained on. Reported figures use them, less those of gate_fraction,
    and nothing else does."""
    gate_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """Share of those prompts (by hash) on which retraining decides whether a candidate becomes the champion, and which
    no report uses. Without retraining they are only kept aside."""
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of prompts (by hash) that choose checkpoints and watch training."""
    selection_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the training prompts (by hash) whose preferences train the selection reward model, and only it."""
    max_rows: Count | None = None
    """Only the first rows of each file are used, this many; where responses are sampled, the first prompts. For trials.
    Empty: all rows."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with a row whose last turn alone does not fit model.max_length: stop with an error that names
    it, or drop and count it."""

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
        if self.embedded == "stories" and self.path != type(self).model_fields["path"].default:
            raise ValueError(
                f"embedded is stories, which every run generates for itself, so path ({self.path}) would be ignored; "
                f"drop one of the two"
            )
        return self
