"""What comes from outside reaches a terminal, a pipe and a log as text, and commands nothing."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from rlhf.cli.main import main
from rlhf.cli.progress_view import progress_view
from rlhf.text.console import TextConsole
from rlhf.text.terminal import printable, say
from rlhf.tracking.runs import close_run, open_pipeline, set_tags

OSC = "\x1b]0;PWNTITLE\x07"
HOSTILE = f"{OSC}\x1b[31mred\x9b2J\r\b\u202e[/bold] :smile:"
# What no text may bring to a terminal: C0 but for line feed, C1, and what turns the direction of writing.
COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# What rich itself says to a terminal: colours, and where the cursor stands.
RICH = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def rlhf(*arguments: str, code: int = 0) -> str:
    """All that a command says into a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "rlhf.cli", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    return said


def rlhf_on_terminal(*arguments: str) -> str:
    """All that a command says to a terminal, but for what rich says to it."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"}
    command = [sys.executable, "-m", "rlhf.cli", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        said = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # nobody writes any more
                break
            said += block
            if not block:
                break
    os.close(ours)
    return RICH.sub("", said.decode())


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def tampered(project_root: Path) -> Path:
    """A store whose run has tags, a name and settings that somebody else has written."""
    tags = {"recipe": HOSTILE, "mlflow.source.git.commit": HOSTILE, "rlhf.data_md5": HOSTILE}
    run_id = open_pipeline(HOSTILE, None, {"name": HOSTILE, "seed": 0}, tags)
    more = ("alarms", "rlhf.verdict", "rlhf.data_path", "rlhf.run.sft", "rlhf.error", "rlhf.group")
    set_tags(run_id, dict.fromkeys(more, HOSTILE) | {"alarms": f"[/bold],{HOSTILE}"})
    close_run(run_id, "FINISHED")
    (project_root / "run").write_text(run_id)
    return project_root


@pytest.mark.parametrize("show", [rlhf, rlhf_on_terminal])
def test_tags_of_a_run(tampered: Path, show):
    """Row 23: the tag `alarms=[/bold]` ended `rlhf runs` in a MarkupError. Row 13: escapes of tags went out raw."""
    said = show("runs")
    assert "defect" not in said
    assert "[/bold]" in said.replace("\n", "")
    assert "\\u001b]0;" in said
    assert COMMANDS.search(said) is None


@pytest.mark.parametrize("command", ["verify", "lineage", "compare", "reproduce"])
def test_tags_of_a_run_in_other_commands(tampered: Path, command: str, capfd: pytest.CaptureFixture[str]):
    """Row 13: whatever a command makes of such a run, it says so in text."""
    main([command, (tampered / "run").read_text()])
    said = "".join(capfd.readouterr())
    assert said
    assert COMMANDS.search(said) is None


def test_json_stays_json(tampered: Path):
    """Row 13: what programs read is what was written, escapes and all."""
    assert json.loads(rlhf("runs", "--json"))["runs"][0]["recipe"] == HOSTILE


@pytest.mark.parametrize("show", [rlhf, rlhf_on_terminal])
def test_subject_of_a_commit(embedded_project: Path, show):
    """Row 13: in `rlhf data log` a commit's subject set the title of the terminal; piped, it ended in a traceback."""
    file = embedded_project / "data.dvc"
    file.write_text(file.read_text() + 'desc: "\\e]0;PWNDESC\\a"\n')
    git(embedded_project, "add", "data.dvc")
    git(embedded_project, "commit", "--message", HOSTILE)
    said = show("data", "log")
    assert "defect" not in said
    assert "\\u001b]0;PWNTITLE\\u0007" in said
    assert "\\u001b]0;PWNDESC\\u0007" in said
    assert COMMANDS.search(said) is None


@pytest.mark.parametrize("show", [rlhf, rlhf_on_terminal])
def test_name_of_a_file(project_root: Path, tmp_path: Path, show):
    """Row 13: `rlhf data import` of a file with such a name ended in a traceback of colorama."""
    row = {"prompt": "What is 1 + 1 ?", "chosen": "2", "rejected": "3"}
    file = tmp_path / f"{HOSTILE.replace('/', '')}.jsonl"
    file.write_text("".join(json.dumps(row | {"prompt": f"What is {n} + 1 ?"}) + "\n" for n in range(5)))
    said = show("data", "import", str(file))
    assert "defect" not in said
    assert "data/ is tracked by DVC" in said
    assert "\\u001b]0;PWNTITLE\\u0007" in said
    assert COMMANDS.search(said) is None


def test_name_of_a_branch_in_an_error(embedded_project: Path):
    """Row 13: errors name what was given, and what libraries and git say of it."""
    said = rlhf("data", "diff", HOSTILE.replace("\x00", ""), code=2)
    assert said.startswith("rlhf: error: \\u001b]0;PWNTITLE\\u0007")
    assert COMMANDS.search(said) is None


def test_arguments_that_are_too_many(capsys: pytest.CaptureFixture[str]):
    """Row 13: a shell fills in file names, and the parser names those that it has no use for."""
    with pytest.raises(SystemExit):
        main(["data", "import", "a.jsonl", HOSTILE])
    said = capsys.readouterr().err
    assert "unrecognized arguments: \\u001b]0;PWNTITLE" in said
    assert COMMANDS.search(said) is None


def test_warnings(capfd: pytest.CaptureFixture[str]):
    """Row 13: log lines of this project, above the bars and where nobody has made a handler."""
    with progress_view():
        logging.getLogger("rlhf.test").warning("of a server: %s", HOSTILE)
    said = "".join(capfd.readouterr())
    assert "\\u001b]0;PWNTITLE" in said.replace("\n", "")
    assert COMMANDS.search(said) is None
    script = (
        "import logging, rlhf.cli.main; rlhf.cli.main.main(['runs', '--limit', '0']);"
        "logging.getLogger('rlhf').warning('%s', '\\x1b]0;X\\x07')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "\\u001b]0;X\\u0007" in done.stderr


def test_tables_show_text_as_text(capsys: pytest.CaptureFixture[str]):
    """Row 23: markup in a cell, a heading or a line is not interpreted, and an escape is not cut in two."""
    table = Table(HOSTILE)
    table.add_column(Text(HOSTILE))
    table.add_row(HOSTILE, Text(HOSTILE, style="red"))
    console = TextConsole(width=200)
    console.print(table)
    console.print(HOSTILE, Text.assemble((HOSTILE, "bold"), " more"), f"[bold]{HOSTILE}")
    said = capsys.readouterr().out
    assert len(re.findall(r"\\u001b]0;PWNTITLE.*?\[/bold\] :smile:", said)) >= 5  # a text of rich's may be folded
    assert COMMANDS.search(said) is None


def test_a_name_that_is_not_utf_8(capsys: pytest.CaptureFixture[str]):
    """Row 13: half a character cannot be written to a terminal at all."""
    say(os.fsdecode(b"caf\xe9\tand\nmore"))
    assert capsys.readouterr().out == "caf\\udce9\tand\nmore\n"
    assert printable("naïve 漢字 👩‍👩‍👧 \u00a0") == "naïve 漢字 👩‍👩‍👧 \u00a0"


def test_nothing_prints_by_itself():
    """Rows 13 and 23: every text goes through `rlhf.text.terminal` or `rlhf.text.console`."""
    root = Path(__file__).parents[2]
    by_itself = re.compile(r"(?<![\w.])print\(|import Console\b|rich\.print\b|rich\.markup|from_markup")
    files = [path for folder in ("rlhf", "flows", "tasks") for path in (root / folder).rglob("*.py")]
    assert {path.name for path in files if by_itself.search(path.read_text())} == {"terminal.py", "console.py"}
