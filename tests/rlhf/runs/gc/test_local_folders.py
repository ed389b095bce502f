"""Garbage collection knows every folder of `.rlhf/`, and no code names one by itself."""

import os
import re
from pathlib import Path
from typing import get_args

from rlhf.paths import LocalFolder, local_folder, source_root
from rlhf.runs.gc.local_folders import FINDERS, STAYS, find_in_folders
from rlhf.runs.gc.retention import Needs

_NOTHING = Needs({}, frozenset(), frozenset(), frozenset(), frozenset(), frozenset(), ())


def test_every_folder_is_known_to_garbage_collection_once() -> None:
    assert sorted([*FINDERS, *STAYS]) == sorted(get_args(LocalFolder))


def test_no_code_names_a_folder_by_itself() -> None:
    packages = [source_root() / name for name in ("rlhf", "tasks", "flows")]
    sources = [path for package in packages for path in package.rglob("*.py")]
    naming = [path for path in sources if re.search(r'"\.rlhf"', path.read_text())]
    assert naming == [source_root() / "rlhf" / "paths.py"]


def test_what_people_and_later_runs_read_stays_and_old_checks_of_models_go(project_root: Path) -> None:
    for name in get_args(LocalFolder):
        local_folder(name).mkdir(parents=True)
    files = [local_folder(name) / "old.json" for name in (*STAYS, "models")]
    for file in files:
        file.write_text("{}")
        os.utime(file, (0, 0))
    (local_folder("models") / "new.json").write_text("{}")
    items = list(find_in_folders(_NOTHING, [], 14))
    assert [(item.kind, item.path) for item in items] == [("model checks", files[-1])]
