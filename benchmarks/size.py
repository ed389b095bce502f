"""`rlhf size` against runs: memory of a process of the policy's stage, predicted and measured, by kind of sharing.

PPO at 2M and 20M parameters on the CPU, two updates, in one process or two, with all models apart, the value head on
the policy's trunk, adapters over one backbone, and sharded. Memory does not depend on what else the machine does. A
line per case, and with all of them a table in benchmarks/README.md.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.arguments import Settings
from benchmarks.made_models import PROMPT_TOKENS, SHAPES, made_elsewhere
from benchmarks.readme import table, write_part
from benchmarks.records import RESULTS, commit, machine, now
from benchmarks.runner import run_side
from rlhf.config.model import ComputeConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.planning.memory import Parts, memory_per_process
from rlhf.planning.public_shapes import llama_shape
from rlhf.planning.shape import ModelShape
from rlhf.planning.size import full_length

FILE = RESULTS / "size.json"
BOUND = 0.15
IMPORTS = 391 * 2**20
"""Bytes of a process of the benchmark that has imported all and holds no model (docs/memory-and-time.md)."""
KERNELS = 198 * 2**20
"""Bytes of oneDNN's kernels and of holes in the heap: what the four runs of `make bench` in turn and in bf16, which
docs/memory-and-time.md has, held on average beyond imports and models. A whole stage has more of them."""
SETTINGS = Settings(episodes=128, rollout=64, micro_batch=16, ppo_epochs=1, threads=1)
_LORA = {"rank": 16}


@dataclass(frozen=True)
class Case:
    """A way of holding models.

    Attributes:
        models: a set of `benchmarks.made_models`.
        sharing: `rl.sharing`.
        processes: that share the rows.
        sharding: `compute.sharding`.
    """

    models: str
    sharing: str
    processes: int = 1
    sharding: str = "none"

    @property
    def name(self) -> str:
        """The case on the command line."""
        more = f"-{self.processes}x-{self.sharding}" if self.processes > 1 else ""
        return f"{self.models}-{self.sharing}{more}"

    @property
    def is_possible(self) -> bool:
        """Whether `benchmarks.our_run` takes part in a group of processes, which it does since there is sharding."""
        return self.processes == 1 or "sharding" in ComputeConfig.model_fields


CASES = {
    case.name: case
    for models in ("2M", "20M")
    for case in (
        *(Case(models, sharing) for sharing in ("none", "trunk", "adapters")),
        Case(models, "none", 2),
        *(Case(models, sharing, 2, "full") for sharing in ("none", "trunk", "adapters")),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"{', '.join(CASES)} [default: all]")
    parser.add_argument("--table", action="store_true", help="run nothing; write the table of what was measured so far")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no case {min(unknown)}; there are {', '.join(CASES)}")
    rows = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in () if options.table else options.cases or CASES:
        if not CASES[name].is_possible:
            print(f"{name}: not run, since this project has no compute.sharding", file=sys.stderr)
            continue
        peak_mb = measured(CASES[name])
        rows[name] = {"measured_mb": peak_mb, "when": now(), "commit": commit(), "machine": machine()}
        print(json.dumps({"case": name, **rows[name]}), flush=True)
        FILE.write_text(json.dumps(rows, indent=1) + "\n")
    write_part("size", part(rows))
    print(part(rows))


def predicted(case: Case) -> Parts:
    """Bytes of a process of `benchmarks.our_run`: fewer imports than a stage has, one reward model, no validation."""
    config = recipe(case)
    work = replace(full_length(config), validation_prompts=0)
    shards = case.processes if case.sharding == "full" else 1
    parts = memory_per_process(config, shape_of(case.models), work, shards)["policy"]
    one = "adapters of reward models" if case.sharing == "adapters" else "reward models"
    return parts | {"process": float(IMPORTS), "kernels": float(KERNELS), one: parts[one] / 2}


def recipe(case: Case) -> PipelineConfig:
    """The recipe that is like the benchmark's settings."""
    lora = _LORA if case.sharing == "adapters" else None
    return PipelineConfig.model_validate(
        {
            "model": {"base": case.models, "max_length": max(PROMPT_TOKENS) + SETTINGS.response_tokens},
            "reward_model": {"lora": lora},
            "rl": {
                "rollout_size": SETTINGS.rollout,
                "num_minibatches": 1,
                "num_ppo_epochs": SETTINGS.ppo_epochs,
                "micro_batch_size": SETTINGS.micro_batch,
                "max_response_tokens": SETTINGS.response_tokens,
                "sharing": case.sharing,
                "lora": lora,
            },
            "compute": {"num_processes": case.processes, "num_threads": SETTINGS.threads},
        }
    )


def shape_of(models: str) -> ModelShape:
    """The shape of a set's models."""
    shape = SHAPES[models]
    heads = shape.num_attention_heads
    width = shape.hidden_size // heads
    return llama_shape(
        shape.vocab_size,
        shape.hidden_size,
        shape.num_hidden_layers,
        shape.intermediate_size,
        (heads, heads, width),
    )


def measured(case: Case) -> int:
    """Peak MB of the process, of several the first."""
    flags = [*made_elsewhere(case.models).flags(), *SETTINGS.flags(), "--sharing", case.sharing]
    module = "benchmarks.our_run"
    if case.processes > 1:
        started = ["--standalone", "--nproc-per-node", str(case.processes), "-m", module]
        flags, module = [*started, *flags, "--sharding", case.sharding], "torch.distributed.run"
    return int(run_side(sys.executable, module, flags, SETTINGS.threads, case.name).result["peak_rss_mb"])


def part(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, what it says of the bound, and what was not run."""
    if not rows:
        return "Nothing was measured yet."
    cells, errors = [], []
    for name, case in CASES.items():
        expected, sharding = sum(predicted(case).values()) / 2**20, case.sharding if case.processes > 1 else ""
        labels = [case.models, case.sharing, str(case.processes), sharding, f"{expected:,.0f}"]
        if name in rows:
            took = rows[name]["measured_mb"]
            outside = (IMPORTS + KERNELS) / 2**20
            errors.append(expected / took - 1)
            of_models = (expected - outside) / (took - outside) - 1
            cells.append(
                [*labels, f"{took:,}", f"{errors[-1]:+.0%}", f"{of_models:+.0%}" if case.models != "2M" else ""]
            )
        else:
            cells.append([*labels, "not run", "", ""])
    last = list(rows.values())[-1]
    header = ["models", "`rl.sharing`", "processes", "sharding", "predicted, MB", "measured, MB", "off"]
    header.append("off, of models and passes alone")
    return (
        f"{table(header, cells, right=(2, 4, 5, 6, 7))}\n\nThe worst error is {max(map(abs, errors)):.0%} (bound "
        f"{BOUND:.0%}). {last['when']} UTC, commit {last['commit']}, {last['machine']}."
    )


if __name__ == "__main__":
    main()
