"""Removal of what is needed no more, which is no reason to lose what was made."""

import logging
import shutil
from pathlib import Path

from rlhf.errors import one_line

logger = logging.getLogger(__name__)


def tidy_up(folder: Path) -> None:
    """Remove a folder that nothing needs any more; a line in the log says what is left where that fails."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning(
            "%s is needed no more and could not be removed (%s); `rlhf gc --yes` tries again", folder, one_line(error)
        )
