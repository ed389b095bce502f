"""The progress of a transfer by DVC, as watchers are told."""

from typing import Any

from fsspec.callbacks import Callback

from rlhf.progress import report_progress

_MB = 10**6


class Progress(Callback):  # type: ignore[misc]  # fsspec has no types
    """Counts the bytes of files that DVC moves one after another.

    Args:
        name: as the progress is shown.
        total: bytes of all files.
    """

    def __init__(self, name: str, total: int) -> None:
        super().__init__()
        self._name = name
        self._total = total
        self._done = 0

    def branched(self, path_1: Any, path_2: Any, **kwargs: Any) -> Callback:
        """The callback for the bytes of one file."""
        return Callback(hooks={"report": lambda size, moved, **_: self.report(moved)})

    def report(self, moved: int = 0) -> None:
        """Tell how far it is.

        Args:
            moved: bytes of the file that is under way.
        """
        report_progress(self._name, (self._done + moved) // _MB, -(-self._total // _MB))

    def finished(self, size: int) -> None:
        """A file has arrived."""
        self._done += size
        self.report()
