"""A person's own 200 pairs and a real pretrained model, from the file to an answer: ten minutes, no setting touched.

The commands are those of the README, typed in a terminal of 80 columns. The data and the model are public and no part
of the project; where they are not there, this is skipped.
"""

import fcntl
import gzip
import os
import pty
import shutil
import struct
import sys
import termios
import time
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "realdata"
PAIRS = SHARED / "preference" / "hh_harmless_base_test.jsonl.gz"
MODEL = SHARED / "model" / "stories260K-hf"
COLUMNS = 80

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not PAIRS.is_file(), reason=f"the real data is not there: no {PAIRS}"),
]


def typed(root: Path, *arguments: str, keys: tuple[tuple[bytes, bytes], ...] = ()) -> str:
    """What a command shows in a terminal of 80 columns, where a person waits for words and types keys then."""
    waiting, seen = list(keys), 0
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(root)
        os.execve(
            sys.executable, [sys.executable, "-m", "rlhf.cli", *arguments], os.environ | {"TERM": "xterm-256color"}
        )
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        shown += part
        if waiting and waiting[0][0] in shown[seen:]:
            seen = len(shown)
            os.write(terminal, waiting.pop(0)[1])
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    text = shown.decode(errors="replace").replace("\r\n", "\n")
    print(f"\n$ rlhf {' '.join(arguments)}\n{text}")
    assert os.waitstatus_to_exitcode(status) == 0, text
    return text


def test_from_a_file_to_an_answer(
    project_root: Path, migrated_prefect: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    shutil.copytree(migrated_prefect, project_root / ".prefect")
    (project_root / "configs").mkdir()
    monkeypatch.setenv("PREFECT_HOME", str(project_root / ".prefect"))
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    with gzip.open(PAIRS, "rt", encoding="utf-8") as file:
        # The shortest, for a model that reads 512 tokens of two characters each.
        (tmp_path / "pairs.jsonl").write_text("".join(sorted(file, key=len)[:200]))

    begun = time.monotonic()
    assert "To record this version" in typed(project_root, "data", "import", str(tmp_path / "pairs.jsonl"))
    assert "rlhf run configs/mine.yaml" in typed(project_root, "init", "mine", "--base", str(MODEL))
    assert "PPO" in typed(project_root, "plan", "configs/mine.yaml")
    assert "the SFT policy" in typed(project_root, "run", "configs/mine.yaml")
    said = (b"> ", b"Tell me a story.\n"), (b"no judgment: ", b"1"), (b"> ", b"/quit\n")
    assert "Which is better?" in typed(project_root, "chat", "--beside", "sft", keys=said)
    assert len(list((project_root / "inbox").glob("*.jsonl"))) == 1
    minutes = (time.monotonic() - begun) / 60
    print(f"{minutes:.1f} minutes")
    assert minutes < 10
