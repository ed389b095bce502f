"""What the value model starts as: the first reward model of the sources that is like the policy, or the SFT policy."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rlhf.config.rl import RLConfig
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.context import start_stage
from rlhf.modeling.models import load_policy, load_reward_model, save_model
from rlhf.rl.models import load_models

LENGTH = "def length(prompts, responses):\n    return [len(text) for text in responses]\n"
FUNCTION = {"kind": "function", "name": "length"}


@pytest.fixture
def value_model_of(tiny_run, install):
    """The value model of a run with these sources."""
    install(LENGTH, "length = my_rewards:length")
    run = tiny_run()

    def load(*rewards, **settings):
        stage = start_stage(RLConfig(rewards=rewards, **settings), run.setup, run.start / "policy")
        return load_models(stage, run.start, run.reward_models).value_model

    load.run = run
    return load


def starts_as(value_model, reward_model):
    """Same backbone, and a head that is the reward model's less its score_offset."""
    one, other = value_model.backbone.state_dict(), reward_model.base_model.state_dict()
    return (
        all(torch.equal(one[name], other[name]) for name in other)
        and torch.equal(value_model.head.weight, reward_model.score.weight)
        and value_model.head.bias.item() == -reward_model.config.score_offset
    )


def test_as_the_trained_reward_model_by_default(value_model_of):
    trained = load_reward_model(value_model_of.run.reward_models / "reward_model", value_model_of.run.setup.compute)
    assert starts_as(value_model_of({}), trained)


def test_as_the_first_reward_model_of_the_sources(value_model_of, save_reward_model):
    folder = save_reward_model("safety", seed=7, score_offset=0.5)
    safety = {"kind": "model", "name": "safety", "path": str(folder)}
    setup = value_model_of.run.setup
    model = load_reward_model(folder, setup.compute)
    trained = load_reward_model(value_model_of.run.reward_models / "reward_model", setup.compute)
    assert starts_as(value_model_of(FUNCTION, safety, {}), model)
    assert starts_as(value_model_of(FUNCTION, {}, safety), trained)
    assert not starts_as(value_model_of(FUNCTION, {}, safety), model)


def test_as_the_sft_policy_with_a_zero_head_where_there_is_no_reward_model(value_model_of):
    value_model = value_model_of(FUNCTION)
    policy = load_policy(value_model_of.run.start / "policy", value_model_of.run.setup.compute)
    backbone = policy.base_model.state_dict()
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in value_model.backbone.state_dict().items())
    assert value_model(pad_sequences([[6, 7], [8]], [[9, 10, 5], [11, 5]], 0)).tolist() == [[0.0] * 3] * 2
    assert all(parameter.requires_grad for parameter in value_model.parameters())


@pytest.mark.parametrize("other", ["tokens", "shape"])
def test_a_reward_model_of_other_tokens_or_shape_is_passed_over(value_model_of, save_reward_model, other):
    from rlhf.modeling.tokenizer import load_tokenizer

    folder = save_reward_model("safety", seed=7)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), load_tokenizer(folder)
    if other == "tokens":
        tokenizer.chat_template = tokenizer.chat_template.replace("<|user|>", "<|user|><|user|>")
    else:
        model = type(model)(type(model.config)(**(model.config.to_dict() | {"num_hidden_layers": 1})))
    save_model(model, tokenizer, folder)
    safety = {"kind": "model", "name": "safety", "path": str(folder)}
    assert value_model_of(safety).head.weight.abs().sum() == 0
    trained = load_reward_model(value_model_of.run.reward_models / "reward_model", value_model_of.run.setup.compute)
    assert starts_as(value_model_of(safety, {}), trained)


def test_on_the_policys_trunk_with_a_zero_head(value_model_of):
    assert value_model_of({}, sharing="trunk").head.weight.abs().sum() == 0


def test_ppo_learns_from_a_function_alone(tiny_run, install):
    install(LENGTH, "length = my_rewards:length")
    run = tiny_run()
    run(num_updates=6, rewards=(FUNCTION | {"weight": 0.1},), value_learning_rate=3e-3, learning_rate=1e-4)
    assert run.curve("policy/explained_variance")[1] == pytest.approx(0.0, abs=1e-6), "it says 0 to everything"
    assert run.curve("policy/value_loss")[6] < run.curve("policy/value_loss")[1]
