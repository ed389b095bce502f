"""A project with tracked data."""

from pathlib import Path

import pytest
from outside import commit, write_data


@pytest.fixture
def project(project_root: Path) -> Path:
    """A project with data of three rows a kind, tracked and committed, and an empty inbox."""
    from rlhf.data.versions.resolve import track

    write_data(project_root / "data")
    track(project_root)
    (project_root / ".gitignore").write_text("/data\n/inbox\n/mlruns\n/.rlhf\n/.prefect\n")
    commit(project_root, "Data")
    (project_root / "inbox").mkdir()
    return project_root
