"""YAML from outside: a few lines of it must not stand for all memory, and no line of it ends in a traceback."""

from pathlib import Path

import pytest
import yaml

from rlhf.cli.main import main
from rlhf.config.loading import load_config
from rlhf.data.versions.repository import parse_dvc_file
from rlhf.errors import ConfigError
from rlhf.files.plain_yaml import FastPlainLoader, PlainLoader, load_yaml, open_yaml

BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
REFUSED = {
    "an alias bomb": (BOMB, 1, "anchors"),
    "an alias of itself": ("rl:\n  rewards: &a [*a]\n", 2, "anchors"),
    "an anchor alone": ("seed: 1\nname: &n demo\n", 2, "anchors"),
    "a merge": ("seed: 1\n<<: *a\n", 2, "anchors"),
    "3000 brackets": ("seed: " + "[" * 3000, 1, "nested more than 32 deep"),
    "3000 maps": ("seed: " + "{a: " * 3000, 1, "nested more than 32 deep"),
    "a number of 5000 digits": ("seed: " + "9" * 5000, 1, "is no value"),
    "a day that there is not": ("name: demo\nmodel:\n  template_date: 2025-13-41\n", 3, "is no value"),
}


@pytest.mark.parametrize(("text", "line", "why"), REFUSED.values(), ids=REFUSED.keys())
class TestRefused:
    """Nine lines of aliases hung with 1.1 GB; an alias of itself and 3000 brackets ended in RecursionError."""

    def test_in_a_recipe(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: int, why: str
    ) -> None:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(text)
        assert main(["run", str(recipe)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"rlhf: error: {recipe}:{line}: ")
        assert why in said
        assert len(said) < 500

    @pytest.mark.parametrize("kind", [PlainLoader, FastPlainLoader])
    def test_wherever_yaml_is_read(self, text: str, line: int, why: str, kind: type) -> None:
        with pytest.raises(yaml.MarkedYAMLError) as raised:
            open_yaml(text, kind)
        assert why in raised.value.problem
        assert raised.value.problem_mark.line + 1 == line

    def test_in_data_dvc(self, text: str, line: int, why: str) -> None:
        with pytest.raises(ValueError, match="it is no YAML"):
            parse_dvc_file(text.encode())


class TestFlags:
    """A flag's value is YAML too."""

    @pytest.mark.parametrize("value", ["&a [*a]", "*a", "[" * 3000, "[{name: &a x, weight: *a}]"])
    def test_refused(self, value: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "configs/smoke.yaml", "--rl.rewards", value]) == 2
        said = capsys.readouterr().err
        assert "--rl.rewards: got " in said
        assert "which is refused (" in said
        assert len(said) < 1000

    def test_lists_are_read_as_before(self) -> None:
        config = load_config(None, {"rl.rewards": "[{name: a, kind: function, weight: 2}]"})
        assert config.rl.rewards[0].weight == 2


class TestSize:
    def test_a_recipe_without_end(self, tmp_path: Path) -> None:
        (tmp_path / "recipe.yaml").write_text("# " + "a" * 2_000_000)
        for path in (tmp_path / "recipe.yaml", Path("/dev/zero")):
            with pytest.raises(ConfigError, match=f"{path}:1: it has more than 1 MB, and settings are shorter"):
                load_config(path)

    def test_plain_yaml_is_read_as_before(self) -> None:
        text = "a: [1, 2.5, yes, ~, x]\nb:\n  c: {d: 2025-01-02}\n"
        assert load_yaml(text) == load_yaml(text.encode(), FastPlainLoader) == yaml.safe_load(text)
        assert load_yaml("") is None
