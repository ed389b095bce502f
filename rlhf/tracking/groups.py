"""Runs of groups: one recipe with several seeds, whose pipeline runs name the group's run in a tag."""

from collections.abc import Mapping
from typing import Any

from mlflow.entities import Run

from rlhf.files.plain_yaml import load_yaml
from rlhf.tracking.client import client, retry_while_unavailable
from rlhf.tracking.files import read_bytes
from rlhf.tracking.queries import find
from rlhf.tracking.records import GROUP
from rlhf.tracking.runs import log_settings, open_run, set_tags
from rlhf.tracking.tags import ERROR_TAG, FLOW_RUN_TAG, GROUP_KEY_TAG, KIND_TAG


def open_group(
    name: str, key: str, flow_run_id: str, settings: Mapping[str, Any], tags: Mapping[str, str], kind: str = GROUP
) -> tuple[str, dict[str, Any]]:
    """Create the run of a group, or go on in it: in the flow run's own, or in the newest that did not finish.

    One that is under way is another process's, even where settings and seeds are the same.

    Args:
        name: name of the run.
        key: by which the group is found again.
        flow_run_id: Prefect's id.
        settings: the resolved configuration of all its seeds, nested.
        tags: what is known of it beside its settings.
        kind: of the run: a group of seeds, or a comparison of methods.

    Returns:
        The run's id, and its settings: those of its first start, with the commits and the day of then.
    """
    tags = {**tags, FLOW_RUN_TAG: flow_run_id}
    run = _unfinished(kind, key, flow_run_id)
    if run is None:
        run_id = open_run(name, kind, {GROUP_KEY_TAG: key, **tags})
    else:
        run_id = run.info.run_id
        set_tags(run_id, tags)
        if ERROR_TAG in run.data.tags:
            retry_while_unavailable(lambda: client().delete_tag(run_id, ERROR_TAG))
        retry_while_unavailable(lambda: client().update_run(run_id, status="RUNNING"))
    recorded = read_bytes(run_id, "config.yaml")
    if recorded is not None:
        return run_id, dict(load_yaml(recorded))
    retry_while_unavailable(lambda: log_settings(run_id, settings))
    return run_id, dict(settings)


def _unfinished(kind: str, key: str, flow_run_id: str) -> Run | None:
    runs = find(f"tags.`{KIND_TAG}` = '{kind}' and tags.`{GROUP_KEY_TAG}` = '{key}'")
    own = [run for run in runs if run.data.tags.get(FLOW_RUN_TAG) == flow_run_id]
    ended = [run for run in runs if run.info.status in ("FAILED", "KILLED")]
    return next(iter((*own, *ended)), None)
