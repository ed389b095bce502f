"""`make bench-learning`: does ours learn as well as TRL 1.12.0, and how much sooner?

On the demo's task, from the demo's three models, five seeds a side in turn. Policies are saved along the way (that
time is not counted) and judged by one evaluator. Results go to benchmarks/results/learning.jsonl, a line a run, so
that an interrupted benchmark goes on at the run it was at; then come a JSON line, a figure and the README's part.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import quiet, readme, records
from benchmarks.arguments import Settings
from benchmarks.curves import Curves, compare, stack, within_spread
from benchmarks.made_models import ModelSet, made_elsewhere
from benchmarks.peer_environment import PeerEnvironmentError, peer_python
from benchmarks.runner import RunFailedError, quiet_or_allowed, run_side

RESULTS = records.RESULTS / "learning.jsonl"
PICTURE = records.ROOT / "benchmarks" / "pictures" / "learning.png"
ROWS = 128
"""In a forward pass of ours. The peer is slower with that many than with the 64 of the common settings."""
ADAPTERS_LEARNING_RATE = 3e-3
_OWN_MODELS = ["--side-by-side", "--micro-batch", str(ROWS)]
_SHARED = ["--dtype", "bf16", "--micro-batch", str(ROWS)]
SIDES = {
    "ours-bf16": ("demo", ["--dtype", "bf16", *_OWN_MODELS]),
    "peer": ("demo", []),
    "ours-fp32": ("demo", ["--dtype", "fp32", *_OWN_MODELS]),
    "ours-trunk": ("demo", [*_SHARED, "--sharing", "trunk"]),
    "ours-adapters": (
        "demo-lora",
        [*_SHARED, "--sharing", "adapters", "--learning-rate", str(ADAPTERS_LEARNING_RATE)],
    ),
}
"""Models and flags by side, in the order in which they run, seed by seed. A flag here goes before the common settings:
how many rows a forward pass has is each side's own, and so is the learning rate of adapters, which learn nothing at
that of a whole model."""
COMPARED = ("ours-bf16", "peer", "ours-fp32")
"""Those that a target is about; the others are reported beside them."""
TARGET_LOW, TARGET_SHARE = -0.05, 1 / 3


@dataclass(frozen=True)
class LearningRun:
    """One side's run from one seed: curves over the saved policies, the start included."""

    session: str
    side: str
    seed: int
    episodes: list[int]
    seconds: list[float]
    gold: list[float]
    num_prompts: int
    settings: dict[str, Any]
    others_cores: float
    quiet: bool
    when: str
    commit: str
    machine: str
    result: dict[str, Any]


def main() -> None:
    options = _options()
    try:
        _learn(options)
    except (quiet.BusyError, PeerEnvironmentError, RunFailedError) as error:
        sys.exit(f"bench-learning: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=64)
    parser.add_argument("--ppo-epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=6e-4, help="of policy and value model")
    parser.add_argument("--kl-coef", type=float, default=0.1)
    parser.add_argument("--response-tokens", type=int, default=20, help="the demo's; a hedged product needs 17")
    parser.add_argument("--rollout", type=int, default=128)
    parser.add_argument("--micro-batch", type=int, default=64, help="the peer's")
    parser.add_argument("--snapshot-every", type=int, default=4, help="updates")
    parser.add_argument("--num-prompts", type=int, default=1024, help="held-out prompts of an evaluation")
    others = [side for side in SIDES if side not in COMPARED]
    parser.add_argument("--also", nargs="*", choices=others, default=others, help="sharing modes beside the comparison")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--patience", type=float, default=300.0)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="use no run of an earlier call")
    return parser.parse_args()


def settings_of(options: argparse.Namespace, seed: int) -> Settings:
    """The settings of both sides."""
    return Settings(
        episodes=options.updates * options.rollout,
        rollout=options.rollout,
        micro_batch=options.micro_batch,
        ppo_epochs=options.ppo_epochs,
        response_tokens=options.response_tokens,
        temperature=1.0,
        learning_rate=options.learning_rate,
        kl_coef=options.kl_coef,
        missing_eos_penalty=1.0,
        ends=True,
        seed=seed,
        threads=options.threads,
        snapshot_every=options.snapshot_every,
    )


def _learn(options: argparse.Namespace) -> None:
    fingerprint = records.fingerprint(settings_of(options, 0), options.num_prompts, SIDES)
    session = records.current_session(RESULTS, fingerprint, options.fresh)
    wanted = [*COMPARED, *options.also]
    models, python = {SIDES[side][0]: made_elsewhere(SIDES[side][0]) for side in wanted}, peer_python()
    done = {(row["side"], row["seed"]) for row in records.read_rows(RESULTS) if row["session"] == session}
    for seed in range(1, options.seeds + 1):
        for side in wanted:
            if (side, seed) not in done:
                is_quiet = quiet_or_allowed(options.patience, options.busy)
                run = _run(side, seed, session, is_quiet, models[SIDES[side][0]], python, options)
                records.append(RESULTS, run)
    rows = [row for row in records.read_rows(RESULTS) if row["session"] == session]
    report(rows)


def _run(
    side: str, seed: int, session: str, is_quiet: bool, models: ModelSet, python: Path, options: argparse.Namespace
) -> LearningRun:
    settings = settings_of(options, seed)
    with tempfile.TemporaryDirectory(prefix="bench_snapshots_") as folder:
        flags = [*models.flags(), *settings.flags(), "--snapshots", folder, *SIDES[side][1]]
        name = f"seed {seed}, {side}"
        if side == "peer":
            timed = run_side(python, "benchmarks.peer_ppo", flags, settings.threads, name)
        else:
            timed = run_side(sys.executable, "benchmarks.our_run", flags, settings.threads, name)
        saved = sorted(Path(folder).iterdir())
        gold = _evaluate([models.policy, *saved], models, settings, options.num_prompts)
    updates = [int(path.name.removeprefix("update_")) for path in saved]
    return LearningRun(
        session=session,
        side=side,
        seed=seed,
        episodes=[0, *(update * settings.rollout for update in updates)],
        seconds=[0.0, *(timed.result["update_seconds"][update - 1] for update in updates)],
        gold=gold["gold"],
        num_prompts=gold["num_prompts"],
        settings=asdict(replace(settings, seed=0)),
        others_cores=timed.others_cores,
        quiet=is_quiet,
        when=records.now(),
        commit=records.commit(),
        machine=records.machine(),
        result=timed.result,
    )


def _evaluate(policies: Sequence[Path], models: ModelSet, settings: Settings, num_prompts: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench_") as folder:
        out = Path(folder) / "gold.json"
        flags = ["--models", models.folder, "--out", out, "--num-prompts", str(num_prompts)]
        flags += ["--response-tokens", str(settings.response_tokens), "--threads", str(settings.threads)]
        command = [sys.executable, "-m", "benchmarks.evaluate_policies", *map(str, policies), *map(str, flags)]
        ended = subprocess.run(command, cwd=records.ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RunFailedError(f"benchmarks.evaluate_policies:\n{ended.stderr[-2000:]}")
        judged: dict[str, Any] = json.loads(out.read_text())
    return judged


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the JSON line, draw the figure, write the README's part."""
    from benchmarks.figures import draw_learning

    by_side = {side: [row for row in rows if row["side"] == side] for side in SIDES}
    curves = {side: stack(found) for side, found in by_side.items() if found}
    line = {"case": "learning"} | compare(curves["ours-bf16"], curves["peer"])
    line["target_low"], line["target_share"] = TARGET_LOW, round(TARGET_SHARE, 4)
    line["fp32"] = compare(curves["ours-fp32"], curves["peer"])
    line["bf16_against_fp32"] = within_spread(curves["ours-bf16"], curves["ours-fp32"])
    line["quiet"] = all(row["quiet"] for row in rows)
    print(json.dumps(line), flush=True)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    draw_learning(curves, PICTURE)
    readme.write_part("learning", part(line, curves, rows[-1]))


def part(line: Mapping[str, Any], curves: Mapping[str, Curves], last: Mapping[str, Any]) -> str:
    """The README's part on learning."""
    rows = [
        [
            side,
            f"{one.mean[-1]:.3f}",
            f"{one.gold[:, -1].min():.3f} to {one.gold[:, -1].max():.3f}",
            f"{one.seconds[:, -1].mean():.1f}",
        ]
        for side, one in curves.items()
    ]
    lead = (
        f"Held-out gold reward ({last['num_prompts']:,} test prompts, a third easy) after {line['episodes']:,} "
        f"episodes, from {line['start_gold']:.3f}; {line['seeds']} seeds a side."
    )
    grid = readme.table(["side", "gold at the end", "over the seeds", "training, s"], rows, right=(1, 3))
    points = "\n".join(f"- {point}" for point in _points(line, last))
    return "\n\n".join([lead, grid, points, "![Learning curves](pictures/learning.png)"])


def _points(line: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    both, settings, share = line["bf16_against_fp32"], last["settings"], line["share_of_time"]
    if not line["peer_best_episodes"]:
        reached = "at once: both start there, and the peer only got worse"
    elif share is None:
        reached = "never (target: **missed**)"
    else:
        reached = (
            f"after {line['our_seconds_to_peer_best']:.1f} s instead of {line['peer_seconds_to_best']:.1f} s, "
            f"{share:.2f} of its time (target: at most {TARGET_SHARE:.2f}, {_verdict(share <= TARGET_SHARE)})"
        )
    return [
        f"Ours (bf16) less the peer at equal episodes: {line['difference']:+.3f}, 95% interval {line['low']:+.3f} to "
        f"{line['high']:+.3f} (target: lower bound at least {TARGET_LOW:+.2f}, "
        f"{_verdict(line['low'] >= TARGET_LOW)}); mean over the whole curve {line['mean_difference']:+.3f}.",
        f"The peer's best mean, {line['peer_best']:.3f} at {line['peer_best_episodes']:,} episodes, is reached by "
        f"ours {reached}.",
        f"bf16 less fp32 at the end: {both['difference']:+.3f}, 95% interval {both['low']:+.3f} to "
        f"{both['high']:+.3f}; largest gap of the mean curves {both['largest_gap']:.3f}, where the seeds' standard "
        f"deviation is {both['spread_there']:.3f}.",
        f"{settings['rollout']} episodes a rollout, {settings['ppo_epochs']} PPO epochs, one minibatch, "
        f"{settings['response_tokens']} response tokens, learning rate {settings['learning_rate']:g}, "
        f"{ADAPTERS_LEARNING_RATE:g} for adapters, kl_coef {settings['kl_coef']:g}. A forward pass has "
        f"{settings['micro_batch']} rows for the peer and {ROWS} for ours, whose own models work side by side. "
        f"{last['when']} UTC, commit {last['commit']}, {last['machine']}, "
        f"{'a quiet machine' if line['quiet'] else '**a busy machine**'}.",
    ]


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


if __name__ == "__main__":
    main()
