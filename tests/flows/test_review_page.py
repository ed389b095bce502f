"""Two people answer a round in MLflow's review page, through a real browser, each signed in by her own name."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import opened, take_picture
from playwright.sync_api import Browser, Page
from retraining_runs import config
from started_services import Up, continue_project, services

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
GUIDELINES = "instruction: Which of the two is right?\nflags: [harmful]\n"
ASK = {"round": "week-1", "num_pairs": 3, "max_response_tokens": 12, "annotators": ["ann", "bob"], "overlap": 1.0}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, migrated_prefect: Path, trained: Path) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("review") / "project"
    continue_project(folder, trained, migrated_prefect)
    (folder / "guidelines.yaml").write_text(GUIDELINES)
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
    passwords = {}
    for name in ("ann", "bob"):
        said = rlhf(up, "users", "add", name)
        found = re.search(r"with the password (\S+) ", said)
        assert found, said
        passwords[name] = found[1]
    form = {"recipe": "smoke", "advanced": config().model_dump(mode="json", exclude_unset=True)}
    run_id = up.submit("feedback-ask", form | {"ask": ASK | {"guidelines": "guidelines.yaml"}})
    assert up.wait_until_ended(run_id) == "Completed", up.log(run_id)
    links = dict(re.findall(r"\| (ann|bob) \| 3 \| \[queue\]\((\S+)\) \|", up.artifact(run_id, "feedback")))
    browser = page.context.browser
    assert browser is not None
    for name, url in links.items():
        answer_all(browser, name, passwords[name], url, tmp_path)
    print(rlhf(up, "feedback", "status", "--round", "week-1", "--json"))
    collected = json.loads(rlhf(up, "feedback", "collect", "--round", "week-1", "--json"))
    print(collected)


def answer_all(browser: Browser, name: str, password: str, url: str, folder: Path) -> None:
    context = browser.new_context(http_credentials={"username": name, "password": password})
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(url)
    page.wait_for_timeout(8000)
    take_picture(page, f"review-{name}", folder)
    print(page.locator("body").inner_text()[:3000])
    context.close()
