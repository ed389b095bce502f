"""The peer's environment: a virtual environment in .bench/peer with exactly benchmarks/peer-requirements.txt.

RLHF_BENCH_PEER_PYTHON names another interpreter with the same packages; its versions are checked all the same.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "peer-requirements.txt"
FOLDER = ROOT / ".bench" / "peer"
OVERRIDE = "RLHF_BENCH_PEER_PYTHON"


class PeerEnvironmentError(Exception):
    """The peer's environment is not what it must be."""


def peer_python() -> Path:
    """The interpreter that runs the peer; the environment is made if it is not there.

    Raises:
        PeerEnvironmentError: a package has another version than it must.
    """
    given = os.environ.get(OVERRIDE)
    python = Path(given) if given else _made()
    _check(python)
    return python


def pins() -> dict[str, str]:
    """Versions by package."""
    lines = (line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def _made() -> Path:
    python, mark = FOLDER / "bin" / "python", FOLDER / "installed"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not mark.exists() or mark.read_text() != wanted:
        print(f"Making the peer's environment in {FOLDER.relative_to(ROOT)}: about 2 GB, a minute", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        # Alone and first: asked for together with the rest, torch may come as its CUDA build, with GBs of libraries.
        subprocess.run([*pip, f"torch=={pins()['torch']}"], check=True)
        subprocess.run([*pip, "--requirement", str(REQUIREMENTS)], check=True)
        mark.write_text(wanted)
    return python


def _check(python: Path) -> None:
    program = "import sys, json, importlib.metadata as m; print(json.dumps({p: m.version(p) for p in sys.argv[1:]}))"
    ended = subprocess.run([python, "-c", program, *pins()], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise PeerEnvironmentError(
            f"{python}: {ended.stderr.strip().splitlines()[-1]}; remove {FOLDER}, or mend {OVERRIDE}, and start again"
        )
    found = {name: version.split("+")[0] for name, version in json.loads(ended.stdout).items()}
    wrong = [f"{name} {found[name]} instead of {version}" for name, version in pins().items() if found[name] != version]
    if wrong:
        raise PeerEnvironmentError(f"{python} has {', '.join(wrong)}; install benchmarks/peer-requirements.txt there")
