"""The recipes of a project: the files of configs/."""

from pathlib import Path

from rlhf.paths import root, source_root


def recipes() -> dict[str, Path]:
    """The files by their names, those of the project's root before the ones that come with the code."""
    folders = dict.fromkeys(folder / "configs" for folder in (root(), source_root()))
    found: dict[str, Path] = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*.yaml"))):
        found.setdefault(file.stem, file)
    return found
