"""`rlhf init`: settings that follow from data, model and machine, each with its reason."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from made_story_base import save_story_base

from rlhf.cli.main import main
from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import InputError
from rlhf.planning.recipe_file import recipe_text
from rlhf.planning.recommend import recommend
from rlhf.planning.shape import ModelShape
from rlhf.planning.survey import DataSurvey, Machine, ModelSurvey

DATA = DataSurvey(2000, 2000, 1800, (40, 100), (60, 118))
SHAPE = ModelShape(500_000_000, 50_000, 1024, 24, 4096, 16, 1024, True)
MODEL = ModelSurvey("a/base", SHAPE, 4096, None)
LAPTOP = Machine("cpu", 32 * 10**9, 8)


def chosen(data: DataSurvey = DATA, model: ModelSurvey = MODEL, machine: Machine = LAPTOP, hours: float | None = None):
    return {choice.name: choice for choice in recommend(data, model, machine, hours)}


def test_lengths_are_those_of_the_data_and_bounded_by_the_base():
    settings = chosen()
    assert settings["rl.max_response_tokens"].value == 120
    assert settings["model.max_length"].value == 224
    settings = chosen(model=replace(MODEL, context=160))
    assert (settings["rl.max_response_tokens"].value, settings["model.max_length"].value) == (80, 160)
    assert "half of what the base reads" in settings["rl.max_response_tokens"].reason
    with pytest.raises(InputError, match="a/base reads 64 tokens, and a median prompt has 40; take a base with"):
        chosen(model=replace(MODEL, context=64))


def sized(parameters: int) -> ModelSurvey:
    return replace(MODEL, shape=replace(SHAPE, parameters=parameters))


def test_less_memory_means_fewer_rows_then_adapters_and_a_base_that_does_not_fit_is_refused():
    machines = [replace(LAPTOP, memory=memory * 10**9) for memory in (200, 26, 14)]
    recipes = [chosen(machine=machine) for machine in machines]
    rows = [settings["rl.micro_batch_size"].value for settings in recipes]
    assert rows[0] == 32 > rows[1], "a minibatch at once, and then less"
    assert ["rl.sharing" in settings for settings in recipes] == [False, False, True]
    adapted = recipes[-1]
    assert adapted["rl.sharing"].value == "adapters"
    assert adapted["sft.lora"].value == adapted["rl.lora"].value == adapted["reward_model.lora"].value
    assert adapted["sft.learning_rate"].value > 5 * recipes[0]["sft.learning_rate"].value
    with pytest.raises(
        InputError, match=r"500,000,000 parameters do not fit: .* and this machine has 4.0 GB"
    ) as refused:
        chosen(machine=replace(LAPTOP, memory=4 * 10**9))
    largest = int(re.search(r"at most ([\d,]+) parameters", str(refused.value)).group(1).replace(",", ""))
    smaller = replace(SHAPE, parameters=largest, hidden_size=512, num_layers=12, feed_forward_size=2048)
    chosen(model=replace(MODEL, shape=smaller), machine=replace(LAPTOP, memory=4 * 10**9))


def test_learning_rates_fall_with_size_from_those_of_the_demo_to_those_of_the_field():
    sizes = (10**6, 10**8, 10**9, 7 * 10**9)
    huge = Machine("cuda", 10**13, 8)
    rates = [chosen(model=sized(size), machine=huge) for size in sizes]
    sft = [settings["sft.learning_rate"].value for settings in rates]
    assert sft == sorted(sft, reverse=True)
    assert (sft[0], sft[-1]) == (1e-3, 1e-5)
    assert rates[-1]["rl.learning_rate"].value == pytest.approx(1.5e-6, rel=0.05)


def test_time_decides_the_number_of_updates_and_few_prompts_are_said():
    assert chosen()["rl.num_updates"].value == 50
    one, two = (chosen(hours=hours)["rl.num_updates"].value for hours in (8.0, 16.0))
    assert two == pytest.approx(2 * one, abs=1)
    few = chosen(data=replace(DATA, num_prompts=200))
    assert few["data.test_fraction"].value == 0.2
    assert few["data.test_fraction"].reason == "30 test prompts: a win rate above 68% can be told from 50%"
    assert chosen(data=replace(DATA, num_prompts=1))["data.test_fraction"].reason.endswith("too few to tell anything")


@pytest.mark.parametrize("machine", [LAPTOP, Machine("cuda", 80 * 10**9, 16), Machine("cuda", 12 * 10**9, 4)])
@pytest.mark.parametrize("rows", [50, 300, 100_000])
@pytest.mark.parametrize("parameters", [10**7, 10**8, 10**9])
def test_every_recipe_is_valid_and_equal_for_equal_inputs(machine: Machine, rows: int, parameters: int):
    data = DataSurvey(rows, rows, rows, (12, 300), (5, 900))
    model = sized(parameters)
    text = recipe_text("mine", recommend(data, model, machine, 2.0), ["about it"])
    assert text == recipe_text("mine", recommend(data, model, machine, 2.0), ["about it"])
    settings = yaml.safe_load(text)
    assert settings["name"] == "mine"
    PipelineConfig.model_validate(settings)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_story_base(tmp_path / "base")


@pytest.fixture
def configs(project_root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    folder.mkdir()
    rows = [
        {
            "prompt": [{"role": "user", "content": f"the happy dog {number}"}],
            "chosen": [{"role": "assistant", "content": "she smiled at it ."}],
            "rejected": [{"role": "assistant", "content": "he was sad ."}],
        }
        for number in range(60)
    ]
    (folder / "preferences.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return project_root / "configs"


def test_a_recipe_is_written_with_its_reasons(
    base: Path, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["init", "mine", "--base", str(base), "--data", str(tmp_path / "own")]
    assert main(arguments) == 0
    written = (configs / "mine.yaml").read_text()
    shown = capsys.readouterr().out
    assert written in shown
    assert f"rlhf run {configs / 'mine.yaml'}\n" in shown
    assert written.startswith("# 60 preferences and 0 demonstrations of 60 prompts,\n")
    config = load_config(configs / "mine.yaml")
    assert (config.name, config.model.base, config.data.path) == ("mine", str(base), str(tmp_path / "own"))
    assert config.model.max_length <= 128
    assert main(arguments) == 2
    assert "there is such a recipe; give another name, or --replace" in capsys.readouterr().err
    assert main([*arguments, "--replace"]) == 0
    assert (configs / "mine.yaml").read_text() == written


def test_mistakes_leave_no_recipe(base: Path, configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    own = str(tmp_path / "own")
    for arguments, message in (
        (["../x", "--base", str(base)], "../x is no name of a recipe"),
        (["mine", "--base", str(base), "--data", str(tmp_path / "nowhere")], "`rlhf data import FILE` makes one"),
        (["mine", "--base", str(tmp_path / "nowhere"), "--data", own], "nowhere"),
        (["mine", "--base", str(base), "--data", own, "--hours", "0"], "--hours is 0.0; give a number above 0"),
    ):
        assert main(["init", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not configs.exists()
