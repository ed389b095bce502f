import re
from pathlib import Path

import pytest

from rlhf.config.loading import load_config, settings
from rlhf.config.model import LoraConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import ConfigError, nearest

INVALID = sorted((Path(__file__).parents[2] / "configs" / "invalid").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_recipe_is_refused_with_the_error_in_its_first_line(path):
    expected = path.read_text().splitlines()[0].removeprefix("# error: ")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert re.search(expected, str(error.value))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_nothing_given_gives_the_defaults():
    assert load_config(None) == PipelineConfig()


def test_empty_recipe_gives_the_defaults(recipe):
    assert load_config(recipe("# nothing yet\n")) == PipelineConfig()


def test_command_line_goes_before_recipe_goes_before_defaults(recipe):
    path = recipe("seed: 3\nrl: {kl_coef: 0.2, num_updates: 7}\n")
    config = load_config(path, {"rl.kl_coef": "0.3"})
    assert (config.rl.kl_coef, config.rl.num_updates, config.seed) == (0.3, 7, 3)
    assert config.rl.rollout_size == PipelineConfig().rl.rollout_size


def test_text_is_read_as_the_type_of_its_setting():
    given = {
        "seed": "4",
        "sft.learning_rate": "1e-4",
        "data.allow_dirty_data": "true",
        "name": "17",
        "compute.dtype": "fp32",
    }
    config = load_config(None, given)
    assert (config.seed, config.sft.learning_rate, config.data.allow_dirty_data) == (4, 1e-4, True)
    assert (config.name, config.compute.dtype) == ("17", "fp32")


def test_exponent_without_a_point_is_a_number_although_yaml_reads_text(recipe):
    assert load_config(recipe("sft: {learning_rate: 1e-4}\n")).sft.learning_rate == 1e-4


@pytest.mark.parametrize("nothing", ["none", "None", "null"])
def test_none_clears_an_optional_setting(recipe, nothing):
    path = recipe("rl: {score_clip: 5, lora: {rank: 4}}\nmodel: {architecture: {num_layers: 2}}\n")
    config = load_config(path, {"rl.score_clip": nothing, "rl.lora": nothing, "model.architecture": nothing})
    assert (config.rl.score_clip, config.rl.lora, config.model.architecture) == (None, None, None)


def test_none_is_no_value_for_a_setting_that_needs_one():
    with pytest.raises(ConfigError, match=r"--rl\.kl-coef: got none, expected a number at least 0$"):
        load_config(None, {"rl.kl_coef": "none"})


def test_setting_inside_an_optional_section_makes_the_section():
    assert load_config(None, {"sft.lora.rank": "3"}).sft.lora == LoraConfig(rank=3)


def test_unknown_flag_names_the_nearest():
    with pytest.raises(ConfigError, match=r"^--rl\.kl-coeff is not a setting; the nearest known one is --rl\.kl-coef$"):
        load_config(None, {"rl.kl_coeff": "1"})


def test_ill_typed_flag_is_named_as_it_was_typed(recipe):
    with pytest.raises(ConfigError, match=r"^--sft\.batch-size: got many, expected a whole number at least 1$"):
        load_config(recipe("sft: {batch_size: 8}\n"), {"sft.batch_size": "many"})


def test_settings_at_odds_name_recipe_and_flags(recipe):
    path = recipe("seed: 1\nppo:\n  num_minibatches: 3\n")
    with pytest.raises(ConfigError) as error:
        load_config(path, {"rl.rollout_size": "64", "seed": "2"})
    assert f"{path}:2: rl with --rl.rollout-size: rollout_size (64) is not a multiple" in str(error.value)


def test_every_fault_of_a_recipe_has_a_line(recipe):
    with pytest.raises(ConfigError) as error:
        load_config(recipe("seed: x\nrl: {gamma: 2}\nsfft: 1\n"))
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == [
        "seed",
        "rl.gamma",
        "sfft is not a setting; the nearest known one is sft",
    ]


def test_recipe_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "nowhere.yaml")


def test_recipe_that_is_a_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)


def test_recipe_that_is_not_utf8(recipe):
    with pytest.raises(ConfigError, match="byte 6 is not UTF-8"):
        load_config(recipe(b"name: \xff\n"))


def test_recipe_with_a_control_character(recipe):
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(recipe(b"name: \x00\n"))


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: " + "[" * 5000 + "\n"])
def test_recipe_without_end(recipe, text):
    with pytest.raises(ConfigError, match=r"recipe\.yaml:1: (anchors|it is nested more than 32 deep)"):
        load_config(recipe(text))


def test_recipe_makes_no_objects(recipe):
    with pytest.raises(ConfigError, match="not YAML: could not determine a constructor"):
        load_config(recipe("name: !!python/object/apply:os.getcwd []\n"))


REWARDS = "[{kind: trained, weight: 0.5}, {kind: function, name: brevity, normalize: true}]"
AS_JSON = '[{"weight": 0.5}, {"kind": "function", "name": "brevity", "normalize": true}]'


class TestLists:
    def test_recipe_and_flag_give_the_same(self, recipe):
        given = load_config(recipe(f"rl:\n  rewards: {REWARDS}\n")).rl.rewards
        assert [(source.kind, source.name, source.weight, source.normalize) for source in given] == [
            ("trained", "reward_model", 0.5, False),
            ("function", "brevity", 1.0, True),
        ]
        for text in (REWARDS, AS_JSON):
            assert load_config(None, {"rl.rewards": text}).rl.rewards == given
        assert load_config(
            recipe("rl: {alarms: {fatal: []}}\n"), {"rl.alarms.fatal": "[value_clipping]"}
        ).rl.alarms.fatal == ("value_clipping",)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "[{kind: trained, weigth: 1}]",
                r"--rl\.rewards: \[0\]\.weigth is not a setting; the nearest .* is weight$",
            ),
            ("[{}, {weight: much}]", r"--rl\.rewards: \[1\]\.weight: got much, expected a number$"),
            ("[{}, {weight: true}]", r"--rl\.rewards: \[1\]\.weight: got true, expected a number$"),
            ("[{kind: model}]", r"--rl\.rewards: \[0\]: path is for the kind model"),
            ("[{}, {}]", r"rl with --rl\.rewards: rewards: two sources have one name"),
            (
                "[{kind: trained",
                r"--rl\.rewards: got \[{kind: trained, which is not YAML .*, expected a list, each element",
            ),
            ("trained", r"--rl\.rewards: got trained, expected a list, each element a section with kind, name, path"),
            ("[trained]", r"--rl\.rewards: \[0\]: got trained, expected a section with kind, name, path"),
            ("", r"--rl\.rewards: got nothing, expected a list"),
            (
                "!!python/name:os.system",
                r"--rl\.rewards: got .*, which is not YAML \(could not determine a constructor",
            ),
        ],
    )
    def test_a_mistake_on_a_flag_is_told_with_its_place(self, text, message):
        with pytest.raises(ConfigError, match=message) as error:
            load_config(None, {"rl.rewards": text})
        assert "\n" not in str(error.value)

    def test_a_flag_replaces_the_recipes_list(self, recipe):
        path = recipe("rl:\n  rewards:\n    - {kind: function, name: long}\n    - {kind: trained}\n")
        assert [s.name for s in load_config(path, {"rl.rewards": "[{name: other}]"}).rl.rewards] == ["other"]
        with pytest.raises(ConfigError, match=r"^--rl\.rewards: \[0\]\.weight: got x"):
            load_config(path, {"rl.rewards": "[{weight: x}]"})

    def test_a_key_that_is_set_twice_in_an_element_is_refused(self, recipe):
        with pytest.raises(ConfigError, match=r":4: rl\.rewards\[0\]\.name is set twice, first in line 3"):
            load_config(recipe("rl:\n  rewards:\n    - name: a\n      name: b\n"))

    def test_help_says_what_an_element_is(self):
        known = settings()
        assert known["rl.rewards"].expected == (
            "a list, each element a section with kind, name, path, revision, chat_template, template_date, weight, "
            "normalize, member"
        )
        assert known["rl.alarms.fatal"].expected.startswith("a list, each element one of negative_kl, entropy_collapse")
        assert not [name for name in known if "[" in name]


class TestPaths:
    @pytest.fixture(autouse=True)
    def project(self, tmp_path, monkeypatch):
        (tmp_path / "project" / "models" / "own").mkdir(parents=True)
        (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
        monkeypatch.setenv("RLHF_ROOT", str(tmp_path / "project"))
        monkeypatch.chdir(tmp_path / "elsewhere")

    def test_path_below_the_current_directory_is_recorded_whole(self, tmp_path):
        config = load_config(None, {"model.base": "mine", "data.path": "./mine"})
        assert config.model.base == config.data.path == str(tmp_path / "elsewhere" / "mine")

    def test_path_inside_the_project_is_recorded_relative_to_it(self):
        assert load_config(None, {"model.base": "../project/models/own"}).model.base == "models/own"

    def test_reward_models_on_a_flag_are_found_from_the_current_directory(self, tmp_path):
        (tmp_path / "elsewhere" / "safety").mkdir()
        text = "[{kind: model, name: a, path: safety}, {kind: model, name: b, path: ../project/models/own}]"
        paths = [source.path for source in load_config(None, {"rl.rewards": text}).rl.rewards]
        assert paths == [str(tmp_path / "elsewhere" / "safety"), "models/own"]

    def test_what_is_not_there_stays_as_it_is(self):
        config = load_config(None, {"model.base": "organization/name", "data.path": "data"})
        assert (config.model.base, config.data.path) == ("organization/name", "data")

    def test_path_in_a_recipe_stays_relative_to_the_project(self, recipe):
        assert load_config(recipe("data: {path: mine}\n")).data.path == "mine"


def test_every_setting_is_described_and_says_what_is_expected():
    for name, setting in settings().items():
        assert setting.help.endswith("."), name
        assert not setting.expected.startswith("a value"), name


def test_expectations_tell_bounds_choices_and_optional():
    known = settings()
    assert known["rl.gamma"].expected == "a number at least 0 and at most 1"
    assert known["rl.score_clip"].expected == "a number above 0 or none"
    assert known["seed"].expected == "a whole number at least 0 and below 2147483648"
    assert known["compute.device"].expected == "one of cpu, cuda"
    assert known["data.embedded"].choices == ("calibrated_arithmetic", "stories")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("rl.kl_coeff", "rl.kl_coef"),
        ("sft.lr_rate", "sft.learning_rate"),
        ("model.max_len", "model.max_length"),
        ("sede", "seed"),
    ],
)
def test_nearest(wrong, right):
    assert nearest(wrong, settings()) == right
