"""The environment of a run: that at hand where it matches, else one from its lock file."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.config.pipeline import PipelineConfig
from rlhf.paths import source_root
from rlhf.provenance import GitState, Patch
from rlhf.provenance.capture import begin_record
from rlhf.runs.reproduction.plan import NotReproducibleError, ReproductionPlan
from rlhf.runs.reproduction.venv import interpreter


@pytest.fixture
def plan(project_root: Path) -> ReproductionPlan:
    record = begin_record(PipelineConfig(), GitState("c" * 40, dirty=False), Patch(b"", ()))
    lock = (source_root() / "requirements.lock").read_bytes()
    return ReproductionPlan("run", record, {}, b"", lock, None, None)


def with_lock(plan: ReproductionPlan, text: str) -> ReproductionPlan:
    return replace(plan, lock=text.encode(), record=plan.record.model_copy(update={"lock_sha256": "1" * 64}))


def test_what_is_installed_serves_where_it_is_the_same(plan: ReproductionPlan):
    assert interpreter(plan) == Path(sys.executable)


def test_one_is_made_from_another_lock_and_found_again(plan: ReproductionPlan, project_root: Path, tmp_path: Path):
    wheel = tmp_path / "tiny_package-1.0-py3-none-any.whl"
    files = {
        "tiny_package.py": "NUMBER = 12\n",
        "METADATA": "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "tiny_package.py,,\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name if name.endswith(".py") else f"tiny_package-1.0.dist-info/{name}", text)
    other = with_lock(plan, f"--no-index\ntiny-package @ {wheel.as_uri()}\n")
    python = interpreter(other)
    code = "import tiny_package; print(tiny_package.NUMBER)"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout == "12\n"
    wheel.unlink()
    assert interpreter(other) == python
    (python.parents[1] / "complete").unlink()  # as a kill would have left it
    with pytest.raises(NotReproducibleError, match=r"(?s)no environment can be made.*sha256 1111.*tiny_package"):
        interpreter(other)
