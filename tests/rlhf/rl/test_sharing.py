"""One backbone in several roles: whatever is shared, the reference is the SFT policy, and what is frozen stays so."""

import json

import pytest
import torch
from interrupted import run_whole_and_broken
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.config.rl import RLConfig
from rlhf.errors import ModelError
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.context import start_stage
from rlhf.modeling.lora import ADAPTER, save_adapter
from rlhf.modeling.models import load_policy, load_reward_model, save_model, score
from rlhf.policy.context import Prompts
from rlhf.rl.context import make_context
from rlhf.rl.models import load_models
from rlhf.rl.rollout import response_logprobs_of
from rlhf.rl.update import run_update
from rlhf.rl.value_model import TrunkValueHead

MODES = {
    "none": {},
    "trunk": {"sharing": "trunk"},
    "adapters": {"sharing": "adapters", "lora": {"rank": 4}},
    "trunk and adapters": {"sharing": "trunk", "lora": {"rank": 4}},
}
BATCH = pad_sequences([[6, 7, 8], [9]], [[10, 11], [12, 13, 14, 5]], 0)
IDS = [[6], [6, 7], [8, 9, 10]]


def adapt(folder, start, tokenizer, seed, like):
    """A reward model over the SFT policy, as the reward stage with adapters and dropout leaves it; it likes one token
    last."""
    model = AutoModelForSequenceClassification.from_pretrained(start, num_labels=1)
    model.config.score_offset = 0.25
    torch.manual_seed(seed)
    settings = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="SEQ_CLS", lora_dropout=0.5)
    adapted = get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
        head = adapted.get_base_model().score.modules_to_save["default"]
        direction = model.get_input_embeddings().weight[like]
        head.weight.copy_(2.0 * direction / direction.square().sum())
    save_adapter(adapted, folder / ADAPTER)
    save_model(adapted.merge_and_unload(), tokenizer, folder)


@pytest.fixture
def shared_run(tiny_run, tiny_tokenizer):
    """A tiny run whose reward models are adapters over its SFT policy."""

    def make(name="policy"):
        run = tiny_run(name)
        for seed, model in enumerate(("reward_model", "selection_reward_model")):
            adapt(run.reward_models / model, run.start / "policy", tiny_tokenizer, seed, tiny_tokenizer.eos_token_id)
        return run

    return make


def learner_of(run, **settings):
    defaults = {"rollout_size": 16, "num_minibatches": 2, "max_response_tokens": 8, "num_critic_warmup_updates": 0}
    config = RLConfig.model_validate(defaults | {"learning_rate": 1e-2, "value_learning_rate": 1e-2} | settings)
    stage = start_stage(config, run.setup, run.start / "policy")
    return make_context(stage, load_models(stage, run.start, run.reward_models), Prompts([[]] * len(IDS), IDS))


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_is_the_sft_policy_whatever_was_learned(shared_run, mode):
    """TRL #1340: a reference that shares the policy's weights learns with it."""
    run = shared_run()
    learner = learner_of(run, **MODES[mode])
    for update in range(3):
        run_update(learner, update, 0.0)
    sft = load_policy(run.start / "policy", run.setup.compute)
    expected = response_logprobs_of(learner, sft, BATCH)
    torch.testing.assert_close(response_logprobs_of(learner, learner.models.ref_policy, BATCH), expected)
    of_policy = response_logprobs_of(learner, learner.models.policy, BATCH)
    assert (of_policy - expected).abs().max() > 1e-2, "the policy has not learned anything"


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_starts_right_learns_resumes_and_leaves_a_plain_policy(shared_run, mode):
    settings = MODES[mode] | {"num_updates": 8, "rollout_size": 64, "kl_coef": 0.0, "missing_eos_penalty": 0.0}
    settings |= {"learning_rate": 1e-2, "value_learning_rate": 1e-2, "evaluate_every": 4}
    whole, _ = run_whole_and_broken(shared_run, 5, **settings)
    assert abs(whole.curve("policy/kl_mean")[1]) < 1e-5
    assert whole.curve("policy/ratio_error")[2] < 1e-4
    assert whole.curve("policy/score_mean")[8] > whole.curve("policy/score_mean")[1] + 0.1
    output = whole.folder / "output"
    assert not list(output.rglob("adapter*"))
    AutoModelForCausalLM.from_pretrained(output / "policy")


@pytest.mark.parametrize("mode", MODES)
def test_an_exported_policy_is_the_one_in_training(shared_run, tiny_tokenizer, tmp_path, mode):
    run = shared_run()
    learner = learner_of(run, **MODES[mode])
    run_update(learner, 0, 0.0)
    models = learner.models
    save_model(models.export_policy(), tiny_tokenizer, tmp_path / "exported")
    exported = load_policy(tmp_path / "exported", run.setup.compute)
    torch.testing.assert_close(
        response_logprobs_of(learner, exported, BATCH),
        response_logprobs_of(learner, models.policy, BATCH),
        rtol=1e-4,
        atol=1e-4,
    )


def test_adapters_on_the_backbone_are_the_merged_models(shared_run, tiny_tokenizer):
    run = shared_run()
    adapt(run.reward_models / "reward_model_2", run.start / "policy", tiny_tokenizer, 5, tiny_tokenizer.eos_token_id)
    rewards = ({"kind": "trained"}, {"kind": "trained", "name": "second", "member": 2})
    models = learner_of(run, **MODES["adapters"], rewards=rewards).models
    for name, model in (
        ("reward_model", models.sources[0].model),
        ("reward_model_2", models.sources[1].model),
        ("selection_reward_model", models.selection_reward_model),
    ):
        merged = load_reward_model(run.reward_models / name, run.setup.compute)
        with torch.no_grad():
            ours = score(model, BATCH.input_ids, BATCH.attention_mask)
            theirs = score(merged, BATCH.input_ids, BATCH.attention_mask)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    first, second = (
        score(m, BATCH.input_ids, BATCH.attention_mask)
        for m in (models.sources[0].model, models.selection_reward_model)
    )
    assert (first - second).abs().max() > 1e-3, "the two reward models are one"


def test_only_the_adapters_in_training_change(shared_run):
    run = shared_run()
    learner = learner_of(run, **MODES["adapters"])
    models = learner.models
    backbone = models.policy.backbone.peft
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    run_update(learner, 0, 0.1)
    changed = {name for name, p in backbone.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[-2] for name in changed} == {"policy", "value"}
    assert set(models.policy_parameters) == {name for name in before if ".policy." in name}
    assert len(changed) > 4


def test_adapters_make_small_checkpoints(shared_run):
    sizes = {}
    for mode in ("none", "adapters"):
        run = shared_run(mode)
        run(num_updates=2, **MODES[mode])
        folder = run.folder / "checkpoints" / "update_000002"
        sizes[mode] = sum(path.stat().st_size for path in folder.iterdir())
    assert sizes["adapters"] < 0.5 * sizes["none"]


def test_a_trunk_s_value_head_starts_at_zero_and_needs_the_policy_s_pass(make_learner):
    models = make_learner(RLConfig(), sharing="trunk").models
    assert isinstance(models.value_model, TrunkValueHead)
    models.policy(input_ids=BATCH.context, use_cache=False)
    assert models.value_model(BATCH).abs().max() == 0.0
    with pytest.raises(AssertionError):
        models.value_model(BATCH)


def test_a_reward_model_without_an_adapter_cannot_share(tiny_run):
    with pytest.raises(ModelError, match=r"not trained as an adapter.*set reward_model\.lora"):
        tiny_run()(**MODES["adapters"])


def test_an_adapter_over_another_model_is_refused(shared_run, tiny_tokenizer, tmp_path):
    run = shared_run()
    other = tmp_path / "other"
    config = json.loads((run.start / "policy" / "config.json").read_text()) | {"num_hidden_layers": 3}
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    from transformers import AutoConfig

    save_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(other)), tiny_tokenizer, other)
    adapt(run.reward_models / "reward_model", other, tiny_tokenizer, 0, 5)
    with pytest.raises(ModelError, match="does not fit the SFT policy"):
        run(**MODES["adapters"])


@pytest.mark.parametrize(
    ("settings", "message"), [({"sharing": "adapters"}, "sharing is adapters but lora is not set; set rl.lora")]
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RLConfig.model_validate(settings)


def test_adapters_without_the_trained_reward_model_start_from_a_value_of_zero(shared_run, install):
    install(
        "def score(prompts, responses):\n    return [float(len(text)) for text in responses]\n",
        "long = my_rewards:score",
    )
    run = shared_run()
    learner = learner_of(run, **MODES["adapters"], rewards=[{"kind": "function", "name": "long"}])
    models = learner.models
    assert not [name for name, _ in models.policy.backbone.peft.named_parameters() if ".reward_model." in name]
    with torch.no_grad():
        assert not models.value_model(BATCH).any()
    before = {name: parameter.detach().clone() for name, parameter in models.value_parameters.items()}
    for update in range(2):
        run_update(learner, update, 0.0)
    changed = {name for name, parameter in models.value_parameters.items() if not torch.equal(parameter, before[name])}
    assert any("lora_B" in name for name in changed)
    assert {"head.weight", "head.bias"} <= changed
