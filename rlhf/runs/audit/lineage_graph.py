"""The graph of a lineage: its nodes, and what each was made from."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from rlhf.runs.audit.findings import Ledger

State = Literal["verified", "changed", "not checked"]


@dataclass(frozen=True)
class Node:
    """Something on the way to a policy.

    Attributes:
        id: unique within a lineage.
        kind: `version`, a stage's name, `data_version`, `code` or `base`.
        title: for people.
        hash_name: `sha256`, `md5`, `commit` or `revision`.
        hash: the value; None where there is none.
        run_id: MLflow run that made it.
        pipeline: the pipeline run that this was part of.
        earlier: that is another one than the lineage was asked for.
        at: when it was made, or registered.
        details: further words.
        made_from: ids of the nodes that it was made from.
        state: whether it is what was logged.
    """

    id: str
    kind: str
    title: str
    hash_name: str
    hash: str | None
    run_id: str | None = None
    pipeline: str | None = None
    earlier: bool = False
    at: datetime | None = None
    details: tuple[str, ...] = ()
    made_from: tuple[str, ...] = ()
    state: State = "not checked"

    @property
    def short_hash(self) -> str:
        """Enough of it to know it again."""
        return "none" if self.hash is None else self.hash[:12]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"at": self.at.isoformat(timespec="seconds") if self.at else None}


@dataclass
class Lineage:
    """A policy, and all that it came from.

    Attributes:
        run_id: the pipeline run that it was asked for.
        root: id of the node that all ways lead to.
        nodes: by id; each comes after what was made from it.
        ledger: what was verified on the way.
        verified: whether hashes were checked at all.
    """

    run_id: str
    root: str
    nodes: dict[str, Node]
    ledger: Ledger
    verified: bool

    def of_kind(self, kind: str) -> list[Node]:
        """The nodes of a kind."""
        return [node for node in self.nodes.values() if node.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        edges = [{"from": source, "to": node.id} for node in self.nodes.values() for source in node.made_from]
        verification = self.ledger.as_dict() if self.verified else None
        return {
            "run_id": self.run_id,
            "root": self.root,
            "nodes": [node.as_dict() for node in self.nodes.values()],
            "edges": edges,
            "verification": verification,
        }
