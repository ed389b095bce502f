"""How the project is installed: from a clone, in place."""

import json
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project like ours, with packages that are empty."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((_ROOT / name).read_bytes())
    for name in ("rlhf", "tasks", "flows"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    return tmp_path


def _build(tree: Path, what: str) -> "subprocess.CompletedProcess[str]":
    code = f"from setuptools import build_meta; build_meta.{what}('.')"
    return subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)


def test_a_wheel_is_refused_with_what_to_do(tree: Path) -> None:
    done = _build(tree, "build_wheel")
    assert done.returncode != 0
    assert "install it from a clone with `make demo`, or `pip install --editable .`" in done.stderr
    assert not list(tree.glob("*.whl"))


def test_an_editable_install_finds_all_packages_in_the_clone(tree: Path) -> None:
    done = _build(tree, "build_editable")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tree.glob("*.whl"))) as wheel:
        finder = next(name for name in wheel.namelist() if name.endswith("_finder.py"))
        text = wheel.read(finder).decode()
    assert [name for name in ("rlhf", "tasks", "flows") if str(tree / name) in text] == ["rlhf", "tasks", "flows"]


def test_pytest_tells_our_test_files_apart() -> None:
    """It imports each by its name alone, so two of one name cannot be collected in one run."""
    names = Counter(file.name for file in (_ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.soak
def test_ray_comes_beside_what_the_lock_names() -> None:
    """It asks the package index what the extra `cluster` would install here."""
    extra = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cluster"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", *extra]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    new = {item["metadata"]["name"].lower().replace("_", "-") for item in json.loads(done.stdout)["install"]}
    lines = (_ROOT / "requirements.lock").read_text().split("\n")
    locked = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert len(locked) > 100
    assert new & locked == set(), "a version of the lock would change"
