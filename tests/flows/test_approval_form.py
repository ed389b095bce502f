"""A person is asked in Prefect's UI, under `rlhf up`: a worker asks, a browser answers, a worker goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from browser import opened, take_picture
from playwright.sync_api import Page
from started_services import ROOT, Up, continue_project, services, wait_for

pytestmark = pytest.mark.services
SMOKE = yaml.safe_load((ROOT / "configs" / "smoke.yaml").read_text())
GATES = dict.fromkeys(("minimum_win_rate", "minimum_reward_gain", "maximum_length_growth"))


@pytest.fixture
def up(project_folder: Path, trained: Path, migrated_prefect: Path) -> Iterator[Up]:
    with services(continue_project(project_folder, trained, migrated_prefect)) as started:
        yield started


def submitted(page: Page) -> bool:
    """With SQLite the server may be busy with other writes, and the form then stays for another try."""
    page.get_by_role("button", name="Submit").click()
    page.wait_for_timeout(2000)
    return page.get_by_role("dialog").count() == 0


def test_a_form_is_filled_in_and_the_candidate_becomes_the_champion(up: Up, tmp_path: Path):
    config = SMOKE | {"compute": {"dtype": "fp32", "num_threads": 1}}
    run_id = up.submit("nightly", {"config": config, "retrain": {"ask": True, **GATES}})
    wait_for(lambda: up.state(run_id) in ("Suspended", "Failed", "Crashed"), 240)
    assert up.state(run_id) == "Suspended", up.log(run_id)
    # Nothing waits but the page.
    wait_for(lambda: not up.works_on_a_flow(), 60)
    assert up.flow_run(run_id)["name"].endswith(": waiting for approval")
    assert up.mlflow_runs(run_id)[0].info.status == "SCHEDULED"

    with opened(width=1300, height=900) as page:
        page.goto(f"http://127.0.0.1:{up.prefect_port}/runs/flow-run/{run_id}")
        page.get_by_role("button", name="Resume").first.click()
        page.get_by_text("Version 2 passed all gates against its own SFT policy").wait_for()
        page.get_by_role("dialog").locator("textarea").fill("reads well")
        # By key: a click that also moves the focus opens the list and closes it again.
        page.get_by_role("dialog").locator(".p-select-button__control").press("Space")
        page.locator(".p-select-option__text", has_text="approve").click()
        take_picture(page, "prefect-approval", tmp_path)
        wait_for(lambda: submitted(page), 60)

    assert up.wait_until_ended(run_id) == "Completed", up.log(run_id)
    assert up.flow_run(run_id)["name"].endswith(": promoted")
    version = up.mlflow().get_model_version_by_alias("rlhf-policy", "champion")
    assert (str(version.version), version.tags["rlhf.approval"]) == ("2", "approve")
    parent = up.mlflow_runs(run_id)[0]
    assert (parent.info.status, parent.data.tags["rlhf.approval_reason"]) == ("FINISHED", "reads well")
