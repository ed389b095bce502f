"""The schedule of retraining: kept, shown, and refused where it would do nothing."""

from pathlib import Path

import pytest
import yaml

from flows.servers.prefect_yaml import prefect_yaml
from rlhf.cli.main import main
from rlhf.services.schedule import Schedule, read_schedule, schedule_file

pytestmark = pytest.mark.usefixtures("project_root")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nrl: {kl_coef: 0.2}\n")
    return file


def test_it_is_kept_shown_and_ended(recipe: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["schedule"]) == 0
    assert capsys.readouterr().out.startswith("Nothing is scheduled; `rlhf schedule CONFIG --at 02:00`")
    assert main(["schedule", str(recipe), "--at", "2:30", "--inbox", "inbox"]) == 0
    said = f"Every day at 2:30 UTC: {recipe}, where there is feedback in inbox/."
    assert capsys.readouterr().out.splitlines() == [
        said,
        "`rlhf up` is not up; it takes this with its next start.",
    ]
    assert main(["schedule"]) == 0
    assert capsys.readouterr().out == f"{said}\n"
    assert main(["schedule", "--off"]) == 0
    assert read_schedule() is None
    assert not schedule_file().exists()


def test_the_deployment_has_recipe_and_time(recipe: Path):
    text = prefect_yaml(schedule=Schedule(str(recipe), "2:30", "Europe/Berlin", "inbox"))
    nightly = next(one for one in yaml.safe_load(text)["deployments"] if one["name"] == "nightly")
    assert nightly["schedules"] == [{"cron": "30 2 * * *", "timezone": "Europe/Berlin", "active": True}]
    assert nightly["parameters"] == {
        "recipe": str(recipe),
        "retrain": {"source": "inbox", "inbox": "inbox"},
    }
    nightly = next(one for one in yaml.safe_load(prefect_yaml())["deployments"] if one["name"] == "nightly")
    assert [schedule["active"] for schedule in nightly["schedules"]] == [False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{recipe}"], "a schedule has a recipe and a time"),
        (["--at", "02:00"], "a schedule has a recipe and a time"),
        (["{recipe}", "--at", "25:00"], "--at is 25:00; give hour and minute"),
        (["{recipe}", "--at", "2"], "--at is 2; give hour and minute"),
        (["{recipe}", "--at", "02:00", "--timezone", "Berlin"], "--timezone is Berlin; give a name"),
        (["{recipe}", "--at", "02:00", "--timezone", "../UTC"], "--timezone is ../UTC; give a name"),
        (["{recipe}", "--at", "02:00", "--inbox", "../x"], "--inbox: ../x is not a folder below"),
        (["configs/demo.yaml", "--at", "02:00", "--inbox", "inbox"], "this recipe reads other data"),
        (["configs/smoke.yaml", "--at", "02:00"], "configs/smoke.yaml: registered is false"),
        (["nowhere.yaml", "--at", "02:00"], "nowhere.yaml: cannot be read"),
    ],
)
def test_mistakes_schedule_nothing(
    arguments: list[str],
    message: str,
    recipe: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(Path(__file__).parents[3])
    assert main(["schedule", *(word.replace("{recipe}", str(recipe)) for word in arguments)]) == 2
    assert message in capsys.readouterr().err
    assert read_schedule() is None


def test_a_damaged_schedule_is_named(capsys: pytest.CaptureFixture[str]):
    schedule_file().parent.mkdir(parents=True)
    schedule_file().write_text("{}")
    assert main(["schedule"]) == 2
    assert "this is no schedule" in capsys.readouterr().err
    assert main(["schedule", "--off"]) == 0
