"""The lineage of a policy: drawn from the registry back to data, code and base model, across pipeline runs.

A stage's run names the artifacts that it has read, with the run and the sha256 of each, so the way back is read and not
guessed: where a stage was cached, it leads into an earlier pipeline run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from rlhf.errors import InputError
from rlhf.provenance.record import BaseRecord, ProvenanceRecord
from rlhf.provenance.storage import read_record
from rlhf.references import DatasetRef, DataSource, ModelCardRef, Reference
from rlhf.runs.audit.check_code import check_base, check_commit
from rlhf.runs.audit.check_data import check_version
from rlhf.runs.audit.check_stages import Expected, check_stage, place_of
from rlhf.runs.audit.findings import Finding, Ledger
from rlhf.runs.audit.lineage_graph import Lineage, Node
from rlhf.runs.audit.target import Target
from rlhf.stages import STAGES, round_name, stage_name, title_of
from rlhf.tracking.records import RunRecord
from rlhf.tracking.run_details import get_run
from rlhf.tracking.tags import COMMIT_TAG, OUTPUT_TAG, PARENT_TAG, STAGE_TAG, stage_runs


def trace(named: Target, *, check: bool = True) -> Lineage:
    """Follow a policy back to what it came from.

    Args:
        named: the run or version that was asked for.
        check: hold every hash on the way against what is there now.

    Raises:
        InputError: the run does not exist, or has finished no stage.
    """
    run = get_run(named.run_id)
    if run is None:
        raise InputError(f"there is no MLflow run {named.run_id}; `rlhf runs` lists those that there are")
    walk = _Walk(run, check)
    card = stage_runs(run.tags).get("model_card")
    root = walk.stage(card) if card else walk.unfinished(run)
    if card and named.version is not None:
        root = walk.version(named, root)
    nodes = dict(reversed(walk.nodes.items()))
    return Lineage(named.run_id, root, nodes, walk.ledger, check)


@dataclass
class _Walk:
    """The way back; a node is entered once what it was made from is."""

    asked_for: RunRecord
    check: bool
    nodes: dict[str, Node] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    _records: dict[str, ProvenanceRecord | None] = field(default_factory=dict)

    def version(self, named: Target, policy: str) -> str:
        version = named.version
        assert version is not None
        ledger = Ledger()
        ledger.compare(
            "registry", f"version {version.version}", "tag sha256", self.nodes[policy].hash, version.tags.get("sha256")
        )
        node = Node(
            id=f"version {version.version}",
            kind="version",
            title=f"registered policy {version.version}",
            hash_name="sha256",
            hash=version.tags.get("sha256"),
            at=version.created,
            details=version.aliases,
            made_from=(policy,),
        )
        return self._enter(node, ledger)

    def unfinished(self, run: RunRecord) -> str:
        """A run without a policy: what its stages have made by now."""
        made = [self.stage(stage_run) for stage, stage_run in stage_runs(run.tags).items() if _is_ancestor(stage)]
        if not made:
            raise InputError(
                f"MLflow run {run.run_id} has finished no stage, so there is no lineage to draw; "
                f"`rlhf runs` lists runs that have"
            )
        used = {node_id for node in self.nodes.values() for node_id in node.made_from}
        tips = tuple(node_id for node_id in made if node_id not in used)
        title = f"{run.name}, {run.status.lower()}"
        node = Node(f"run {run.run_id}", "run", title, "sha256", None, run.run_id, at=run.started, made_from=tips)
        return self._enter(node, Ledger())

    def stage(self, run_id: str) -> str:
        """A stage's output, and all before it."""
        if run_id in self.nodes:
            return run_id
        run = get_run(run_id)
        if run is None:
            finding = Finding("lineage", f"MLflow run {run_id}", "the run of a stage", "gone")
            node = Node(run_id, "stage", "a stage whose run is gone", "sha256", None, run_id, state="changed")
            return self._enter(node, Ledger(findings=[finding]))
        pipeline = run.tags.get(PARENT_TAG, "")
        stage = _name_in(pipeline, run)
        record = self._record(pipeline)
        ledger = Ledger()
        made_from = list(self._inputs(run, ledger))
        made_from += self._sources(run, stage, record)
        if pipeline:
            self._code(pipeline, record)
        if self.check:
            check_stage(ledger, run, Expected.of(record.stages.get(stage) if record else None))
        node = Node(
            id=run_id,
            kind=stage_name(stage),
            title=title_of(stage),
            hash_name="sha256",
            hash=_sha256_of(run),
            run_id=run_id,
            pipeline=pipeline,
            earlier=pipeline != self.asked_for.run_id,
            at=run.ended or run.started,
            made_from=tuple(dict.fromkeys(made_from)),
        )
        return self._enter(node, ledger)

    def _inputs(self, run: RunRecord, ledger: Ledger) -> Iterator[str]:
        for name, read in run.inputs.items():
            made_by = read.made_by
            # The card tells of measurements too, but the weights did not come from them.
            if made_by is None or not _is_ancestor(self._stage_of(made_by)):
                continue
            node = self.nodes[self.stage(made_by)]
            if self.check and node.hash is not None:
                digest = node.hash[: len(read.digest)]
                ledger.compare("inputs", place_of(run), f"input {name}, of run {made_by}", read.digest, digest)
            yield node.id

    def _stage_of(self, run_id: str) -> str:
        run = get_run(run_id)
        return run.tags.get(STAGE_TAG, "") if run else ""

    def _sources(self, run: RunRecord, stage: str, record: ProvenanceRecord | None) -> Iterator[str]:
        if stage == "data":
            source = _source_of(run)
            if source is not None:
                yield self._data(source)
        for setting, base in (record.bases if record else {}).items():
            if _owner_of(setting) == stage:
                yield self._base(setting, base)

    def _data(self, source: DataSource) -> str:
        ledger = Ledger()
        if self.check:
            check_version(ledger, source)
        tracked = "tracked by DVC" if source.tracked else "not tracked by DVC"
        made = (f"generator {source.embedded}",) if source.embedded else ()
        details = (source.path, tracked, *made)
        return self._enter(
            Node(f"data {source.md5}", "data_version", "data version", "md5", source.md5, details=details), ledger
        )

    def _base(self, setting: str, base: BaseRecord) -> str:
        ledger = Ledger()
        if self.check:
            check_base(ledger, setting, base)
        name = "revision" if base.sha256 is None else "sha256"
        title = "base model" if setting == "model.base" else f"reward model of {setting}"
        node = Node(
            f"base {setting} {base.name}", "base", title, name, base.sha256 or base.revision, details=(base.name,)
        )
        return self._enter(node, ledger)

    def _code(self, pipeline: str, record: ProvenanceRecord | None) -> None:
        """Code is no node that others were made from: every stage of a pipeline run is."""
        run = get_run(pipeline)
        commit = record.code.commit if record else (run.tags.get(COMMIT_TAG) if run else None)
        ledger = Ledger()
        if self.check and commit:
            check_commit(ledger, commit)
        dirty = record is not None and record.code.dirty
        patch = record.code.patch_sha256 if record else None
        details = (f"with a patch, sha256 {patch[:12]}",) if patch else ("the tree was dirty",) if dirty else ()
        node = Node(
            id=f"code {pipeline}",
            kind="code",
            title="code",
            hash_name="commit",
            hash=commit or None,
            pipeline=pipeline,
            earlier=pipeline != self.asked_for.run_id,
            at=run.started if run else None,
            details=(*details, *((f"requirements.lock {record.lock_sha256[:12]}",) if record else ())),
        )
        self._enter(node, ledger)

    def _record(self, pipeline: str) -> ProvenanceRecord | None:
        if pipeline not in self._records:
            self._records[pipeline] = _read(pipeline, self.ledger)
        return self._records[pipeline]

    def _enter(self, node: Node, ledger: Ledger) -> str:
        if node.id not in self.nodes:
            if self.check and node.state == "not checked" and ledger.checked:
                node = Node(**(vars(node) | {"state": "verified" if ledger.sound else "changed"}))
            self.nodes[node.id] = node
            self.ledger.add(ledger)
        return node.id


def _name_in(pipeline: str, run: RunRecord) -> str:
    """The name of the stage or round that a run was in the pipeline run for which it was trained."""
    parent = get_run(pipeline) if pipeline else None
    used = stage_runs(parent.tags) if parent else {}
    return next((name for name, run_id in used.items() if run_id == run.run_id), run.tags.get(STAGE_TAG, run.name))


def _owner_of(setting: str) -> str:
    """The stage or round that loads a model from outside, by the setting that names the model."""
    of_round = re.match(r"rounds\.(\d+)\.", setting)
    if of_round:
        return round_name(int(of_round[1]) + 1)
    return "sft" if setting == "model.base" else "policy"


def _read(pipeline: str, ledger: Ledger) -> ProvenanceRecord | None:
    try:
        return read_record(pipeline) if get_run(pipeline) else None
    except InputError as error:
        ledger.notes.append(str(error))
        return None


def _sha256_of(run: RunRecord) -> str | None:
    try:
        return Reference.model_validate_json(run.tags.get(OUTPUT_TAG, ""), extra="ignore").sha256
    except ValidationError:
        return None


def _source_of(run: RunRecord) -> DataSource | None:
    try:
        return DatasetRef.model_validate_json(run.tags.get(OUTPUT_TAG, "")).source
    except ValidationError:
        return None


def _is_ancestor(stage: str) -> bool:
    """A stage whose output a policy comes from; a stage that this version does not know is followed as well."""
    spec = STAGES.get(stage)
    return spec is None or spec.made_from is not None or spec.output is ModelCardRef
