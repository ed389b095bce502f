"""What a run tells as it begins: stages that are cached or computed, and what the data will not show."""

import sys
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import RLHFError
from rlhf.text.terminal import say

if TYPE_CHECKING:
    from flows.plan import PlannedStage


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


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
        if plan.data is not None:
            from rlhf.modeling.tokenizer import load_tokenizer
            from rlhf.planning.preflight import preflight

            data = local_path(plan.data)
            for warning in preflight(data, load_tokenizer(data / "tokenizer"), config):
                say(f"Beware: {warning}.", file=sys.stderr)
        sys.stderr.flush()


def _with_time(stage: "PlannedStage") -> str:
    return stage.title if stage.seconds is None else f"{stage.title} (about {duration(stage.seconds)})"
