"""The patch of a working tree: what `git apply` makes of the commit is the tree again, and no secret is in it."""

import os
import subprocess
from pathlib import Path

import pytest

from rlhf.provenance.code import MAX_FILE_BYTES, git_state, looks_like_credential, working_patch


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name, text in {
        "rlhf/loss.py": "x = 1\n",
        "rlhf/gone.py": "y = 1\n",
        "configs/demo.yaml": "seed: 0\n",
        ".gitignore": "*.log\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "rlhf" / "blob.bin").write_bytes(bytes(range(256)))
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "First")
    return folder


def applied(tree: Path, patch: bytes, target: Path) -> dict[str, bytes]:
    """All files of the commit with the patch."""
    git(tree, "worktree", "add", "--quiet", "--detach", str(target), "HEAD")
    subprocess.run(["git", "apply", "--binary", "-"], cwd=target, input=patch, check=True)
    return {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in sorted(target.rglob("*"))
        if path.is_file() and path.name != ".git"
    }


def test_a_clean_tree_needs_no_patch(tree: Path):
    patch = working_patch(tree)
    assert (patch.content, patch.sha256, patch.left_out) == (b"", None, ())


def test_a_changed_tree_is_made_again(tree: Path, tmp_path: Path):
    (tree / "rlhf" / "loss.py").write_text("x = 2\n")
    (tree / "rlhf" / "blob.bin").write_bytes(bytes(range(255, -1, -1)))
    (tree / "rlhf" / "gone.py").unlink()
    (tree / "rlhf" / "new name ü*.py").write_text("z = 3")
    (tree / "rlhf" / "run.sh").write_text("#!/bin/sh\n")
    (tree / "rlhf" / "run.sh").chmod(0o755)
    (tree / "configs" / "demo.yaml").write_text("seed: 1\n")
    git(tree, "add", "configs/demo.yaml")  # what is staged counts as well
    (tree / "rlhf" / "noise.log").write_text("ignored by git")
    (tree / "notes.txt").write_text("new, and not of the project's packages")
    status = git(tree, "status", "--porcelain")
    patch = working_patch(tree)
    assert git(tree, "status", "--porcelain") == status, "the index is as it was"
    assert patch.left_out == ()
    made = applied(tree, patch.content, tmp_path / "again")
    assert made == {
        ".gitignore": b"*.log\n",
        "configs/demo.yaml": b"seed: 1\n",
        "rlhf/blob.bin": bytes(range(255, -1, -1)),
        "rlhf/loss.py": b"x = 2\n",
        "rlhf/new name ü*.py": b"z = 3",
        "rlhf/run.sh": b"#!/bin/sh\n",
    }
    assert os.access(tmp_path / "again" / "rlhf" / "run.sh", os.X_OK)


def test_settings_of_the_person_change_nothing(tree: Path, tmp_path: Path):
    (tree / "rlhf" / "loss.py").write_text("x = 2\n")
    plain = working_patch(tree).content
    for name, value in {"diff.noprefix": "true", "color.ui": "always", "diff.external": "false"}.items():
        git(tree, "config", name, value)
    assert working_patch(tree).content == plain


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rlhf/.env", "A=1"),
        ("rlhf/id_ed25519", "a private key"),
        ("rlhf/server.pem", "a private key"),
        ("rlhf/loss.py", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("rlhf/loss.py", "token = 'hf_" + "a" * 34 + "'"),
        ("rlhf/loss.py", "key = 'AKIA" + "A" * 16 + "'"),
        ("rlhf/loss.py", "url = 'postgresql://me:" + "longpassword@host/db'"),
        ("configs/demo.yaml", "api_key: '" + "0" * 20 + "'"),
        ("configs/demo.yaml", "wandb_api_key: " + "0a" * 12),
        ("rlhf/secrets.py", "KEY = 'AKIA" + "A" * 16 + "'"),
        ("rlhf/new.py", "github_pat_" + "a" * 30),
    ],
)
def test_what_looks_like_a_credential_is_left_out_and_named(tree: Path, name: str, text: str):
    (tree / name).write_text(text)
    (tree / "rlhf" / "other.py").write_text("w = 4\n")
    patch = working_patch(tree)
    assert patch.left_out == (name,)
    assert text.encode() not in patch.content
    assert b"other.py" in patch.content


def test_a_credential_that_was_removed_is_in_no_patch(tree: Path):
    token = "hf_" + "a" * 34
    (tree / "rlhf" / "loss.py").write_text(f"token = '{token}'\n")
    (tree / ".env").write_text("A=1\n")
    git(tree, "add", "--all", "--force")
    git(tree, "commit", "--quiet", "--message", "By mistake")
    (tree / "rlhf" / "loss.py").write_text("x = 1\n")
    (tree / ".env").unlink()
    patch = working_patch(tree)
    assert patch.left_out == (".env", "rlhf/loss.py")
    assert patch.content == b""


def test_a_file_that_git_was_told_to_take_although_it_is_ignored(tree: Path, tmp_path: Path):
    (tree / "rlhf" / "kept.log").write_text("1\n")
    git(tree, "add", "--force", "rlhf/kept.log")
    patch = working_patch(tree)
    assert applied(tree, patch.content, tmp_path / "again")["rlhf/kept.log"] == b"1\n"


def test_what_is_too_large_is_left_out_and_named(tree: Path):
    (tree / "rlhf" / "weights.bin").write_bytes(os.urandom(MAX_FILE_BYTES + 1))
    assert working_patch(tree).left_out == ("rlhf/weights.bin",)


def test_code_that_speaks_of_secrets_is_code():
    own = Path(__file__).parents[3] / "rlhf"
    assert [path.name for path in own.rglob("*.py") if looks_like_credential(path)] == []


def test_a_folder_without_git_has_no_commit(tmp_path: Path):
    assert git_state(tmp_path).commit is None
