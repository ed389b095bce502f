"""What the demo costs, in minutes, memory and disk, and which models fit which machines: two parts of the README.

    python -m benchmarks.costs            # runs the demo in a project of its own: five minutes on a quiet machine
    python -m benchmarks.costs --sizes    # only what fits, which needs no run

--busy measures on a busy machine, and says so. What fits is what `rlhf init` says of a base and a machine.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.plan import make_project, rlhf
from benchmarks.quiet import BusyError, cpu_times, others_cores
from benchmarks.readme import table, write_part
from benchmarks.records import RESULTS, ROOT, commit, machine, now
from benchmarks.runner import quiet_or_allowed
from rlhf.errors import InputError
from rlhf.paths import in_project
from rlhf.planning.recommend import recommend
from rlhf.planning.shape import ModelShape
from rlhf.planning.survey import DataSurvey, Machine, ModelSurvey
from rlhf.tracking.stores import open_store

FILE = RESULTS / "costs.json"
RECIPE = "configs/demo.yaml"
MACHINES = (("cpu", 16), ("cpu", 64), ("cuda", 24), ("cuda", 80))
_DEVICES = {"cpu": "CPU", "cuda": "one GPU"}
DATA = DataSurvey(10_000, 10_000, 8000, (100, 400), (80, 200))
SHAPES = {
    "SmolLM2-135M": ModelShape(134_515_008, 49_152, 576, 30, 1536, 9, 192, True),
    "Qwen2.5-0.5B": ModelShape(494_032_768, 151_936, 896, 24, 4864, 14, 128, True),
    "Qwen2.5-1.5B": ModelShape(1_543_714_304, 151_936, 1536, 28, 8960, 12, 256, True),
    "Llama-3.2-3B": ModelShape(3_212_749_824, 128_256, 3072, 28, 8192, 24, 1024, True),
    "Qwen2.5-7B": ModelShape(7_615_616_512, 152_064, 3584, 28, 18_944, 28, 512, False),
}
"""By their config.json."""
_STORES = ("mlruns", ".rlhf", ".prefect", "embedded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, and say so")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait until the machine is quiet")
    parser.add_argument("--sizes", action="store_true", help="write only what fits, without a run")
    options = parser.parse_args()
    write_part("sizes", sizes(), ROOT / "README.md")
    if options.sizes:
        return
    try:
        is_quiet = quiet_or_allowed(options.patience, options.busy)
    except BusyError as error:
        sys.exit(f"benchmarks.costs: {error}")
    with tempfile.TemporaryDirectory(prefix="rlhf-costs-") as folder:
        row = measure(Path(folder) / "project") | {"quiet": is_quiet}
    FILE.write_text(json.dumps(row, indent=1) + "\n")
    write_part("costs", part(row), ROOT / "README.md")
    print(part(row))


def measure(root: Path) -> dict[str, Any]:
    """Run the demo, and again with all stages cached."""
    make_project(root)
    before, begun = cpu_times(), time.monotonic()
    report = json.loads(rlhf(root, "run", RECIPE, "--json"))
    seconds = time.monotonic() - begun
    busy = others_cores(before, cpu_times())
    begun = time.monotonic()
    rlhf(root, "run", RECIPE, "--json")
    cached = time.monotonic() - begun
    with in_project(root):
        runs = open_store().runs([stage["run_id"] for stage in report["stages"]])
    peaks = [run.metrics[name] for run in runs.values() for name in run.metrics if name.endswith("/peak_memory_mb")]
    return {
        "seconds": round(seconds, 1),
        "cached_seconds": round(cached, 1),
        "peak_mb": round(max(peaks)),
        "disk_mb": round(sum(_size(root / name) for name in _STORES) / 1e6),
        "environment_mb": round(_size(Path(sys.prefix).resolve()) / 1e6),
        "others_cores": round(busy, 3),
        "when": now(),
        "commit": commit(),
        "machine": machine(),
    }


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def part(row: Mapping[str, Any]) -> str:
    """The box."""
    busy = "" if row["quiet"] else f", **a busy machine: others used {row['others_cores']:.1f} cores**"
    return (
        f"> **What the demo costs**: {row['seconds'] / 60:.1f} minutes, {row['peak_mb'] / 1000:.1f} GB of memory, "
        f"{row['disk_mb']:,} MB of disk, no GPU; the same again, with all stages cached, "
        f"{row['cached_seconds']:.0f} s. "
        f"The installation takes {row['environment_mb'] / 1000:.1f} GB. Measured by `python -m benchmarks.costs` on "
        f"{row['machine']}{busy} ({row['when']} UTC, commit {row['commit']}). Yours: `rlhf plan RECIPE` says it before "
        "the run; by model size: [memory and time](docs/memory-and-time.md)."
    )


def sizes() -> str:
    """A table of bases and machines: whole models, adapters, or not at all."""
    rows = []
    for name, shape in SHAPES.items():
        cells = [_how(shape, Machine(device, memory * 10**9, 8)) for device, memory in MACHINES]
        rows.append([name, f"{shape.parameters / 1e9:.2g}B", *cells])
    header = ["base, such as", "parameters", *(f"{memory} GB ({_DEVICES[device]})" for device, memory in MACHINES)]
    return (
        f"{table(header, rows, right=[1])}\n\nBy the model of memory of `rlhf init` and `rlhf plan`, for prompts of up "
        f"to {DATA.prompt_tokens[1]} and responses of up to {DATA.response_tokens[1]} tokens "
        "(`python -m benchmarks.costs --sizes`)."
    )


def _how(shape: ModelShape, machine: Machine) -> str:
    try:
        choices = {
            choice.name: choice.value for choice in recommend(DATA, ModelSurvey("", shape, None, None), machine, None)
        }
    except InputError:
        return "no"
    return "adapters" if "rl.lora" in choices else "all weights"


if __name__ == "__main__":
    main()
