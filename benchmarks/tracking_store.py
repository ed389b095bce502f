"""How long `rlhf runs` and `rlhf compare` take on a store of many runs: whole processes, imports included.

Makes the store in a temporary folder, and prints one JSON object.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.made_runs import STAGES, make_store
from benchmarks.records import commit, machine
from rlhf.paths import configure_environment


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", type=int, default=1000, help="runs of pipelines [default: 1000]")
    parser.add_argument("--repeats", type=int, default=5, help="of each command [default: 5]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rlhf-store-") as folder:
        root = Path(folder)
        begun = time.perf_counter()
        ids = make_project(root, options.pipelines, empty_store(root / "empty.db"))
        making_s = time.perf_counter() - begun
        commands = {"runs": ["runs"], "compare": ["compare", *ids[:2]]}
        seconds = {name: [timed(root, command) for _ in range(options.repeats)] for name, command in commands.items()}
        result = {
            "num_runs": options.pipelines * (len(STAGES) + 1),
            "store_mb": (root / "mlruns" / "mlflow.db").stat().st_size / 1e6,
            "making_s": making_s,
            **{f"{name}_s": statistics.median(one) for name, one in seconds.items()},
            **{f"{name}_all_s": one for name, one in seconds.items()},
            "commit": commit(),
            "machine": machine(),
        }
    print(json.dumps(result))


def empty_store(path: Path) -> Path:
    """MLflow's tables, with nothing in them."""
    configure_environment()
    from mlflow.tracking import MlflowClient

    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def make_project(root: Path, num_pipelines: int, empty: Path) -> list[str]:
    """A project folder with a store of many runs. Returns the pipelines' ids, the newest first."""
    (root / "mlruns").mkdir(parents=True)
    shutil.copy(empty, root / "mlruns" / "mlflow.db")
    return make_store(root / "mlruns" / "mlflow.db", root / "mlruns" / "artifacts", num_pipelines)


def timed(root: Path, command: Sequence[str]) -> float:
    """Seconds of one command, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "rlhf.cli", *command],
        env=environment | {"RLHF_ROOT": str(root)},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
