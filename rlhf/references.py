"""Small frozen values: all that passes between stages. A reference names an artifact and the sha256 of its files."""

from collections.abc import Mapping
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


class ComparisonRef(Reference):
    """A folder with `comparison.json` and `side_by_side.md`: a candidate against the champion."""


class ModelCardRef(Reference):
    """The policy's folder with its card: what is registered as `rlhf-policy`."""


OUTPUT_KINDS: Mapping[str, type[Reference]] = {
    "data": DatasetRef,
    "sft": ModelRef,
    "reward_model": RewardModelsRef,
    "reward_audit": AuditRef,
    "ppo": PolicyRef,
    "evaluation": EvaluationRef,
    "comparison": ComparisonRef,
    "model_card": ModelCardRef,
}
"""What each stage leaves."""


StageName = Literal["data", "sft", "reward_model", "reward_audit", "ppo", "evaluation"]
"""The stages that can be made again alone."""


STAGE_INPUTS: Mapping[str, tuple[StageName, ...]] = {
    "data": (),
    "sft": ("data",),
    "reward_model": ("data", "sft"),
    "reward_audit": ("data", "reward_model"),
    "ppo": ("data", "sft", "reward_model"),
    "evaluation": ("data", "sft", "reward_model", "ppo"),
}
"""The stages whose outputs each of them reads."""


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


class GateVerdict(BaseModel):
    """What one gate of retraining says of a candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: str
    """Name of the gate."""
    limit: float
    """What the configuration asks for."""
    at_least: bool
    """The limit is the least that is allowed; otherwise the most."""
    found: float
    """What the candidate has."""
    held: bool
    margin: float
    """By how much it held; negative where it failed."""


class Champion(BaseModel):
    """The version of the registered model that is in use."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    policy: ModelCardRef
    data_md5: str
    """Version of the data that it was trained on."""


class Proposal(BaseModel):
    """A candidate that has been compared, and what the gates say of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    """MLflow run of the pipeline that trained it."""
    candidate: str
    """Its version of the registered model."""
    champion: str | None
    """The version that it was compared with. None: there was none, and it was compared with its own SFT policy."""
    data_md5: str
    gates: tuple[GateVerdict, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that did not hold."""
        return tuple(verdict.gate for verdict in self.gates if not verdict.held)


Verdict = Literal["promoted", "rejected", "declined", "expired", "outdated", "no new data", "approval open"]
"""How retraining ends. outdated: the champion changed after the comparison. declined, expired: what a person said, or
did not say in time. approval open: an earlier run still waits for an answer."""


class RetrainReport(BaseModel):
    """What retraining ends with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    reason: str
    """A sentence for a person."""
    champion: str | None
    """The version of the registered model that is the champion now."""
    data_md5: str | None = None
    """Version of the data that was looked at."""
    proposal: Proposal | None = None
    """The candidate, where one was trained."""
