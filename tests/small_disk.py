"""A small disk of a test's own, which can be filled, where this system lets a disk be mounted."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """It is mounted at `folder`."""

    folder: Path

    def fill(self, room: int = 0) -> None:
        """Leave so many bytes free, where more are."""
        with suppress(OSError), (self.folder / "filler").open("ab", buffering=0) as filler:
            left = shutil.disk_usage(self.folder).free - room
            while left > 0:
                left -= filler.write(bytes(min(left, 2**20)))

    @contextmanager
    def kept_full(self) -> Iterator[None]:
        """Within the block whatever is removed makes room for a moment only; after it there is room again."""
        over = threading.Event()

        def fill() -> None:
            self.fill()
            while not over.wait(0.02):
                self.fill()

        self.fill()
        filling = threading.Thread(target=fill)
        filling.start()
        try:
            yield
        finally:
            over.set()
            filling.join()
            self.make_room()

    def make_room(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount one, in memory, at a new folder; the test is skipped where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a disk; tests/security/test_full_disk.py brings its errors about")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
