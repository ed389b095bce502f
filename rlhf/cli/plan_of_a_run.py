"""What a run tells as it begins: stages that are cached or computed, and what the data will not show."""

import sys
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import RLHFError
from rlhf.stages import stage_name
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from flows.plan import Plan, PlannedStage


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def in_gb(memory_mb: float) -> str:
    """Memory in GB."""
    return f"{memory_mb / 1000:.1f} GB"


def does_not_fit(config: PipelineConfig, plan: "Plan") -> str | None:
    """Why a run would not fit the memory of this machine, and what would; None where it fits or that is not known."""
    if plan.cost is None or plan.largest is None or plan.largest.memory_mb is None:
        return None
    from rlhf.planning.fit import ROOM, Peak, what_would_fit
    from rlhf.planning.memory import GB, peak_memory
    from rlhf.planning.survey import memory_of

    device, stage, needed = config.compute.device, plan.largest, plan.largest.memory_mb * 1e6
    memory = memory_of(device)
    if needed <= ROOM * memory:
        return None
    name = stage_name(stage.name)
    parts = Peak(name, peak_memory(config, plan.cost.shape, plan.cost.work)[name])
    room = f"{memory / GB:.1f} GB ({device}), of which a run may take {ROOM:.0%}"
    return (
        f"{config.name} does not fit: its {stage.name} takes about {needed / GB:.1f} GB ({parts}), and this machine "
        f"has {room}; {what_would_fit(config, plan.cost.shape, plan.cost.work, memory)}"
    )


def say_plan(config: PipelineConfig) -> None:
    """Tell on standard error, as a run begins, what is cached, what is computed, and what the data will not show.

    What is wrong is left to the run, which tells it as well.
    """
    from flows.plan import plan_run
    from rlhf.tracking.artifacts import local_path
    from rlhf.tracking.stores import open_store

    with suppress(RLHFError):
        plan = plan_run(config, open_store(), verified=False)
        to_compute = [stage for stage in plan.stages if not stage.cached]
        if not to_compute:
            say("All stages are cached.", file=sys.stderr, flush=True)
            return
        cached = ", ".join(stage.title for stage in plan.stages if stage.cached)
        say(
            f"To compute: {', '.join(map(_with_time, to_compute))}{f'. Cached: {cached}' if cached else ''}.",
            file=sys.stderr,
        )
        if plan.largest is not None and plan.largest.memory_mb is not None:
            peak = f"{in_gb(plan.largest.memory_mb)} at its peak, by the stage {plan.largest.name}"
            beside = f", beside {', '.join(plan.unknown)}" if plan.unknown else ""
            say(f"Time: about {duration(plan.seconds)}{beside}. Memory: {peak}.", file=sys.stderr)
        if (too_large := does_not_fit(config, plan)) is not None:
            say(f"Beware: {too_large}.", file=sys.stderr)
        if plan.data is not None:
            from rlhf.modeling.tokenizer import load_tokenizer
            from rlhf.planning.preflight import preflight

            data = local_path(plan.data)
            for warning in preflight(data, load_tokenizer(data / "tokenizer"), config):
                say(f"Beware: {warning}.", file=sys.stderr)
        sys.stderr.flush()


def _with_time(stage: "PlannedStage") -> str:
    return stage.title if stage.seconds is None else f"{stage.title} (about {duration(stage.seconds)})"
