"""`make bench-gpu`: 160M and 1B parameters, 512-token responses, bf16, on one CUDA device: every sharing mode and TRL.

Prints one JSON line a run and writes the README's part: tokens a second in generation and in training, model FLOP
utilization of training, peak CUDA memory. Without a CUDA device it refuses. The peer stays fp32, which is all it knows.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks import readme, records
from benchmarks.arguments import Settings
from benchmarks.arithmetic import update_flops
from benchmarks.made_models import SHAPES, made_elsewhere
from benchmarks.peer_environment import PeerEnvironmentError, peer_python
from benchmarks.records import Result
from benchmarks.runner import RunFailedError, run_side

RESULTS = records.RESULTS / "gpu.jsonl"
SIZES = ("160M", "1B")
SIDES = ("none", "adapters", "trunk", "peer")
TRAINING = (
    "policy_training",
    "value_training",
    "policy_and_value_training",
    "train_forward",
    "backward",
    "optimizer",
)


@dataclass(frozen=True)
class GpuRun:
    """One run, and where it was."""

    size: str
    side: str
    device: str
    settings: Settings
    result: Result
    when: str
    commit: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=SIZES)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--rollout", type=int, default=64)
    parser.add_argument("--updates", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--response-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0, help="dense bf16 peak of the device; 989 is an H100's or H200's"
    )
    options = parser.parse_args()
    device = cuda_device()
    if device is None:
        sys.exit("bench-gpu: torch finds no CUDA device here, and this benchmark is about nothing else; run it on one")
    settings = Settings(
        episodes=options.updates * options.rollout,
        rollout=options.rollout,
        micro_batch=options.micro_batch,
        ppo_epochs=1,
        response_tokens=options.response_tokens,
        threads=options.threads,
        device="cuda",
    )
    runs = [_run(size, side, device, settings) for size in options.sizes for side in options.sides]
    rows = [summarize(run, options.peak_tflops) for run in runs if run is not None]
    for row in rows:
        print(json.dumps(row), flush=True)
    readme.write_part("gpu", part(rows, device, options.peak_tflops))


def cuda_device() -> str | None:
    """The device's name, asked for in another process, so that this one holds none of its memory."""
    program = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return ended.stdout.strip() or None


def _run(size: str, side: str, device: str, settings: Settings) -> GpuRun | None:
    """A run; None, and a line that says so, where it failed: memory may not do for all of them."""
    flags = [*made_elsewhere(size).flags(), *settings.flags()]
    try:
        if side == "peer":
            timed = run_side(peer_python(), "benchmarks.peer_ppo", flags, settings.threads, f"{size}, peer")
        else:
            flags += ["--dtype", "bf16", "--sharing", side]
            timed = run_side(sys.executable, "benchmarks.our_run", flags, settings.threads, f"{size}, {side}")
    except (RunFailedError, PeerEnvironmentError) as error:
        print(f"bench-gpu: {size}, {side}: no figure, because {error}", file=sys.stderr)
        return None
    run = GpuRun(size, side, device, settings, timed.result, records.now(), records.commit())
    records.append(RESULTS, run)
    return run


def summarize(run: GpuRun, peak_tflops: float) -> Result:
    """Speed, utilization and memory of a run.

    Utilization counts the operations that training four separate models takes, so it is given for those alone.
    """
    result, settings = run.result, run.settings
    tokens = settings.episodes * settings.response_tokens
    training = sum(result["seconds"].get(name, 0.0) for name in TRAINING)
    flops = update_flops(SHAPES[run.size], settings).training * settings.num_updates
    separate = run.side in ("none", "peer")
    return {
        "case": f"gpu-{run.size}-{run.side}",
        "parameters": result["parameters"],
        "episodes_per_s": result["episodes_per_s"],
        "generation_tokens_per_s": round(tokens / result["seconds"]["generation"]),
        "training_tokens_per_s": round(tokens / training),
        "training_mfu": round(flops / training / (peak_tflops * 1e12), 3) if separate else None,
        "peak_cuda_mb": result["peak_cuda_mb"],
        "seconds": result["seconds"],
        "settings": asdict(settings),
        "when": run.when,
        "commit": run.commit,
        "versions": result["versions"],
    }


def part(rows: Sequence[Result], device: str, peak_tflops: float) -> str:
    """The README's part on GPUs."""
    if not rows:
        return "No run succeeded."
    header = ["case", "episodes/s", "generation, tokens/s", "training, tokens/s", "training MFU", "peak CUDA MB"]
    cells = [
        [
            f"`{row['case']}`",
            f"{row['episodes_per_s']:.2f}",
            f"{row['generation_tokens_per_s']:,}",
            f"{row['training_tokens_per_s']:,}",
            "" if row["training_mfu"] is None else f"{row['training_mfu']:.1%}",
            f"{row['peak_cuda_mb']:,}",
        ]
        for row in rows
    ]
    last = rows[-1]
    lead = (
        f"One {device}; {last['settings']['rollout']} episodes a rollout, {last['settings']['response_tokens']} "
        f"response tokens, 1 PPO epoch, ours in bf16, the peer in fp32. Utilization is of {peak_tflops:g} TFLOP/s. "
        f"{last['when']} UTC, commit {last['commit']}, torch {last['versions']['torch']}."
    )
    return f"{lead}\n\n{readme.table(header, cells, right=range(1, len(header)))}"


if __name__ == "__main__":
    main()
