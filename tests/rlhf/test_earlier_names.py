"""Recipes, flags and runs of the release before, in which the stage that trains the policy was called ppo."""

import pytest

from rlhf.config.loading import load_config
from rlhf.config.pipeline import PipelineConfig
from rlhf.earlier_names import (
    current_metric,
    current_tags,
    given_flag,
    metric_names,
    recorded_setting,
)
from rlhf.errors import ConfigError
from rlhf.provenance.record import ProvenanceRecord
from rlhf.tracking.records import Condition

SAID = "rename it, for the next release does not read it"
RECORD = {
    "recipe": "demo",
    "seed": 0,
    "config_sha256": "1",
    "lock_sha256": "2",
    "code": {"commit": None, "dirty": False, "patch_sha256": None},
    "machine": {},
    "compute": {},
}


def test_a_section_is_read_and_said(tmp_path, caplog):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: mine\nppo:\n  kl_coef: 0.2\n")
    assert load_config(path).rl.kl_coef == 0.2
    assert f"the section ppo of a recipe is called rl now; {SAID}" in caplog.text


def test_a_mistake_in_it_has_its_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: mine\nppo:\n  kl_coeff: 0.2\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml:3: rl\.kl_coeff is not a setting"):
        load_config(path)


def test_both_names_of_one_section_are_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("ppo: {kl_coef: 0.2}\nrl: {gamma: 0.9}\n")
    with pytest.raises(ConfigError, match="ppo and rl are one section, which is called rl now; drop ppo"):
        load_config(path)


def test_a_form_of_before_is_read(caplog):
    assert PipelineConfig.model_validate({"ppo": {"kl_coef": 0.3}}).rl.kl_coef == 0.3
    assert SAID in caplog.text


def test_a_flag_is_read_and_said_and_others_are_left(caplog):
    assert given_flag("--ppo.kl-coef=0.2") == "--rl.kl-coef=0.2"
    assert f"--ppo.kl-coef is called --rl.kl-coef now; {SAID}" in caplog.text
    caplog.clear()
    assert [given_flag(text) for text in ("--rl.kl-coef", "ppo.yaml", "--ppo")] == ["--rl.kl-coef", "ppo.yaml", "--ppo"]
    assert not caplog.text


def test_tags_and_metrics():
    tags = {"rlhf.stage": "ppo", "rlhf.run.ppo": "1", "rlhf.fingerprint.ppo": "f", "recipe": "ppo"}
    assert current_tags(tags) == {
        "rlhf.stage": "policy",
        "rlhf.run.policy": "1",
        "rlhf.fingerprint.policy": "f",
        "recipe": "ppo",
    }
    names = ("ppo/kl_mean", "group/ppo/num_alarms_low", "sft/loss")
    assert [current_metric(name) for name in names] == ["policy/kl_mean", "group/policy/num_alarms_low", "sft/loss"]
    assert metric_names("policy/kl_mean") == ("policy/kl_mean", "ppo/kl_mean")


def test_a_search_asks_for_both():
    asked = Condition("metric", "policy/kl_mean", "<", 1.0).recorded
    assert [condition.name for condition in asked] == ["policy/kl_mean", "ppo/kl_mean"]
    asked = Condition("tag", "rlhf.stage", "=", "policy").recorded
    assert [condition.value for condition in asked] == ["policy", "ppo"]
    assert len(Condition("tag", "rlhf.stage", "=", "sft").recorded) == 1


def test_a_record_has_the_digest_under_which_it_was_written():
    stages = {"sft": {"fingerprint": "f", "sha256": "5"}, "ppo": {"fingerprint": "g", "sha256": "6"}}
    bases = {"ppo.rewards.1.path": {"name": "safety", "revision": None, "sha256": "7"}}
    record = ProvenanceRecord.model_validate(RECORD | {"stages": stages, "bases": bases})
    assert list(record.stages) == ["sft", "policy"]
    assert list(record.bases) == ["rl.rewards.1.path"]
    today = ProvenanceRecord.model_validate(record.model_dump(mode="json"))
    assert today.digest != record.digest == record.model_copy(update={"obstacles": ()}).digest


def test_a_setting_is_found_in_a_recorded_recipe():
    assert recorded_setting("rl.kl_coef", {"ppo": {}}) == "ppo.kl_coef"
    assert recorded_setting("rl.kl_coef", {"rl": {}}) == "rl.kl_coef"
