"""A candidate against the champion, with models whose every output is known, and with two vocabularies."""

import json
import shutil

import numpy as np
import pytest
from known_models import EASY, HARD, HEDGED, PLAIN, SETUP, make_tokenizer, saying_policy, word_reward_model

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.config.retrain import JudgesConfig, RetrainConfig
from rlhf.errors import ConfigError, DataError
from rlhf.evaluation.comparison import compare_policies
from rlhf.modeling.models import save_model
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.retraining.gates import apply_gates, gate_inputs
from rlhf.rewards.scoring import Answers, ScoringError, score_answers

CONFIG = EvaluationConfig(num_prompts=48, batch_size=7, num_side_by_side=5, num_bootstrap=500)


@pytest.fixture
def own_world(world, tmp_path):
    """A copy that a test may change, with the SFT policy as the champion."""
    shutil.copytree(world, tmp_path / "world")
    folder = tmp_path / "world"
    shutil.copytree(folder / "sft" / "policy", folder / "champion")
    return folder


def compare(
    folder,
    workspace,
    judges=JudgesConfig(),  # noqa: B008
    config=CONFIG,
    max_response_tokens=16,
    noise="candidate",
    champion_reward_models=None,
):
    compare_policies(
        config,
        judges,
        SETUP,
        max_response_tokens,
        noise,
        folder / "data",
        folder / "policy" / "policy",
        folder / "champion",
        folder / "sft" / "policy",
        folder / "reward_models",
        champion_reward_models,
        workspace,
    )
    return json.loads((workspace.output / "comparison.json").read_text())


def without_gold(folder):
    report = json.loads((folder / "data" / "report.json").read_text())
    (folder / "data" / "report.json").write_text(json.dumps(report | {"gold": None}))


def test_by_the_gold_rule(own_world, workspace, logged):
    # 16 easy questions, of which "3" answers four, and 32 hard ones. The champion is plain, the candidate hedges.
    found = compare(own_world, workspace)
    assert (found["judge"], found["num_prompts"]) == ("gold", 48)
    won = found["win_rate"]
    assert (won["wins"], won["ties"], won["losses"]) == (44, 0, 4)
    assert found["gain"]["value"] == pytest.approx(42 / 48)
    # Eleven words against five, and EOS.
    assert found["length_growth"] == 12 / 6
    assert found["models"]["candidate"]["eos_rate"]["value"] == 1
    figures = gate_inputs(found)
    assert (list(figures.gains), len(set(figures.prompts)), figures.safety) == (["gold"], 48, {})
    assert sum(gain > 0 for gain in figures.gains["gold"]) == 44
    assert (set(figures.lengths), set(figures.champion_lengths)) == ({12}, {6})
    # Each says what it says for sure, and what the other says hardly ever.
    assert min(figures.kl) > 10
    assert found["kl"]["value"] == pytest.approx(np.mean(figures.kl))
    ((metrics, step),) = logged
    assert step is None
    assert metrics["comparison/gain"] == found["gain"]["value"]
    assert metrics["comparison/champion_response_tokens"] == 6


def test_by_the_selection_reward_model_where_there_is_no_rule(own_world, workspace):
    without_gold(own_world)
    found = compare(own_world, workspace)
    # It dislikes hedging.
    assert found["judge"] == "selection_reward_model"
    assert (found["win_rate"]["wins"], found["win_rate"]["losses"]) == (0, 48)
    assert found["gain"]["high"] < 0


def test_both_selection_models_judge_each_in_its_own_tokens(own_world, workspace, tmp_path):
    """The champion's likes hedging and knows other ids; the candidate's dislikes it, and its verdict is the worse."""
    without_gold(own_world)
    other = prepare_tokenizer(SETUP.model, ["zebra yak " * 5, HEDGED, PLAIN, *EASY, *HARD, "9 8 7 6 5 4 3 2 1 0"])[0]
    assert other.get_vocab() != make_tokenizer().get_vocab()
    save_model(word_reward_model(other, believe=4.0), other, tmp_path / "theirs" / "selection_reward_model")
    found = compare(own_world, workspace, champion_reward_models=tmp_path / "theirs")
    assert found["deciding"] == ["selection_reward_model", "champion_selection_reward_model"]
    assert found["judges"]["champion_selection_reward_model"]["win_rate"]["wins"] == 48
    assert (found["judge"], found["win_rate"]["losses"]) == ("selection_reward_model", 48)
    verdicts = {verdict.gate: verdict for verdict in apply_gates(RetrainConfig(maximum_kl=None), gate_inputs(found))}
    assert (verdicts["win_rate"].judge, verdicts["win_rate"].value) == ("selection_reward_model", 0.0)
    assert verdicts["reward_gain"].judge == "selection_reward_model"
    assert not verdicts["reward_gain"].held


def test_the_rule_decides_alone_where_there_is_one(own_world, workspace):
    found = compare(own_world, workspace, champion_reward_models=own_world / "reward_models")
    assert (found["deciding"], len(found["judges"])) == (["gold"], 3)


def test_every_candidate_has_noise_of_its_own(own_world, workspace):
    for name in ("champion", "policy/policy"):
        shutil.rmtree(own_world / name)
        save_model(saying_policy(make_tokenizer(), PLAIN, logit=2.0), make_tokenizer(), own_world / name)
    one, other = (compare(own_world, workspace, noise=noise)["by_row"] for noise in ("one", "other"))
    assert one["lengths"] != other["lengths"]


def test_data_of_before_there_was_a_gate_is_one_error(own_world, workspace):
    (own_world / "data" / "prompts" / "gate.jsonl").unlink()
    with pytest.raises(DataError, match=r"gate\.jsonl: there is no such file: .*run the data stage again"):
        compare(own_world, workspace)


def test_a_champion_of_another_vocabulary(own_world, workspace):
    """The same words with other ids, in the champion's folder; its texts are what is judged."""
    before = compare(own_world, workspace)
    texts = ["zebra yak xylophone " * 5, HEDGED, PLAIN, *EASY, *HARD, "9 8 7 6 5 4 3 2 1 0"]
    other = prepare_tokenizer(SETUP.model, texts)[0]
    assert other.get_vocab() != make_tokenizer().get_vocab()
    shutil.rmtree(own_world / "champion")
    save_model(saying_policy(other, PLAIN), other, own_world / "champion")
    assert compare(own_world, workspace) == before


def test_a_policy_like_the_champion_ties_everywhere(own_world, workspace):
    """Sampling noise is the same for both, though what they say is not sure."""
    for name in ("champion", "policy/policy"):
        shutil.rmtree(own_world / name)
        save_model(saying_policy(make_tokenizer(), PLAIN, logit=2.0), make_tokenizer(), own_world / name)
    found = compare(own_world, workspace)
    assert all(one["win_rate"]["ties"] == 48 for one in found["judges"].values())
    assert found["length_growth"] == 1


def test_answers_that_were_cut_off_have_no_end(own_world, workspace):
    found = compare(own_world, workspace, max_response_tokens=4)
    for figures in found["models"].values():
        assert (figures["response_tokens"]["value"], figures["eos_rate"]["value"]) == (4, 0)


def test_the_same_input_gives_the_same_bytes(own_world, workspace):
    compare(own_world, workspace)
    first = {path.name: path.read_bytes() for path in workspace.output.iterdir()}
    assert set(first) == {"comparison.json", "side_by_side.md"}
    compare(own_world, workspace)
    assert {path.name: path.read_bytes() for path in workspace.output.iterdir()} == first


def test_prompts_that_the_champion_cannot_read_are_left_out_and_counted(own_world, workspace):
    settings = json.loads((own_world / "champion" / "config.json").read_text())
    lengths = {len(ids) for ids in make_tokenizer()([*EASY, *HARD], add_special_tokens=False)["input_ids"]}
    settings["max_position_embeddings"] = 16 + min(lengths) + 2
    (own_world / "champion" / "config.json").write_text(json.dumps(settings))
    found = compare(own_world, workspace)
    assert found["num_prompts"] == 16
    assert "32 gate prompts are too long for one of the two and were left out." in found["notes"]
    with pytest.raises(DataError, match="none of 48 gate prompts fits both"):
        compare(own_world, workspace, max_response_tokens=40)


FUNCTIONS = """
def polite(prompts, responses):
    return [float("please" in text) for text in responses]

def broken(prompts, responses):
    return [float("nan")] * len(responses)

def short(prompts, responses):
    return [1.0]

def raising(prompts, responses):
    raise KeyError("no")
"""


@pytest.fixture
def offered(install):
    """The functions above, in an installed package."""
    install(FUNCTIONS, *(f"{name} = my_rewards:{name}" for name in ("polite", "broken", "short", "raising")))


@pytest.mark.usefixtures("offered")
def test_safety_by_a_function_and_by_a_reward_model(own_world, workspace, tmp_path):
    tokenizer = prepare_tokenizer(SETUP.model, ["a b c", HEDGED, PLAIN, *EASY, *HARD])[0]
    save_model(word_reward_model(tokenizer, believe=5.0), tokenizer, tmp_path / "judge")
    judges = JudgesConfig(
        safety=(
            RewardSourceConfig(kind="function", name="polite"),
            RewardSourceConfig(kind="model", name="belief", path=str(tmp_path / "judge")),
        )
    )
    found = compare(own_world, workspace, judges)["by_row"]["safety"]
    assert found["polite"] == [1.0] * 48
    assert len(found["belief"]) == 48
    assert min(found["belief"]) > 0


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "returned nan for the response 'a'; it must return a finite number"),
        ("short", "returned 1 numbers for 2 responses; it must return one for each"),
        ("raising", r"raised KeyError: 'no'"),
    ],
)
def test_a_function_that_fails_is_named(name, message):
    answers = Answers(["a", "b"], [True, True])
    prompts = [[{"role": "user", "content": "?"}]] * 2
    with pytest.raises(ScoringError, match=message):
        score_answers(RewardSourceConfig(kind="function", name=name), SETUP.compute, prompts, answers, 4)


def test_a_function_that_is_not_installed():
    with pytest.raises(ConfigError, match="no installed package offers"):
        score_answers(RewardSourceConfig(kind="function", name="nobody"), SETUP.compute, [], Answers([], []), 4)
