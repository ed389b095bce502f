"""What a person does in the two user interfaces, through a real browser.

The pictures of docs/operating.md are taken here: `make pictures` writes them, of runs of the demo.
Otherwise they are of the smoke recipe and go to a temporary folder, since no two machines draw alike.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import PICTURES, brightness, opened, take_picture, use_colors
from playwright.sync_api import Locator, Page, TimeoutError, expect
from smoke_runs import recipe
from started_services import ROOT, Up, continue_project, make_project, services, wait_for

RUN_SECONDS = 1800.0 if PICTURES else 240.0
pytestmark = [pytest.mark.services, pytest.mark.timeout(3 * RUN_SECONDS if PICTURES else 600)]


@pytest.fixture(scope="module")
def up(
    tmp_path_factory: pytest.TempPathFactory,
    migrated_mlflow: Path,
    registered_prefect: Path,
    embedded_data: Path,
    trained: Path,
) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("browser") / "project"
    if PICTURES:
        make_project(folder, embedded_data, migrated_mlflow, registered_prefect)
    else:
        continue_project(folder, trained, registered_prefect)
        # The smoke recipe in the demo's place ends soon.
        (folder / "configs").mkdir()
        (folder / "configs" / "demo.yaml").write_text(yaml.safe_dump(recipe()["advanced"] | {"name": "demo"}))
    with services(folder) as started:
        yield started


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened() as browser_page:
        yield browser_page


@pytest.fixture
def form(page: Page, up: Up) -> Page:
    """The form of the demo's deployment, opened as a person opens it."""
    page.goto(f"http://127.0.0.1:{up.prefect_port}/deployments")
    page.get_by_role("link", name="demo", exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run", exact=True).click()
    expect(page.get_by_text("overrides (Optional)")).to_be_visible()
    return page


def field(page: Page, label: str) -> Locator:
    """The input below a label of the form."""
    labelled = page.locator(".p-label", has=page.get_by_text(f"{label} (Optional)", exact=True)).last
    return labelled.locator("input, textarea")


def submit(form: Page) -> dict[str, Any]:
    """Press the button, and again where the server says that it is busy. Returns the flow run."""
    refusals: list[str] = []

    def press() -> Any:
        try:
            with form.expect_response("**/create_flow_run", timeout=30_000) as answer:
                # What was refused before is told in a corner, over the button, for as long as a mouse is there.
                form.get_by_role("button", name="Submit", exact=True).evaluate("button => button.click()")
        except TimeoutError:  # it is asked first whether the fields are as they should be
            refusals.extend(form.locator(".p-toast").all_inner_texts())
            return None
        if answer.value.ok:
            return answer.value.json()
        refusals.append(f"{answer.value.status}: {answer.value.text()}")
        assert answer.value.status >= 500, refusals
        return None

    created: dict[str, Any] = wait_for(press, 150, every=2)
    print("refused before:", refusals)
    return created


def test_from_the_form_to_the_run_and_its_card(form: Page, up: Up, tmp_path: Path):
    form.set_viewport_size({"width": 1400, "height": 900})
    field(form, "note").fill("Less KL, to see what it costs")
    field(form, "overrides").fill("rl.kl_coef=0.2")
    for button in ("None", "Submit"):  # `advanced` is closed, and nothing is below the screen
        expect(form.get_by_role("button", name=button, exact=True)).to_be_in_viewport(ratio=1)
    expect(form.get_by_text("Run Name", exact=True)).to_be_in_viewport(ratio=1)
    take_picture(form, "prefect-form", tmp_path)
    run_id = submit(form)["id"]
    name = "demo, kl_coef 0.2, seed 0"
    wait_for(lambda: up.flow_run(run_id)["name"] == name, 60)
    # The form has led to the deployment's page, where the run is.
    form.get_by_role("link", name=name).first.click()
    form.wait_for_url(f"**/runs/flow-run/{run_id}**")
    assert up.wait_until_ended(run_id, RUN_SECONDS) == "Completed", up.log(run_id)
    assert up.flow_run(run_id)["parameters"]["overrides"] == "rl.kl_coef=0.2"
    run = up.mlflow_runs(run_id)[0]
    assert run.data.params["rl.kl_coef"] == "0.2"
    assert run.data.tags["rlhf.note"] == "Less KL, to see what it costs"
    assert run.data.tags["mlflow.note.content"].startswith("Less KL, to see what it costs\n\n[The flow run in Prefect]")
    form.reload()
    expect(form.get_by_text("Completed").first).to_be_visible()
    take_picture(form, "prefect-run", tmp_path)
    form.get_by_text("Artifacts", exact=True).first.click()
    form.get_by_text("model-card", exact=True).first.click()
    expect(form.get_by_role("heading", name="Results")).to_be_visible()
    take_picture(form, "prefect-card", tmp_path)


def test_the_report_of_the_run_in_three_places_light_and_dark(page: Page, up: Up, tmp_path: Path):
    run_id = up.flow_runs_of("demo")[0]["id"]
    parent = up.mlflow_runs(run_id)[0].info.run_id
    wanted = {"artifacts": {"flow_run_id": {"any_": [run_id]}, "key": {"any_": ["report"]}}}
    (artifact,) = up.api.post("/artifacts/filter", json=wanted).raise_for_status().json()
    file = tmp_path / "report.html"
    subprocess.run(up.command("report", parent, "--html", str(file)), env=up.environment, cwd=ROOT, check=True)
    pages = {
        "report": file.as_uri(),
        "prefect-report": f"http://127.0.0.1:{up.prefect_port}/artifacts/artifact/{artifact['id']}",
        "mlflow-report": f"http://127.0.0.1:{up.mlflow_port}/#/experiments/1/runs/{parent}?workflowType=machine_learning",
    }
    verdict = artifact["data"].splitlines()[0].strip("*")
    for name, address in pages.items():
        page.goto(address)
        for scheme in ("light", "dark"):
            use_colors(page, scheme)
            said = page.get_by_text(verdict).first
            expect(said).to_be_visible()
            # MLflow opens its assistant, and folds a description.
            for button in (page.get_by_role("button", name="Close"), page.get_by_text("Show more", exact=True)):
                if button.count():
                    button.first.click()
            said.scroll_into_view_if_needed()
            take_picture(page, f"{name}-{scheme}", tmp_path)
            assert (brightness(page) > 128) == (scheme == "light"), f"{name} in {scheme}"


def test_the_form_refuses_a_bad_value(form: Page, up: Up, tmp_path: Path):
    field(form, "overrides").fill("rl.kl_coef: 0.2")
    form.get_by_role("button", name="Submit", exact=True).click()
    expect(form.get_by_text("Validation failed for field 'overrides'").first).to_be_visible()
    field(form, "overrides").fill("")
    form.get_by_role("button", name="every setting").click()
    gae_lambda = field(form, "gae_lambda")
    gae_lambda.fill("-1")
    form.get_by_role("button", name="Submit", exact=True).click()
    refusal = "Validation failed for field 'advanced.rl.gae_lambda'. Failure reason: -1 is less than the minimum"
    expect(form.get_by_text(refusal).first).to_be_visible()
    gae_lambda.scroll_into_view_if_needed()
    take_picture(form, "prefect-form-refuses", tmp_path)
    gae_lambda.fill("0.3")
    run = submit(form)
    up.cancel(run["id"])
    # Nothing is sent that nobody has touched.
    given = {name: value for name, value in run["parameters"].items() if value}
    assert given == {"recipe": "demo", "advanced": {"rl": {"gae_lambda": 0.3}}}


@pytest.mark.soak
def test_two_runs_are_compared_in_mlflow(page: Page, up: Up, tmp_path: Path):
    for settings in ({"kl_coef": 0.1}, {"kl_coef": 0.05}):
        run_id = up.submit("demo", {"advanced": {"rl": settings}})
        assert up.wait_until_ended(run_id, RUN_SECONDS) == "Completed", up.log(run_id)
    table = (
        f"http://127.0.0.1:{up.mlflow_port}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=rlhf"
    )
    page.goto(table)
    expect(page.get_by_text("evaluation/kl").first).to_be_visible()
    assistant = page.get_by_role("button", name="Close")
    if assistant.count():  # it stays closed where a test before has closed it
        assistant.first.click()
    page.get_by_role("button", name="Hide banner").click()
    take_picture(page, "mlflow-runs", tmp_path)
    for row in (0, 1):
        page.locator(f'.ag-row[row-index="{row}"] input[type=checkbox]:visible').first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_url("**/compare-runs**")
    for section in range(page.get_by_text("Show diff only").count()):
        page.get_by_text("Show diff only").nth(section).click()
    expect(page.get_by_text("rl.kl_coef").last).to_be_visible()
    page.get_by_text("Metrics", exact=True).last.scroll_into_view_if_needed()
    expect(page.get_by_text(re.compile("^(evaluation|policy)/")).last).to_be_visible()
    take_picture(page, "mlflow-compare", tmp_path)
    # Only the pipelines' own runs are listed, and they have the curves of their stages.
    page.goto("about:blank")
    page.goto(f"{table}&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("policy/(kl_mean|score_mean|entropy)$")
    expect(page.get_by_text("policy/kl_mean").first).to_be_visible()
    take_picture(page, "mlflow-curves", tmp_path)


def resumed(page: Page) -> bool:
    """With SQLite the server may be busy with other writes, and the form then stays for another try."""
    page.get_by_role("button", name="Submit").click()
    page.wait_for_timeout(2000)
    return page.get_by_role("dialog").count() == 0


def test_a_form_is_filled_in_and_the_candidate_becomes_the_champion(page: Page, up: Up, tmp_path: Path):
    """A worker asks, a browser answers, a worker goes on."""
    form = recipe()
    gates = dict.fromkeys(("minimum_fitness", "minimum_win_rate", "minimum_reward_gain", "maximum_length_growth"))
    run_id = up.submit(
        "nightly", form | {"advanced": form["advanced"] | {"registered": True}, "retrain": {"ask": True, **gates}}
    )
    wait_for(lambda: up.state(run_id) in ("Suspended", "Failed", "Crashed"), 240)
    assert up.state(run_id) == "Suspended", up.log(run_id)
    # Nothing waits but the page.
    wait_for(lambda: not up.works_on_a_flow(), 60)
    assert up.flow_run(run_id)["name"].endswith(": waiting for approval")
    assert up.mlflow_runs(run_id)[0].info.status == "SCHEDULED"

    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(f"http://127.0.0.1:{up.prefect_port}/runs/flow-run/{run_id}")
    page.get_by_role("button", name="Resume").first.click()
    said = page.get_by_text(re.compile(r"Version smoke/\d+ passed all gates against its own SFT policy")).first
    candidate = said.inner_text().split()[1]
    page.get_by_role("dialog").locator("textarea").fill("reads well")
    # By key: a click that also moves the focus opens the list and closes it again.
    page.get_by_role("dialog").locator(".p-select-button__control").press("Space")
    page.locator(".p-select-option__text", has_text="approve").click()
    take_picture(page, "prefect-approval", tmp_path)
    wait_for(lambda: resumed(page), 60)

    assert up.wait_until_ended(run_id) == "Completed", up.log(run_id)
    assert up.flow_run(run_id)["name"].endswith(": promoted")
    version = up.mlflow().get_model_version_by_alias("smoke", "champion")
    assert (f"smoke/{version.version}", version.tags["rlhf.approval"]) == (candidate, "approve")
    parent = up.mlflow_runs(run_id)[0]
    assert (parent.info.status, parent.data.tags["rlhf.approval_reason"]) == ("FINISHED", "reads well")
