"""Names that say what differs from the recipe."""

from pathlib import Path

import pytest

from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.paths import source_root
from rlhf.runs.names import MAX_LENGTH, group_name, run_name, started_from

CONFIGS = source_root() / "configs"


def demo(**settings: object) -> PipelineConfig:
    return load_config(CONFIGS / "demo.yaml", {name.replace("__", "."): value for name, value in settings.items()})


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_as_it_is(recipe: Path):
    assert run_name(load_config(recipe)) == f"{recipe.stem}, seed 0"


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"rl__kl_coef": 0.05, "seed": 1}, "demo, kl_coef 0.05, seed 1"),
        ({"rl__kl_coef": 0.1}, "demo, seed 0"),
        ({"rl__learning_rate": 0.003}, "demo, rl.learning_rate 0.003, seed 0"),
        ({"sft__learning_rate": 0.003}, "demo, sft.learning_rate 0.003, seed 0"),
        ({"model__base": "org/a", "model__architecture": None}, "demo, base org/a, architecture none, seed 0"),
        ({"data__embedded": None}, "demo, embedded none, seed 0"),
        (
            {"data__embedded": None, "data__path": "a: [b](http://c) \u202e`x`\n<i>"},
            "demo, path a:bhttp://c xi, embedded none, seed 0",
        ),
        ({"data__embedded": None, "data__path": "x" * 40}, f"demo, path {'x' * 21}..., embedded none, seed 0"),
        (
            {"sft__num_epochs": 2, "rl__kl_coef": 0.2, "rl__gamma": 0.9, "rl__clip_range": 0.1, "seed": 5},
            "demo, sft.num_epochs 2.0, kl_coef 0.2, and 2 more, seed 5",
        ),
    ],
)
def test_what_differs(settings: dict[str, object], name: str):
    assert run_name(demo(**settings)) == name
    assert len(name) <= MAX_LENGTH


def test_one_setting_is_named_even_beside_a_long_recipe(tmp_path: Path):
    recipe = tmp_path / "long.yaml"
    recipe.write_text(f"name: {'l' * 58}\n")
    with started_from(recipe):
        name = run_name(load_config(recipe, {"rl.kl_coef": 0.5, "rl.gamma": 0.9}))
    assert name == f"{'l' * 58}, kl_coef 0.5, and 1 more, seed 0"


def test_a_recipe_of_ones_own_is_the_file_that_was_given(tmp_path: Path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nrl: {kl_coef: 0.3}\n")
    config = load_config(recipe, {"rl.kl_coef": 0.5})
    assert run_name(config) == "mine, seed 0"  # nothing is known of the recipe
    with started_from(recipe):
        assert run_name(config) == "mine, kl_coef 0.5, seed 0"
    with started_from(CONFIGS / "demo.yaml"):
        assert run_name(demo(name="other", rl__kl_coef=0.5)) == "other, kl_coef 0.5, seed 0"


def test_a_recipe_that_cannot_be_read_any_more_leaves_its_name(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("name: [")
    with started_from(tmp_path / "mine.yaml"):
        assert run_name(PipelineConfig(name="mine")) == "mine, seed 0"


def test_copies_of_a_recipe_that_were_edited_are_told_apart(tmp_path: Path):
    """The name is that of a recipe in configs/, and so it is held against that one."""
    copy = tmp_path / "demo.yaml"
    copy.write_text((CONFIGS / "demo.yaml").read_text().replace("kl_coef: 0.1", "kl_coef: 0.4"))
    with started_from(copy):
        assert run_name(load_config(copy)) == "demo, kl_coef 0.4, seed 0"


def test_a_group():
    assert group_name(demo(rl__kl_coef=0.05), (7, 11, 23)) == "demo, kl_coef 0.05, 3 seeds from 7"
