import os
from pathlib import Path

import pytest

_SHARED = Path(os.environ.get("RLHF_SHARED", Path(__file__).parents[3] / ".." / "shared"))


@pytest.fixture
def realdata():
    """The folder of real data; the test is skipped where it is missing."""
    folder = _SHARED / "realdata"
    if not folder.is_dir():
        pytest.skip(f"the real data is not at {folder}; RLHF_SHARED says where it is")
    return folder
