"""The view of MLflow's table of runs that links of this project open: pipelines, with the columns that matter.

The table has no metric columns until somebody picks them. A view that was saved in the UI is a tag of the experiment,
and this writes such a tag (MLflow 3.16 and later).
"""

import json

from rlhf.tracking.tags import ALARMS_TAG, KIND_TAG, RECIPE_TAG, REPRODUCIBLE_TAG

KEY = "rlhf"
"""Of the view; `viewStateShareKey` in an address."""
TAG = f"mlflow.sharedViewState.{KEY}"
_METRICS = (
    "evaluation/win_rate",
    "evaluation/gold_gain",
    "evaluation/kl",
    "evaluation/policy_score",
    "evaluation/score_win_rate",
    "reward_audit/accuracy",
    "sft/validation_loss",
    "policy/chosen_update",
    "policy/num_alarms",
    "policy/trained_seconds",
)
_TAGS = (RECIPE_TAG, REPRODUCIBLE_TAG, ALARMS_TAG)
_PARAMS = ("method", "seed", "rl.kl_coef")


def shared_view() -> str:
    """The tag's value: a name, and the state of the page as JSON within JSON."""
    columns = [
        "attributes.`Created`",
        *(f"tags.`{name}`" for name in _TAGS),
        *(f"params.`{name}`" for name in _PARAMS),
        *(f"metrics.`{name}`" for name in _METRICS),
    ]
    state = {
        "searchFilter": f"tags.`{KIND_TAG}` = 'pipeline'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
    }
    return json.dumps({"name": "Pipelines", "createdAt": 0, "state": json.dumps(state)})
