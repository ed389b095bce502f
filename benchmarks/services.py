"""What orchestration costs: the start of the services, their share of the demo, and a run that finds everything made.

Starts `rlhf up` on a project folder of its own, with empty stores, and runs the demo through the worker, twice.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.quiet import wait_until_quiet
from benchmarks.readme import table, write_part
from benchmarks.records import ROOT, commit, machine

TRAINING = ("sft", "reward_model", "reward_audit", "policy", "evaluation")
_ENDS = ("Completed", "Failed", "Crashed", "Cancelled")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deployment", default="demo", help="whose recipe is run [default: demo]")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, and say so")
    options = parser.parse_args(arguments)
    others = None if options.busy else wait_until_quiet(60)
    with tempfile.TemporaryDirectory(prefix="rlhf-services-") as folder:
        row = measure(_project(Path(folder) / "project"), options.deployment)
    row |= {"deployment": options.deployment, "quiet": others is not None, "commit": commit(), "machine": machine()}
    print(json.dumps(row))
    if options.deployment == "demo":
        write_part("services", part(row))


def measure(root: Path, deployment: str) -> dict[str, Any]:
    """Seconds of everything."""
    ports = [_free_port(), _free_port()]
    begun = time.monotonic()
    command = [sys.executable, "-m", "rlhf.cli", "up", "--no-password"]
    command += ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    environment = os.environ | {"RLHF_ROOT": str(root), "PREFECT_HOME": str(root / ".prefect")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            said = next((line for line in process.stdout if line.startswith("Ctrl-C")), None)
            if said is None:
                raise SystemExit("`rlhf up` did not start")
            start_s = time.monotonic() - begun
            api = httpx.Client(base_url=f"http://127.0.0.1:{ports[0]}/api", timeout=30)
            token = api.get("/csrf-token", params={"client": "benchmark"}).raise_for_status().json()["token"]
            api.headers.update({"Prefect-Csrf-Client": "benchmark", "Prefect-Csrf-Token": token})
            first = _run(api, deployment)
            again = _run(api, deployment)
        finally:
            process.terminate()
            process.communicate()
    training_s = sum(first["stages"][name] for name in TRAINING)
    return {
        "start_s": start_s,
        "run_s": first["seconds"],
        "training_s": training_s,
        "orchestration_s": first["seconds"] - training_s,
        "share": (first["seconds"] - training_s) / first["seconds"],
        "cached_s": again["seconds"],
    }


def part(row: dict[str, Any]) -> str:
    """What stands in benchmarks/README.md."""
    rows = [
        ["`rlhf up` until both UIs answer and all deployments are there", f"{row['start_s']:.1f} s", "60 s"],
        ["the demo through the worker, from submission to Completed", f"{row['run_s']:.1f} s", ""],
        [
            "of which neither training nor evaluation",
            f"{row['orchestration_s']:.1f} s ({row['share']:.1%})",
            "25 s, and 10%",
        ],
        ["the same again, all stages cached", f"{row['cached_s']:.1f} s", "20 s"],
    ]
    quiet = "a quiet machine" if row["quiet"] else "a BUSY machine"
    return f"{table(['what', 'seen', 'at most'], rows)}\n\nCommit {row['commit']}, {row['machine']}, {quiet}."


def _run(api: httpx.Client, name: str) -> dict[str, Any]:
    """Submit a deployment as it is, and wait. Seconds from submission to its end, and of each stage's own work."""
    deployments = api.post("/deployments/filter", json={"limit": 200}).raise_for_status().json()
    deployment = next(one for one in deployments if one["name"] == name)
    begun = time.monotonic()
    created = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={}).raise_for_status().json()
    while True:
        run = api.get(f"/flow_runs/{created['id']}").raise_for_status().json()
        if run["state"]["name"] in _ENDS:
            break
        time.sleep(0.25)
    seconds = time.monotonic() - begun
    if run["state"]["name"] != "Completed":
        raise SystemExit(f"the run ended as {run['state']['name']}: {run['state']['message']}")
    wanted = {"artifacts": {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["stages"]}}}
    (stages,) = api.post("/artifacts/filter", json=wanted).raise_for_status().json()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in stages["data"].splitlines()[2:]]
    return {"seconds": seconds, "stages": {row[0]: float(row[2]) for row in rows}}


def _project(root: Path) -> Path:
    """A folder with its own stores, and what git and DVC know of the data."""
    root.mkdir(parents=True)
    for name in ("data.dvc", ".dvc/config", ".gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
