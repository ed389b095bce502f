"""The difference between the code of two runs: commits, and patches of working trees that were dirty."""

from dataclasses import dataclass
from pathlib import Path

from rlhf.files.git import as_names, as_text, git, try_git
from rlhf.provenance.code import has_commit
from rlhf.runs.comparison.run_view import RunView
from rlhf.text.lines import lines_of
from rlhf.tracking.tags import COMMIT_TAG, DIRTY_TAG

MAX_COMMITS = 20
_PACKAGES = ("rlhf", "tasks")


@dataclass(frozen=True)
class Commits:
    """Commits that one run has and the other has not.

    Attributes:
        lines: hash and subject, the newest first, at most 20.
        number: how many there are.
    """

    lines: tuple[str, ...]
    number: int


@dataclass(frozen=True)
class PatchStat:
    """The changes of a dirty working tree.

    Attributes:
        sha256: of the patch; None where it is not known.
        files: name, lines added and lines removed; None each for a binary file.
        left_out: changed files that the patch lacks; `rlhf.provenance.code.Patch` says why.
        known: the patch was recorded.
    """

    files: tuple[tuple[str, int | None, int | None], ...]
    left_out: tuple[str, ...]
    known: bool


@dataclass(frozen=True)
class CodeDifference:
    """Between the code of two runs.

    Attributes:
        commits: of both; None outside git.
        only: commits that one has and the other has not; None where that cannot be told.
        changes: git's sentence on what differs between the commits.
        num_source_files: files that differ in the packages that make numbers; None where that cannot be told.
        patches: of both; None where the working tree was clean.
        same_patch: both working trees had the same changes, or none.
        notes: sentences on what is not known.
    """

    commits: tuple[str | None, str | None]
    only: tuple[Commits, Commits] | None
    changes: str
    num_source_files: int | None
    patches: tuple[PatchStat | None, PatchStat | None]
    same_patch: bool
    notes: tuple[str, ...]

    @property
    def is_same(self) -> bool | None:
        """Whether the code was the same; None where that is not known."""
        if self.commits[0] is None or any(patch and not patch.known for patch in self.patches):
            return None
        return self.commits[0] == self.commits[1] and self.same_patch


def compare_code(first: RunView, second: RunView, repository: Path) -> CodeDifference:
    """Compare the code of two runs.

    Args:
        first: a run.
        second: another.
        repository: a git repository that may have the commits of both.
    """
    commits = (_commit(first), _commit(second))
    contents = [_patch(side) for side in (first, second)]
    patches = (_stat(first, contents[0], repository), _stat(second, contents[1], repository))
    notes = [
        f"{side.label}: the working tree differed from the commit, and no patch of it that can be read was recorded."
        for side, patch in zip((first, second), patches, strict=True)
        if patch and not patch.known
    ]
    missing = _missing((first, second), commits, repository)
    comparable = not missing and commits[0] is not None and commits[1] is not None
    only, changes, files = None, "", None
    if comparable and commits[0] != commits[1]:
        a, b = str(commits[0]), str(commits[1])
        only = (_log(repository, b, a), _log(repository, a, b))
        changes = as_text(git(repository, "diff", "--shortstat", a, b))
        files = len(as_names(git(repository, "diff", "--name-only", "-z", a, b, "--", *_PACKAGES)))
    return CodeDifference(
        commits=commits,
        only=only,
        changes=changes,
        num_source_files=files,
        patches=patches,
        same_patch=contents[0] == contents[1],
        notes=(*missing, *notes),
    )


def _commit(side: RunView) -> str | None:
    return side.tags.get(COMMIT_TAG) or None


def _patch(side: RunView) -> bytes | None:
    """The patch; None where the working tree was clean, empty where it was not and nothing that counts was recorded."""
    if side.tags.get(DIRTY_TAG) != "true":
        return None
    return side.artifact("provenance/code.patch") or b""


def _stat(side: RunView, patch: bytes | None, repository: Path) -> PatchStat | None:
    if patch is None:
        return None
    code = side.record().get("code", {})
    # Nothing where it is no patch.
    numbers = try_git(repository, "apply", "--numstat", "-z", "-", given=patch) if patch else None
    known = bool(numbers) or (not patch and "patch_sha256" in code and code["patch_sha256"] is None)
    files = [line.split("\t", 2) for line in as_names(numbers or b"")]
    return PatchStat(
        files=tuple((name, _number(added), _number(removed)) for added, removed, name in files),
        left_out=tuple(code.get("left_out", ())),
        known=known,
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _missing(sides: tuple[RunView, RunView], commits: tuple[str | None, str | None], repository: Path) -> list[str]:
    """Sentences on commits that cannot be compared."""
    sentences = []
    for side, commit in zip(sides, commits, strict=True):
        if commit is None:
            sentences.append(f"{side.label}: the code was in no git commit.")
        elif commits[0] != commits[1] and not has_commit(repository, commit):
            sentences.append(
                f"{side.label}: commit {commit[:9]} is not in this clone, so what lies between the two cannot be told; "
                "bring it with `git fetch --all`."
            )
    return sentences


def _log(repository: Path, without: str, of: str) -> Commits:
    span = f"{without}..{of}"
    log = git(repository, "log", "--oneline", "--no-decorate", f"--max-count={MAX_COMMITS}", span)
    lines = lines_of(as_text(log))
    number = len(lines) if len(lines) < MAX_COMMITS else int(git(repository, "rev-list", "--count", span))
    return Commits(tuple(lines), number)
