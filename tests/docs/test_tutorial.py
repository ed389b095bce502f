"""The tutorial, as written: its commands are run, and print what the page says, figures aside.

`RLHF_TUTORIAL=1` writes what they print into the page, which is how the page gets its figures.
"""

import difflib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tutorial_files import save_base, save_pairs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
_CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
_RECIPE = re.compile(r'```yaml title="(\S+)"\n(.*?)```', re.DOTALL)
# What differs from machine to machine and from run to run. A changed source tree is named, and has a `+` at its commit.
_FIGURES = (
    (r"\x1b\[[\d;]*m", ""),
    (r"with a patch, sha256 \w+, |the tree was dirty, |Both working trees differed.*", ""),
    (r"within noise|more than noise", "noise"),
    (r"(better|worse) \(", "("),
    (r"is better than|is worse than|cannot be told from", "stands to"),
    (r"\S*/bin/rlhf", "rlhf"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "#"),
    (r"\b[0-9a-f]{6,}\b\+?", "#"),
    (r"[+-]?\d[\d,.:-]*%?", "#"),
    (r"[━─┏┓┗┛┡┩┳┻╇└┘┴┌┐┬]+", "-"),
    (r"\s+", " "),
)


def masked(text: str) -> list[str]:
    """Lines without figures and without the width of columns; empty lines left out."""
    lines = []
    for line in text.splitlines():
        for pattern, stands_for in _FIGURES:
            line = re.sub(pattern, stands_for, line)
        if line.strip():
            lines.append(line.strip())
    return lines


def commands(block: str) -> Iterator[tuple[str, str]]:
    """The commands of a block, each with what the page says that it prints."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def test_commands_print_what_the_page_says(project_root: Path, migrated_prefect: Path):
    text = PAGE.read_text()
    save_pairs(project_root.parent / "my_pairs.jsonl")
    save_base(project_root.parent / "my-base")
    for name, content in _RECIPE.findall(text):
        (project_root / name).write_text(content)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    prefect = str(shutil.copytree(migrated_prefect, project_root / ".prefect"))
    own = {"PATH": programs, "PYTHONPATH": str(ROOT), "PREFECT_HOME": prefect, "COLUMNS": "120"}
    unset = ("FORCE_COLOR", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | own

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=project_root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    printed: list[str] = []
    differ: list[str] = []
    for block in _CONSOLE.findall(text):
        shown = ""
        for command, said in commands(block):
            output = run(command)
            shown += f"$ {command}\n{output.rstrip()}\n"
            differ += difflib.unified_diff(masked(said), masked(output), "the page", command, n=0, lineterm="")
        printed.append(shown.replace(str(Path(sys.executable).parent), ".venv/bin"))
    if "RLHF_TUTORIAL" in os.environ:
        blocks = iter(printed)
        PAGE.write_text(_CONSOLE.sub(lambda _: f"```console\n{next(blocks)}```", text))
    else:
        assert not differ, "\n".join(differ)
