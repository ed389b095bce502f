"""Small frozen values: all that passes between stages. A reference names an artifact and the sha256 of its files."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, JsonValue

from rlhf.config.data import EmbeddedName

SHARED_MODEL = "rlhf-policy"
"""The registered model of all recipes, until each had its own."""


def whole_version(version: str) -> str:
    """A version as `RECIPE/NUMBER`. A number alone is of the time when all recipes shared a registered model."""
    return version if "/" in version else f"{SHARED_MODEL}/{version}"


PolicyVersion = Annotated[str, AfterValidator(whole_version)]
"""A version of a registered policy, as `RECIPE/NUMBER`."""


class FrozenModel(BaseModel):
    """A value that does not change, and knows no field but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(FrozenModel):
    """An artifact folder in MLflow, and what must be in it."""

    run_id: str
    """MLflow run that made it."""
    uri: str
    """`runs:/RUN_ID/output`, so that a store can be moved."""
    sha256: str
    """Over the folder's relative paths and the sha256 of every file."""


class DataSource(FrozenModel):
    """The data set that a run reads, before anything is done to it."""

    path: str
    """Folder or file, as configured; of an embedded set `embedded/NAME`."""
    md5: str
    """DVC's hash of it, or the same kind of hash where DVC does not track it."""
    tracked: bool
    """DVC tracks exactly this content; if not, the run is reproducible only once the data is imported."""
    dirty: bool = False
    """data/ differs from data.dvc, and that was allowed."""
    embedded: EmbeddedName | None = None
    """The generator that made it."""


class FileDigests(FrozenModel):
    """The sha256 of files of the user's that a stage reads; None where none is named."""

    prompts: str | None = None
    constitution: str | None = None
    guidelines: str | None = None


class DatasetRef(Reference):
    """Prepared splits and the tokenizer."""

    source: DataSource


class ModelRef(Reference):
    """A folder with the SFT policy in `policy/`."""


class RevisionsRef(Reference):
    """A folder with `demonstrations.jsonl`: answers of the SFT policy, revised by principles."""


class FeedbackRef(Reference):
    """A folder with `preferences.jsonl`, what was asked for them, and `feedback.json`."""


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
    """The policy's folder with its card: what is registered under the recipe's name."""


class StageReport(FrozenModel):
    """How one stage of a run went."""

    name: str
    state: Literal["trained", "cached"]
    run_id: str
    """MLflow run that trained it, in this pipeline run or an earlier one."""
    seconds: float
    """What it took this time."""
    trained_seconds: float
    """What it took when it was trained."""


class PipelineReport(FrozenModel):
    """What a pipeline run ends with."""

    run_id: str
    """MLflow parent run."""
    metrics: dict[str, float]
    stages: list[StageReport]
    policy_path: str
    """Local folder that loads with AutoModelForCausalLM.from_pretrained, or the artifact's URI where it is remote."""
    model_card: str
    """The card's README.md."""
    gates: tuple["GateVerdict", ...] = ()
    """Verdicts of the recipe's gates on the run's own figures."""
    refused: str | None = None
    """What the gates have against the policy; None where all of them held."""


class SeedReport(FrozenModel):
    """What came of one seed of a group."""

    seed: int
    run_id: str | None
    """MLflow parent run. None: it failed before it had one."""
    error: str | None = None
    """Why it failed. None: it did not."""
    metrics: dict[str, float] = {}
    """Of all stages; intervals in it are over test prompts, for the policy of this seed."""
    policy_path: str | None = None
    """As in a pipeline's report."""


class SeedStatistics(FrozenModel):
    """A metric over the seeds of a group."""

    num_seeds: int
    """Seeds that have it."""
    mean: float
    std: float | None
    """Standard deviation between seeds (n - 1). None: there is one seed only."""
    low: float | None
    """Lower end of the 95% t-interval of the mean over seeds. None: there is one seed only."""
    high: float | None
    """Upper end of it."""


class GroupReport(FrozenModel):
    """What a recipe comes to over several seeds."""

    run_id: str
    """MLflow run of the group, which every pipeline run of it names in the tag `rlhf.group`."""
    recipe: str
    seeds: tuple[SeedReport, ...]
    """In the order in which they were run."""
    statistics: dict[str, SeedStatistics]
    """By the metrics' names."""
    notes: tuple[str, ...] = ()
    """What the figures cannot be read without."""

    @property
    def failed(self) -> tuple[SeedReport, ...]:
        """The seeds that failed."""
        return tuple(seed for seed in self.seeds if seed.error is not None)

    @property
    def finished(self) -> tuple[SeedReport, ...]:
        """The seeds that did not."""
        return tuple(seed for seed in self.seeds if seed.error is None)


class MethodReport(FrozenModel):
    """What came of one method of a comparison."""

    method: str
    group: GroupReport | None = None
    """Over its seeds. None: none of them finished."""
    error: str | None = None
    """Why some of its seeds failed. None: they did not."""


class MethodDifference(FrozenModel):
    """The gain of one method less that of another one, over the seeds that both have."""

    first: str
    second: str
    num_seeds: int
    mean: float
    low: float
    """Lower end of the interval over seeds, which holds for all pairs of the comparison at once."""
    high: float
    """Upper end of it."""

    @property
    def is_real(self) -> bool:
        """The interval leaves 0 out."""
        return self.low > 0 or self.high < 0


class MethodsReport(FrozenModel):
    """A comparison of methods."""

    run_id: str
    """MLflow run of the comparison, which the runs of its groups name in the tag `rlhf.group`."""
    recipe: str
    seeds: tuple[int, ...]
    methods: tuple[MethodReport, ...]
    """In the order in which they were run."""
    differences: tuple[MethodDifference, ...] = ()


class FeedbackReport(FrozenModel):
    """A round of feedback, asked or collected."""

    round: str
    """Its name."""
    run_id: str
    """MLflow run that holds what was asked."""
    asked: int
    """Comparisons."""
    queues: dict[str, str] = {}
    """Address of each person's queue in MLflow, by login; of a queue that is open to all under an empty name."""
    answered: int = 0
    """Verdicts, of all people."""
    preferences: int = 0
    """Rows that came of them."""
    data_md5: str | None = None
    """The version of the data that holds them; none where data/ held all of them already."""
    figures: dict[str, JsonValue] = {}
    """Agreement, people, problems."""
    text: str
    """All of it in Markdown."""


class GateVerdict(FrozenModel):
    """What one gate says of a policy."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    gate: str
    """Name of the gate."""
    limit: float
    """What the configuration asks for."""
    at_least: bool
    """The limit is the least that is allowed; otherwise the most."""
    found: float
    """The bound that is compared with the limit. Of candidates before gates had bounds: the figure itself."""
    held: bool
    margin: float
    """By how much it held; negative where it failed."""
    value: float | None = None
    """The figure that the bound belongs to."""
    confidence: float | None = None
    """Of the bound, one-sided."""
    prompts: int | None = None
    """Gate prompts that it was measured on."""
    prompts_needed: int | None = None
    """Gate prompts that such a figure needs to reach the limit. None: no number of them is enough."""
    judge: str | None = None
    """The judge whose verdict is the worst, where several judge."""
    words: str | None = None
    """The verdict in words, where the figure stands for one: that of the reward models' audit, with its reasons."""


class Champion(FrozenModel):
    """The version of a recipe's policy that is in use."""

    version: PolicyVersion
    policy: ModelCardRef
    data_md5: str
    """Version of the data that it was trained on."""
    reward_models: RewardModelsRef | None = None
    """Those of its run, whose selection model judges. None: they are gone."""


class Spending(FrozenModel):
    """What a comparison may take of the risk that a candidate without gain becomes the champion."""

    champion: PolicyVersion | None
    """The version that was compared with. None: there was none."""
    comparison: int
    """Its number among the comparisons with this champion, from 1 on; where there was none, among those without."""
    level: float
    """The chance that this comparison promotes a candidate without gain, at most."""
    rate: float
    """The same of all comparisons with this champion together, however many there will be."""
    gate: str
    """The gate whose bound is at that level."""
    limit: float
    """Of that gate: a candidate at or below it is one without gain."""

    @property
    def sentence(self) -> str:
        """For a person."""
        limit = "" if self.limit == (0.5 if self.gate == "win_rate" else 0.0) else f" (a {self.gate} of {self.limit:g})"
        against = "without a champion" if self.champion is None else f"with version {self.champion}"
        meanwhile = "while there is none" if self.champion is None else "while this one reigns"
        return (
            f"Comparison {self.comparison} {against} promotes a candidate without gain{limit} with a chance of at most "
            f"{self.level:.2g}, so that the chance that any of the nightly candidates without gain becomes champion "
            f"{meanwhile} is at most {self.rate:.2g}."
        )


class Proposal(FrozenModel):
    """A candidate that has been compared, and what the gates say of it."""

    run_id: str
    """MLflow run of the pipeline that trained it."""
    candidate: PolicyVersion
    champion: PolicyVersion | None
    """The version that it was compared with. None: there was none, and it was compared with its own SFT policy."""
    data_md5: str
    gates: tuple[GateVerdict, ...]
    spending: Spending | None = None
    """None: no gate asks for a gain, or the candidate is of a time when nothing was counted."""

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that did not hold."""
        return tuple(verdict.gate for verdict in self.gates if not verdict.held)


Verdict = Literal["promoted", "rejected", "declined", "expired", "outdated", "no new data", "approval open"]
"""How retraining ends. outdated: the champion changed after the comparison. declined, expired: what a person said, or
did not say in time. approval open: an earlier run still waits for an answer."""


class RetrainReport(FrozenModel):
    """What retraining ends with."""

    verdict: Verdict
    reason: str
    """A sentence for a person."""
    champion: PolicyVersion | None
    """The version that is the recipe's champion now."""
    data_md5: str | None = None
    """Version of the data that was looked at."""
    proposal: Proposal | None = None
    """The candidate, where one was trained."""
