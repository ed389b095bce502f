"""`rlhf size`: whether a recipe would fit GPUs that are not here, and how long an update would take on them."""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table

from rlhf.cli.recipe import SETTINGS_HELP, add_recipe, print_json, read_recipe
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import InputError
from rlhf.stages import STAGES
from rlhf.text.console import TextConsole

if TYPE_CHECKING:
    from rlhf.planning.fit import Peak
    from rlhf.planning.shape import ModelShape
    from rlhf.planning.size import Option, Sizing

_SHARDINGS = ("none", "node", "full")
_MOST_OPTIONS = 3
_DOES = {"sampling": "samples", "training": "learns", "saving": "saves"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Memory of each process by what it is for, whether a recipe fits, what would let it fit, seconds of an update "
        "and disk for checkpoints, on GPUs that need not be here. It is arithmetic on settings and the model's shape; "
        "seconds are a range between efficiencies that are assumed. A recipe that does not fit is an error. Nothing is "
        f"computed or written. {SETTINGS_HELP}"
    )
    parser.usage = (
        "rlhf size [--help] [--json] CONFIG --gpus GPUS [--shape SIZE] [--sharding none|node|full] "
        "[--SECTION.SETTING VALUE ...]"
    )
    parser.add_argument(
        "--gpus",
        required=True,
        metavar="GPUS",
        help="NUMBERxKIND or NODESxNUMBERxKIND: 8xH100, 2x8xA100-80GB; 1x24GB for memory alone",
    )
    parser.add_argument(
        "--shape",
        metavar="SIZE",
        help="size as a public model of this size, such as 7B or 70B, in place of the recipe's model",
    )
    parser.add_argument(
        "--sharding",
        choices=_SHARDINGS,
        help="spread the weights of the policy's stage, with gradients and optimizer, over the GPUs of a node, or over "
        "all [default: none]",
    )
    add_recipe(parser)


def run(options: argparse.Namespace) -> None:
    """Print the size."""
    config = read_recipe(options)
    from rlhf.planning.hardware import read_cluster
    from rlhf.planning.size import least_peak, size_recipe
    from rlhf.planning.size import options as options_of

    cluster = read_cluster(options.gpus)
    name, shape = _model(config, options.shape)
    sharding = options.sharding or config.compute.sharding
    sizing = size_recipe(config, shape, cluster, sharding)
    changes = [] if sizing.fits else list(options_of(sizing))[:_MOST_OPTIONS]
    if options.json:
        print_json(_as_json(name, sizing, changes))
    else:
        _print(name, sizing, changes)
    if not sizing.fits:
        raise InputError(_does_not_fit(sizing, changes[0].flags if changes else None, least_peak(sizing)))


def _model(config: PipelineConfig, size: str | None) -> "tuple[str, ModelShape]":
    """Name and shape of the model: the public one of a size, else the recipe's.

    Raises:
        InputError: neither can be known here.
    """
    if size is not None:
        from rlhf.planning.public_shapes import public_shape

        return public_shape(size)
    from rlhf.modeling.hub import base_with_folder, check_model_folder
    from rlhf.planning.shape import shape_of
    from rlhf.planning.workload import survey_before

    if config.model.base is None and config.model.architecture is None:
        raise InputError(
            "model.base is not set, so the model's shape is not known; name a base, or give a --shape such as 7B"
        )
    if config.model.base is not None:
        check_model_folder(str(base_with_folder(config.model).base))
    survey = survey_before(config) if config.model.base is None else None
    shape = shape_of(config.model, None if survey is None else survey[1])
    name = config.model.base or "a Llama that is built"
    if shape is None:
        raise InputError(f"{name}: its shape is not known before it is downloaded; give a --shape, such as 7B")
    return name, shape


def _print(name: str, sizing: "Sizing", changes: "list[Option]") -> None:
    console, config = TextConsole(), sizing.config
    processes = config.compute.num_processes
    console.print(
        f"{config.name} on {sizing.cluster}: {name}, {sizing.shape.parameters:,} parameters, "
        f"{_counted(processes, 'process', 'processes')}, sharding {sizing.sharding}. Rows of {config.model.max_length} "
        f"tokens, {config.max_response_tokens} of them of the response; data may be shorter."
    )
    if processes < sizing.cluster.size:
        console.print(f"One GPU works and the others are idle, since {config.method} trains in one process.")
    console.print(_stages(sizing))
    console.print(_roles(sizing))
    if sizing.update is not None:
        console.print(_update(sizing))
        console.print(_assumed())
    elif config.rl is not None:
        console.print("Seconds are not known: --gpus must name a kind of GPU for that, and compute.dtype be bf16.")
    console.print(
        f"Disk: the policy's checkpoints take up to {sizing.checkpoint_bytes / 1e9:,.1f} GB while they are written."
    )
    if changes:
        console.print("It fits with one of these changes, the smallest first:")
    for change in changes:
        console.print(Padding(f"{change.flags} ({change.sizing.peak.total / 1e9:,.1f} GB)", (0, 0, 0, 2), expand=False))


def _stages(sizing: "Sizing") -> Table:
    table = Table("stage", "processes", "GB in each", "fits")
    for column in table.columns[1:3]:
        column.justify = "right"
    for stage, parts in sizing.stages.items():
        total = sum(parts.values())
        processes = sizing.config.compute.num_processes if stage == "policy" else 1
        table.add_row(
            STAGES[stage].title, str(processes), f"{total / 1e9:,.1f}", "yes" if total <= sizing.room else "no"
        )
    return table


def _roles(sizing: "Sizing") -> Table:
    table = Table("the policy's stage, GB in each process", *(f"as it {_DOES[moment]}" for moment in sizing.moments))
    for column in table.columns[1:]:
        column.justify = "right"
    roles = dict.fromkeys(role for parts in sizing.moments.values() for role, size in parts.items() if size)
    for role in roles:
        table.add_row(role, *_in_gb(parts.get(role, 0.0) for parts in sizing.moments.values()))
    table.add_row("all", *_in_gb(sum(parts.values()) for parts in sizing.moments.values()))
    return table


def _in_gb(sizes: Iterable[float]) -> list[str]:
    return [f"{size / 1e9:,.2f}" if size else "" for size in sizes]


def _update(sizing: "Sizing") -> Table:
    assert sizing.update is not None
    assert sizing.config.rl is not None
    table = Table(f"an update of {sizing.config.rl.rollout_size:,} responses", "seconds")
    for phase, seconds in sizing.update.items():
        table.add_row(phase, str(seconds))
    return table


def _assumed() -> str:
    from rlhf.planning.throughput import BEST, WORST

    return (
        f"Assumed, not measured: {WORST.mfu:.0%} to {BEST.mfu:.0%} of the peak operations in passes over rows, "
        f"{WORST.reading:.0%} to {BEST.reading:.0%} of the memory's bandwidth, {WORST.link:.0%} to {BEST.link:.0%} of "
        f"the link within a node, {WORST.between_nodes / 1e9:g} to {BEST.between_nodes / 1e9:g} GB/s per GPU between "
        "nodes; held-out evaluations are not counted."
    )


def _does_not_fit(sizing: "Sizing", flags: str | None, least: "Peak") -> str:
    memory = sizing.cluster.gpu.memory
    advice = f"it fits with {flags}" if flags else f"no change that was tried lets it fit; {_takes(least)} at least"
    return (
        f"{sizing.config.name} does not fit {sizing.cluster}: {_takes(sizing.peak)}, and a GPU has "
        f"{memory / 1e9:g} GB, of which a run may take {sizing.room / memory:.0%}; {advice}"
    )


def _takes(peak: "Peak") -> str:
    where = "in each process" if peak.stage == "policy" else "in one process"
    return f"the stage {peak.stage} takes about {peak.total / 1e9:,.1f} GB {where} ({peak})"


def _as_json(name: str, sizing: "Sizing", changes: "list[Option]") -> dict[str, Any]:
    update = None
    if sizing.update is not None:
        update = {phase: [seconds.low, seconds.high] for phase, seconds in sizing.update.items()}
    return {
        "gpus": str(sizing.cluster),
        "processes": sizing.config.compute.num_processes,
        "sharding": sizing.sharding,
        "model": name,
        "parameters": sizing.shape.parameters,
        "fits": sizing.fits,
        "stages": {
            stage: {part: round(size) for part, size in parts.items()} for stage, parts in sizing.stages.items()
        },
        "update_seconds": update,
        "checkpoint_bytes": round(sizing.checkpoint_bytes),
        "options": [{"flags": change.flags, "bytes": round(change.sizing.peak.total)} for change in changes],
    }


def _counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
