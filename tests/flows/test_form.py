"""What may be filled in in Prefect's form: the schema that the server validates a run's parameters by."""

from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.pipeline import rlhf_pipeline
from rlhf.config.pipeline import PipelineConfig

REWARDS = [{"kind": "trained"}, {"kind": "function", "name": "brevity", "weight": -0.1, "normalize": True}]


def check(**ppo: Any) -> None:
    schema = parameter_schema(rlhf_pipeline).model_dump_for_openapi()
    validate({"config": {"rl": ppo}}, schema, raise_on_error=True)


def test_a_list_of_sources_is_taken_and_comes_out_as_settings() -> None:
    check(rewards=REWARDS, alarms={"fatal": ["negative_kl", "value_clipping"]})
    given = rlhf_pipeline.validate_parameters({"config": {"rl": {"rewards": REWARDS}}})["config"]
    assert [(source.name, source.weight) for source in given.rl.rewards] == [("reward_model", 1.0), ("brevity", -0.1)]


def test_the_defaults_are_valid() -> None:
    """An invalid default would reset every parameter of a deployment."""
    check(**PipelineConfig().rl.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("ppo", "what"),
    [
        ({"rewards": [{"kind": "class"}]}, "'class' is not one of"),
        ({"rewards": [{"kind": "trained", "weigth": 1}]}, "'weigth' was unexpected"),
        ({"rewards": [{"kind": "function", "name": "os:getcwd"}]}, "does not match"),
        ({"rewards": {"kind": "trained"}}, "is not of type 'array'"),
        ({"alarms": {"fatal": ["entropy"]}}, "'entropy' is not one of"),
    ],
)
def test_a_mistake_in_a_list_is_refused_by_the_form(ppo: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        check(**ppo)


def test_every_field_of_a_source_is_described() -> None:
    definitions = parameter_schema(rlhf_pipeline).definitions
    for name in ("RewardSourceConfig", "AlarmsConfig"):
        assert all(field["description"].endswith(".") for field in definitions[name]["properties"].values())
    assert definitions["RLConfig"]["properties"]["rewards"]["items"] == {"$ref": "#/definitions/RewardSourceConfig"}
