"""What may be filled in in Prefect's form: the schema that the server validates a run's parameters by."""

from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows import forms
from rlhf.config.flat import flatten
from rlhf.config.loading import load_config, settings
from rlhf.errors import ConfigError
from rlhf.services.schedule import Schedule, write_schedule
from tasks.form import filled_in, read_form, recipe_name

REWARDS = [{"kind": "trained"}, {"kind": "function", "name": "brevity", "weight": -0.1, "normalize": True}]
SCHEMA = parameter_schema(forms.pipeline).model_dump_for_openapi()
EVERY_SETTING = SCHEMA["definitions"]["EverySetting"]


def check(**fields: Any) -> None:
    validate(fields, SCHEMA, raise_on_error=True)


class TestTheSmallForm:
    def test_asks_for_four_things_and_the_recipe_is_the_deployments(self) -> None:
        assert list(SCHEMA["properties"]) == ["seed", "note", "overrides", "advanced"]
        assert "required" not in SCHEMA
        check()

    def test_is_empty(self) -> None:
        """Prefect fills in a default, and would send it."""
        defaults = {name: field.get("default", "none") for name, field in SCHEMA["properties"].items()}
        assert defaults == {"seed": "none", "note": "", "overrides": "", "advanced": None}
        assert forms.pipeline.validate_parameters({"recipe": "demo"})["seed"] is None

    @pytest.mark.parametrize(
        "overrides",
        ["", "  ", "rl.kl_coef=0.2", " rl.kl_coef=0.2 seed=3 ", "rl.kl_coef=0.2,\nsft.lora=none", "--rl.kl-coef=1"],
    )
    def test_takes_overrides(self, overrides: str) -> None:
        check(overrides=overrides)

    @pytest.mark.parametrize("overrides", ["rl.kl_coef", "rl.kl_coef: 0.2", "kl coef=0.2", "=0.2", "seed=1 2"])
    def test_refuses_what_has_not_the_form_of_overrides(self, overrides: str) -> None:
        with pytest.raises(ValidationError, match=r"'overrides'.*does not match"):
            check(overrides=overrides)

    def test_a_long_text_of_another_form_is_refused_at_once(self) -> None:
        with pytest.raises(ValidationError):
            check(overrides="a.b=c=d=" * 240 + " e")

    def test_bounds_seed_and_note(self) -> None:
        check(seed=7, note="a try")
        for wrong in ({"seed": -1}, {"seed": 1.5}, {"note": "a" * 501}):
            with pytest.raises(ValidationError):
                check(**wrong)


class TestEverySetting:
    def test_is_there_and_empty(self) -> None:
        def names(schema: dict[str, Any], prefix: str = "") -> set[str]:
            found = set()
            for name, field in schema["properties"].items():
                assert "default" not in field
                assert field["title"] == name
                assert "description" in field
                group = next((choice for choice in [field, *field.get("anyOf", [])] if "properties" in choice), None)
                found |= {f"{prefix}{name}"} | (names(group, f"{prefix}{name}.") if group else set())
            return found

        assert names(EVERY_SETTING) == set(settings())
        check(advanced={})

    def test_a_switch_may_stay_as_it_is(self) -> None:
        """The form sends false for one that nobody touched."""
        assert "'boolean'" not in str(EVERY_SETTING)

    def test_a_few_are_enough(self) -> None:
        check(advanced={"model": {"architecture": {"num_layers": 3}}, "rl": {"rewards": REWARDS}})
        check(advanced={"rl": {"alarms": {"fatal": ["negative_kl", "value_clipping"]}}, "sft": {"lora": None}})

    def test_a_whole_recipe_is_one(self) -> None:
        recipe = load_config(Path("configs/smoke.yaml")).model_dump(mode="json")
        check(advanced={name: value for name, value in recipe.items() if value is not None})

    @pytest.mark.parametrize(
        ("ppo", "what"),
        [
            ({"rewards": [{"kind": "class"}]}, "'class' is not one of"),
            ({"rewards": [{"kind": "trained", "weigth": 1}]}, "'weigth' was unexpected"),
            ({"rewards": [{"kind": "function", "name": "os:getcwd"}]}, "does not match"),
            (
                {"rewards": {"kind": "trained"}},
                "'advanced.rl.rewards'. Failure reason: {'kind': 'trained'} is not valid",
            ),
            ({"alarms": {"fatal": ["entropy"]}}, "'entropy' is not one of"),
            ({"kl_coef": -1}, r"'advanced.rl.kl_coef'. Failure reason: -1 is less than the minimum"),
            ({"kl_coeff": 1}, "'kl_coeff' was unexpected"),
        ],
    )
    def test_a_mistake_is_refused_by_the_form(self, ppo: dict[str, Any], what: str) -> None:
        with pytest.raises(ValidationError, match=what):
            check(advanced={"rl": ppo})

    def test_a_mistake_is_told_beside_its_field(self) -> None:
        paths = [error.json_path for error in validate({"advanced": {"rl": {"kl_coef": -1}}}, SCHEMA)]
        assert "$.advanced.rl.kl_coef" in paths


class TestWhatAFormStandsFor:
    def test_the_recipe_and_what_differs(self) -> None:
        config = read_form("smoke", 7, "rl.kl_coef=0.2, sft.lora.rank=4", {"rl": {"rewards": REWARDS}, "data": {}})
        changes = {"seed": 7, "rl.kl_coef": 0.2, "sft.lora.rank": 4, "rl.rewards": REWARDS}
        assert config == load_config(Path("configs/smoke.yaml"), changes)
        assert [(source.name, source.weight) for source in config.rl.rewards] == [
            ("reward_model", 1.0),
            ("brevity", -0.1),
        ]

    @pytest.mark.parametrize(
        ("form", "what"),
        [
            (
                {"overrides": "rl.kl_coeff=0.2"},
                "^rl.kl_coeff is not a setting; the nearest known one is rl.kl_coef$",
            ),
            (
                {"overrides": "--rl.kl-coef=1"},
                "^--rl.kl-coef is not a setting; the nearest known one is rl.kl_coef$",
            ),
            ({"overrides": "rl.kl_coef=-1"}, "^rl.kl_coef: got '-1', expected a number at least 0$"),
            ({"overrides": "rl.rewards=[x"}, "^rl.rewards: got .x, which is not YAML"),
            ({"overrides": "rl.kl_coef=1 rl.kl_coef=2"}, "rl.kl_coef is given twice"),
            ({"overrides": "seed=1", "seed": 1}, "seed is given twice"),
            ({"overrides": "rl.kl_coef=1", "advanced": {"rl": {"kl_coef": 2}}}, "rl.kl_coef is given twice"),
            ({"advanced": {"seed": 1}, "seed": 2}, "seed is given twice in the form, as 1 and 2"),
            ({"recipe": "smok"}, "smok is no recipe of configs/; the nearest one is smoke"),
            ({"recipe": "../../etc/passwd"}, "is no recipe of configs/"),
        ],
    )
    def test_a_mistake_is_told_with_what_was_meant(self, form: dict[str, Any], what: str) -> None:
        with pytest.raises(ConfigError, match=what), filled_in({"recipe": "smoke"} | form):
            pass

    def test_a_scheduled_recipe_may_be_anywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
        file = tmp_path / "elsewhere.yaml"
        file.write_text("name: mine\n")
        with pytest.raises(ConfigError, match="no recipe of configs/"):
            read_form(str(file))
        write_schedule(Schedule(str(file), "02:00"))
        assert recipe_name(file) == str(file)
        assert read_form(str(file)).name == "mine"
        assert str(file) in parameter_schema(forms.nightly).properties["recipe"]["enum"]


@pytest.mark.parametrize(
    "form", [forms.pipeline, forms.seeds, forms.nightly, forms.policy_stage], ids=lambda one: one.name
)
def test_every_field_is_described(form: Any) -> None:
    fields = parameter_schema(form).properties
    described = {name for name, field in fields.items() if field.get("description")}
    assert described >= fields.keys() - {"retrain"} - {name for name in fields if name.endswith("_run")}


def test_a_section_is_not_lost(tmp_path: Path) -> None:
    """What a form leaves out stays as the recipe has it, in sections that it touches too."""
    before, after = load_config(Path("configs/demo.yaml")), read_form("demo", overrides="sft.batch_size=32")
    left, right = (flatten(config.model_dump(mode="json")) for config in (before, after))
    assert {name for name in left if left[name] != right[name]} == {"sft.batch_size"}
