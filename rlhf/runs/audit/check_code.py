"""Is what a run has read from outside still there: a commit, a base model."""

from rlhf.files.manifest import files_sha256
from rlhf.paths import root, source_root
from rlhf.provenance.code import has_commit
from rlhf.provenance.record import BaseRecord
from rlhf.runs.audit.findings import Ledger


def check_commit(ledger: Ledger, commit: str) -> None:
    """Check whether this clone has a commit; git itself holds the content against that name."""
    if any(has_commit(folder, commit) for folder in (root(), source_root()) if folder.is_dir()):
        ledger.compare("code", "git", f"commit {commit}", "in this clone", "in this clone")
    else:
        ledger.notes.append(f"commit {commit} is not in this clone; `git fetch --all` may bring it")


def check_base(ledger: Ledger, setting: str, base: BaseRecord) -> None:
    """Hold the folder of a model from outside against the sha256 on record."""
    if base.sha256 is None:
        return
    folder = root() / base.name
    if not folder.is_dir():
        ledger.notes.append(f"{setting}: the folder {base.name} is not here, so it was not looked at")
        return
    ledger.compare("files", setting, base.name, base.sha256, files_sha256(ledger.files(folder)))
