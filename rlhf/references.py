"""Small frozen values: all that passes between stages. A reference names an artifact and the sha256 of its files."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Reference(BaseModel):
    """An artifact folder in MLflow, and what must be in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    """MLflow run that made it."""
    uri: str
    """`runs:/RUN_ID/output`, so that a store can be moved."""
    sha256: str
    """Over the folder's relative paths and the sha256 of every file."""


class DataSource(BaseModel):
    """The data set that a run reads, before anything is done to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Folder or file, as configured."""
    md5: str
    """DVC's hash of it, or the same kind of hash where DVC does not track it."""
    tracked: bool
    """DVC tracks exactly this content; if not, the run is reproducible only once the data is imported."""
    dirty: bool = False
    """data/ differs from data.dvc, and that was allowed."""
    embedded: Literal["calibrated_arithmetic"] | None = None
    """The generator that made it, which is also the name of its gold rule."""


class DatasetRef(Reference):
    """Prepared splits and the tokenizer."""

    source: DataSource


class ModelRef(Reference):
    """A folder with the SFT policy in `policy/`."""


class RewardModelsRef(Reference):
    """A folder with `reward_model/` and `selection_reward_model/`."""


class AuditRef(Reference):
    """A folder with `audit.json` and its figures."""


class PolicyRef(Reference):
    """A folder with the chosen policy in `policy/`, `evaluations.jsonl` and `generations/`."""


class EvaluationRef(Reference):
    """A folder with `evaluation.json`, `side_by_side.jsonl` and the figures."""


class ModelCardRef(Reference):
    """The policy's folder with its card: what is registered as `rlhf-policy`."""


class StageReport(BaseModel):
    """How one stage of a run went."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: Literal["trained", "cached"]
    run_id: str
    """MLflow run that trained it, in this pipeline run or an earlier one."""
    seconds: float
    """What it took this time."""
    trained_seconds: float
    """What it took when it was trained."""


class PipelineReport(BaseModel):
    """What a pipeline run ends with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    """MLflow parent run."""
    metrics: dict[str, float]
    stages: list[StageReport]
    policy_path: str
    """Local folder that loads with AutoModelForCausalLM.from_pretrained, or the artifact's URI where it is remote."""
    model_card: str
    """The card's README.md."""
