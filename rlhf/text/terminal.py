"""Text for a terminal, a pipe or a log, without commands to the terminal.

Commit subjects, file names, tags, branch names and what libraries say come from outside. A terminal obeys the control
characters in them: it changes its title, its colours, the order of the letters, or the lines above.
"""

import logging
import re
import sys
from typing import TextIO

# C0 but for tab and line feed, DEL, C1, line and paragraph separators, what turns the direction of writing, and halves
# of characters, which is how Python has the bytes of a file name that is not UTF-8.
_COMMAND = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""A text in which every character that commands a terminal stands as an escape, such as `\u001b`.

    JSON stays the JSON that it is. Tabs and line feeds stay.
    """
    return _COMMAND.sub(lambda command: f"\\u{ord(command[0]):04x}", text)


def say(text: str = "", *, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print text as `printable` has it. Nothing else in this project prints.

    Args:
        text: of any origin.
        file: None for standard output.
        end: what follows the text.
        flush: show it at once.
    """
    print(printable(text), file=file or sys.stdout, end=end, flush=flush)


class PrintableFormatter(logging.Formatter):
    """Formats log lines as `printable` has them."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return printable(super().format(record))


def make_logs_printable() -> None:
    """See to the log lines that nobody has made a handler for, which Python puts on standard error."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
