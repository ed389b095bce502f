"""A round is asked from Prefect's form, and two people answer it in MLflow's review page, through a real browser.

Each is signed in by her own name. `make pictures` keeps the pictures of docs/how-to/feedback.md.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browser import opened, take_picture
from playwright.sync_api import Browser, Locator, Page, expect
from retraining_runs import config
from started_services import Up, continue_project, services, wait_for

from rlhf.data.schema import read_rows

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
GUIDELINES = "question: Which answer is better?\ninstruction: Which of the two is right?\nflags: [harmful]\n"
ASKED = {"Num Pairs (Optional)": "2", "Overlap (Optional)": "1", "Round": "week-1"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, registered_prefect: Path, trained: Path) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("review") / "project"
    continue_project(folder, trained, registered_prefect)
    (folder / "guidelines.yaml").write_text(GUIDELINES)
    # The smoke recipe in the demo's place, which the form names already.
    (folder / "configs").mkdir()
    (folder / "configs" / "demo.yaml").write_text(config().model_dump_json(exclude_unset=True))  # YAML, too
    with services(folder, with_password=True) as started:
        yield started


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened() as browser_page:
        yield browser_page


def rlhf(up: Up, *arguments: str) -> str:
    done = subprocess.run(up.command(*arguments), env=up.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_people_answer_and_the_next_training_finds_it(page: Page, up: Up, tmp_path: Path):
    passwords = {name: add(up, name) for name in ("ann", "bob")}
    run_id = ask_by_form(page, up, tmp_path)
    assert up.wait_until_ended(run_id) == "Completed", up.log(run_id)
    queues = dict(re.findall(r"\| (ann|bob) \| 2 \| \[queue\]\((\S+)\) \|", up.artifact(run_id, "feedback")))
    browser = page.context.browser
    assert browser is not None
    answers = {"ann": ("A is much better", "harmful"), "bob": ("They are equally good", "")}
    for name, url in queues.items():
        answer_all(browser, (name, passwords[name]), url, *answers[name], tmp_path)
    assert json.loads(rlhf(up, "feedback", "status", "--round", "week-1", "--json"))["complete"] == {"ann": 2, "bob": 2}

    collected = json.loads(rlhf(up, "feedback", "collect", "--round", "week-1", "--json"))
    assert (collected["answered"], collected["preferences"], collected["figures"]["problems"]) == (4, 4, {})
    assert collected["figures"]["agreement"]["all"]["value"] == 0
    file = up.root / "data" / "preferences.jsonl"
    rows = [row for _, row in read_rows(file, "preferences") if row.get("round") == "week-1"]
    assert [row["annotator"] for row in rows] == ["ann", "bob"] * 2
    of_ann, of_bob = rows[:2]
    assert (of_ann["margin"], of_ann["rationale"]) == (1.0, "ann says so")
    assert of_ann["flags"] == [["harmful"], []]
    assert of_bob["ranks"] == [1, 1]
    retrained = up.submit("nightly", {"recipe": "demo", "retrain": {}})
    wait_for(lambda: up.has_mlflow_run(retrained) and collected["data_md5"] in data_of(up, retrained), 240)
    up.cancel(retrained)

    assert_may_review_alone(up, ("ann", passwords["ann"]))
    rlhf(up, "users", "remove", "ann")
    answer = requests.get(f"http://127.0.0.1:{up.mlflow_port}/", auth=("ann", passwords["ann"]), timeout=60)
    assert answer.status_code == 401


def ask_by_form(page: Page, up: Up, folder: Path) -> str:
    """As a person does who is signed in to Prefect: what is asked, of whom, and by which guidelines."""
    assert up.login is not None
    page.goto(f"http://127.0.0.1:{up.prefect_port}/deployments")
    page.locator("input").first.fill(":".join(up.login))
    page.get_by_role("button", name="Login").click()
    page.goto(f"http://127.0.0.1:{up.prefect_port}/deployments")
    page.get_by_role("link", name="feedback-ask", exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run", exact=True).click()

    def labelled(label: str) -> Locator:
        return page.locator(".p-label", has=page.get_by_text(label, exact=True)).last

    def write(label: str, value: str, place: int = 0) -> None:
        """The form draws itself anew while one writes, and may lose what was written."""
        written = labelled(label).locator("input, textarea").nth(place)

        def has_kept() -> bool:
            written.fill(value)
            page.wait_for_timeout(300)
            return written.input_value() == value

        wait_for(has_kept, 30)

    for label, value in ASKED.items():
        write(label, value)
    for label, kind, value in (
        ("Max Response Tokens (Optional)", "int", "12"),
        ("Guidelines (Optional)", "str", "guidelines.yaml"),
    ):
        labelled(label).get_by_text(kind, exact=True).click()
        write(label, value)
    for place, person in enumerate(("ann", "bob")):
        labelled("Annotators (Optional)").get_by_role("button", name="Add item").click()
        write("Annotators (Optional)", person, place)
    take_picture(page, "prefect-feedback-form", folder)
    with page.expect_response("**/create_flow_run") as answer:
        page.get_by_role("button", name="Submit", exact=True).click()
    run_id: str = answer.value.json()["id"]
    return run_id


def data_of(up: Up, run_id: str) -> set[str | None]:
    return {run.data.tags.get("rlhf.data_md5") for run in up.mlflow_runs(run_id)}


def add(up: Up, name: str) -> str:
    said = rlhf(up, "users", "add", name)
    found = re.search(r"with the password (\S+) ", said)
    assert found, said
    return found[1]


def answer_all(browser: Browser, login: tuple[str, str], url: str, level: str, flag: str, folder: Path) -> None:
    """As a person does: an answer, a reason, perhaps a flag, Submit, and on to the next."""
    name, password = login
    context = browser.new_context(http_credentials={"username": name, "password": password})
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(url)
    page.get_by_role("button", name="Start review").click()
    page.get_by_role("button", name="Close").first.click()  # MLflow's assistant
    for number in (1, 2):
        expect(page.get_by_role("heading", name="Response A")).to_be_visible()
        questions = page.get_by_role("combobox")
        expect(questions).to_have_count(3)
        choose(page, 0, level)
        page.get_by_placeholder("Rationale (optional)").fill(f"{name} says so")
        if flag:
            choose(page, 1, flag)
            page.keyboard.press("Escape")
            take_picture(page, "mlflow-review", folder)
        page.get_by_role("button", name="Submit").click()
        # After the last one the page shows the queue.
        expect(page.get_by_text("1 of 2 reviewed" if number == 1 else "Completed (2)")).to_be_visible()
    context.close()


def choose(page: Page, question: int, option: str) -> None:
    page.get_by_role("combobox").nth(question).click()
    page.get_by_role("option", name=option, exact=True).click()


def assert_may_review_alone(up: Up, login: tuple[str, str]) -> None:
    """The runs of training are not shown to her, and she changes nothing of them."""
    mlflow = f"http://127.0.0.1:{up.mlflow_port}/api/2.0/mlflow"
    run = up.mlflow_runs(up.flow_runs_of("feedback-ask")[0]["id"])[0].info

    def status(method: str, path: str, given: dict[str, Any]) -> int:
        how = "params" if method == "GET" else "json"
        return requests.request(method, f"{mlflow}/{path}", auth=login, timeout=60, **{how: given}).status_code  # type: ignore[arg-type]

    assert status("GET", "runs/get", {"run_id": run.run_id}) == 403
    assert status("POST", "runs/set-tag", {"run_id": run.run_id, "key": "a", "value": "b"}) == 403
    assert status("POST", "users/create", {"username": "eve", "password": "eve-eve-eve-eve"}) == 403
