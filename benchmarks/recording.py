"""A recording of the terminal for the README: an animated SVG of a real plan, run and talk, hours cut to seconds.

    python -m benchmarks.recording configs/demo.yaml

The commands run in a project of their own, in a pseudo-terminal. What they write is played on a small screen, of which
a frame is kept for each change; waiting is cut, and nothing else.
"""

import argparse
import codecs
import fcntl
import html
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.plan import make_project
from benchmarks.records import ROOT

PICTURE = ROOT / "docs" / "pictures" / "terminal.svg"
COLUMNS, ROWS = 92, 26
_LONGEST_WAIT, _LAST_WAIT, _SHORTEST = 0.6, 5.0, 0.12
"""Seconds that a frame is shown: at most, the last one, and less is joined with the next."""
_MOST_FRAMES = 90
_KEY_SECONDS = 0.05
_WIDTH, _HEIGHT, _MARGIN = 8.4, 18, 14
_COLORS = {1: "#f7768e", 2: "#9ece6a", 3: "#e0af68", 4: "#7aa2f7", 5: "#bb9af7", 6: "#7dcfff", 7: "#c0caf5"}
_UNFINISHED = re.compile(r"\x1b[^A-Za-z\x07]*$")
_ESCAPE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b[=>]")


@dataclass(frozen=True)
class Style:
    """How a character looks."""

    color: str = "#c0caf5"
    bold: bool = False
    dim: bool = False


@dataclass
class Screen:
    """What a terminal shows, as far as rich and this project's commands need one.

    Attributes:
        lines: characters and their styles, the oldest first.
        row: of the cursor.
        column: of the cursor.
        style: of what comes next.
    """

    lines: list[list[tuple[str, Style]]] = field(default_factory=lambda: [[]])
    row: int = 0
    column: int = 0
    style: Style = Style()

    def write(self, text: str) -> None:
        """Show text, and do what its escape sequences say."""
        at = 0
        for match in _ESCAPE.finditer(text):
            self._print(text[at : match.start()])
            self._obey(match[1] or "", match[2] or "")
            at = match.end()
        self._print(text[at:])

    def shown(self) -> tuple[tuple[tuple[str, Style], ...], ...]:
        """The last lines, without the blanks at their ends."""
        return tuple(tuple(line) for line in self.lines[-ROWS:])

    def _print(self, text: str) -> None:
        for character in text:
            if character == "\r":
                self.column = 0
            elif character == "\n":
                self.row += 1
                self.column = 0
            elif character >= " ":
                if self.column >= COLUMNS:
                    self.row, self.column = self.row + 1, 0
                self._put(character)
            while self.row >= len(self.lines):
                self.lines.append([])

    def _put(self, character: str) -> None:
        while self.row >= len(self.lines):
            self.lines.append([])
        line = self.lines[self.row]
        line += [(" ", self.style)] * (self.column + 1 - len(line))
        line[self.column] = (character, self.style)
        self.column += 1

    def _obey(self, arguments: str, command: str) -> None:
        numbers = [int(number) for number in arguments.split(";") if number.isdigit()]
        if command == "A":
            self.row = max(0, self.row - (numbers[0] if numbers else 1))
        elif command == "K":
            line = self.lines[self.row]
            self.lines[self.row] = [] if numbers == [2] else line[: self.column]
        elif command == "m":
            self._paint(numbers or [0])

    def _paint(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number == 0:
                self.style = Style()
            elif number == 1:
                self.style = replace(self.style, bold=True)
            elif number == 2:
                self.style = replace(self.style, dim=True)
            elif 31 <= number <= 37 or 91 <= number <= 97:
                self.style = replace(self.style, color=_COLORS[number % 10])


Key = tuple[str, str]
"""Words, and what is typed once they are there."""
Frame = tuple[float, tuple[tuple[tuple[str, Style], ...], ...]]
"""Seconds that it is shown, and what."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="configs/demo.yaml")
    parser.add_argument("--question", default="What is 3 + 4 ?", help="that the policy is asked in the end")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    dialogue = (("> ", f"{options.question}\n"), ("no judgment: ", "1"), ("> ", "/quit\n"))
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="rlhf-recording-") as folder:
        root = Path(folder) / "project"
        make_project(root)
        frames = [
            *played(root, screen, ["plan", options.recipe]),
            *played(root, screen, ["run", options.recipe]),
            *played(root, screen, ["chat", "--beside", "sft"], dialogue),
        ]
    kept = thinned(frames)
    options.out.write_text(svg(kept), encoding="utf-8")
    print(f"{options.out}: {len(kept)} frames of {len(frames)}, {options.out.stat().st_size / 1000:.0f} kB")


def played(root: Path, screen: Screen, arguments: Sequence[str], keys: Sequence[Key] = ()) -> Iterator[Frame]:
    """Frames of one command, from its being typed to its end.

    Args:
        root: the project.
        screen: on which the earlier commands are.
        arguments: of `rlhf`.
        keys: words that the command waits with, and what is typed then.
    """
    screen.write("\r\n\x1b[1m$ \x1b[0m" if screen.lines != [[]] else "\x1b[1m$ \x1b[0m")
    for character in f"rlhf {' '.join(arguments)}":
        screen.write(character)
        yield _KEY_SECONDS, screen.shown()
    screen.write("\r\n")
    for seconds, text in _output(root, arguments, keys):
        screen.write(text)
        yield min(seconds, _LONGEST_WAIT), screen.shown()
    yield _LONGEST_WAIT, screen.shown()


def _output(root: Path, arguments: Sequence[str], keys: Sequence[Key]) -> Iterator[tuple[float, str]]:
    """What a command writes, and the seconds before it."""
    waiting, said, decoder = list(keys), "", codecs.getincrementaldecoder("utf-8")("replace")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    own = {"RLHF_ROOT": str(root), "PREFECT_HOME": str(root / ".prefect"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "rlhf.cli", *arguments],
        cwd=root,
        env=os.environ | own | {"TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    before, text = time.monotonic(), ""
    while True:
        try:
            text += decoder.decode(os.read(ours, 65536))
        except OSError:  # the other end is closed
            break
        cut = _UNFINISHED.search(text)
        whole, text = (text, "") if cut is None else (text[: cut.start()], text[cut.start() :])
        now = time.monotonic()
        yield now - before, whole
        before, said = now, said + whole
        due = next((at for at, (words, _) in enumerate(waiting) if words in said), None)
        if due is not None:  # words that did not come, such as a question about two equal answers, are passed over
            os.write(ours, waiting[due][1].encode())
            waiting, said = waiting[due + 1 :], ""
    os.close(ours)
    if process.wait():
        sys.exit(f"benchmarks.recording: rlhf {' '.join(arguments)} ended with status {process.returncode}")


def thinned(frames: Sequence[Frame]) -> list[Frame]:
    """Frames that differ, none shorter than the eye sees, and not more than a page can carry."""
    kept: list[Frame] = []
    for seconds, shown in frames:
        if kept and (kept[-1][1] == shown or kept[-1][0] < _SHORTEST):
            kept[-1] = (kept[-1][0] + seconds, shown)
        else:
            kept.append((seconds, shown))
    stride = -(-len(kept) // _MOST_FRAMES)
    chosen = [
        (sum(s for s, _ in kept[at : at + stride]), kept[at : at + stride][-1][1]) for at in range(0, len(kept), stride)
    ]
    chosen = [(min(seconds, 2 * _LONGEST_WAIT), shown) for seconds, shown in chosen]
    return [*chosen[:-1], (_LAST_WAIT, chosen[-1][1])]


def svg(frames: Sequence[Frame]) -> str:
    """The frames as one picture that plays for ever; where nothing moves (print), the last of them."""
    total = sum(seconds for seconds, _ in frames)
    width, height = round(COLUMNS * _WIDTH + 2 * _MARGIN), ROWS * _HEIGHT + 2 * _MARGIN
    rules, groups, begun = [], [], 0.0
    known: dict[str, int] = {}
    for number, (seconds, shown) in enumerate(frames):
        first, last = 100 * begun / total, 100 * (begun + seconds) / total
        rules.append(
            f"@keyframes k{number}{{0%,{first:.3f}%{{visibility:hidden}}{first:.3f}%,{last:.3f}%{{visibility:visible}}"
            f"{last:.3f}%,100%{{visibility:hidden}}}}#f{number}{{animation:k{number} {total:.1f}s step-end infinite}}"
        )
        groups.append(f'<g id="f{number}" visibility="hidden">{"".join(_lines(shown, known))}</g>')
        begun += seconds
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14">'
        f"<style>text{{white-space:pre}}.b{{font-weight:bold}}.d{{opacity:.6}}{''.join(rules)}</style>"
        f"<defs>{''.join(_defined(known))}</defs>"
        f'<rect width="100%" height="100%" rx="8" fill="#1a1b26"/>{"".join(groups)}</svg>\n'
    )


def _lines(shown: Sequence[Sequence[tuple[str, Style]]], known: dict[str, int]) -> Iterator[str]:
    """A frame's lines, each of which stands in the picture once, however many frames show it."""
    for number, line in enumerate(shown):
        if spans := "".join(_spans(line)):
            named = known.setdefault(spans, len(known))
            yield f'<use href="#l{named}" y="{_MARGIN + _HEIGHT * (number + 1) - 5}"/>'


def _defined(known: Mapping[str, int]) -> Iterator[str]:
    for spans, number in known.items():
        yield f'<text id="l{number}" fill="#c0caf5">{spans}</text>'


def _spans(line: Sequence[tuple[str, Style]]) -> Iterator[str]:
    at = 0
    while at < len(line):
        end, style = at, line[at][1]
        while end < len(line) and line[end][1] == style:
            end += 1
        text = "".join(character for character, _ in line[at:end])
        text = text.rstrip() if end == len(line) else text
        names = " ".join(name for name, is_on in (("b", style.bold), ("d", style.dim)) if is_on)
        marked = (f' class="{names}"' if names else "") + (f' fill="{style.color}"' if style.color != "#c0caf5" else "")
        if text:
            yield f'<tspan x="{_MARGIN + at * _WIDTH:.1f}"{marked}>{html.escape(text)}</tspan>'
        at = end


if __name__ == "__main__":
    main()
