"""Every family that the README names goes through SFT, reward models, PPO and evaluation, in both precisions.

They have dropout wherever their family knows any, and each is met by one of the ways to share models in PPO in one
precision and by another one in the other. CI has each family in one of the two, by turns; `make soak` has both.
"""

import math

import pytest
import torch
from families import ALL, WITHOUT_SCORE, make_family, save_base
from stage_runs import Run

from rlhf.config.evaluation import EvaluationConfig
from rlhf.config.model import ComputeConfig, LoraConfig, ModelConfig, Setup
from rlhf.config.rl import RLConfig
from rlhf.config.supervised import RewardModelConfig, SFTConfig
from rlhf.data.schema import read_rows
from rlhf.errors import ModelError
from rlhf.evaluation.policy import evaluate_policy
from rlhf.modeling.checks import check_model
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.device import derive_seed
from rlhf.modeling.lora import add_adapters
from rlhf.modeling.models import load_policy, load_reward_model
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.rl.stage import train_from_rollouts
from rlhf.supervised.reward_model import train_reward_models
from rlhf.supervised.sft import evaluate_completions, train_sft
from rlhf.supervised.trainer import switch_dropout_off, training_order

SHARINGS = ("none", "trunk", "adapters")
SFT = SFTConfig(num_epochs=1, batch_size=32, learning_rate=1e-3, warmup_fraction=0.0, num_samples=1)
REWARD = RewardModelConfig(num_epochs=1, batch_size=16, learning_rate=1e-3, num_centring_rows=16)
PPO = {
    "num_updates": 2,
    "rollout_size": 16,
    "num_minibatches": 2,
    "max_response_tokens": 6,
    "num_critic_warmup_updates": 0,
    "evaluate_every": 2,
    "num_validation_prompts": 8,
    "checkpoint_every": 2,
    "learning_rate": 1e-4,
    "kl_budget": 1e6,
}
EVALUATION = EvaluationConfig(num_prompts=8, num_bootstrap=100, num_side_by_side=2)


def run_pipeline(family, dtype, sharing, data, folder):
    """All four stages; returns their runs by name."""
    tokenizer = load_tokenizer(data / "tokenizer")
    base = save_base(family, tokenizer, folder / "base")
    compute = ComputeConfig(dtype=dtype, num_threads=1)
    setup = Setup(seed=0, model=ModelConfig(base=str(base), max_length=48), compute=compute)
    lora = LoraConfig(rank=2) if sharing == "adapters" else None
    runs = {name: Run(folder / name) for name in ("sft", "reward_models", "policy", "evaluation")}
    sft, reward_models, ppo, evaluation = (run.workspace for run in runs.values())
    train_sft(SFT, setup, data, sft)
    train_reward_models(REWARD.model_copy(update={"lora": lora}), setup, data, sft.output, reward_models)
    config = RLConfig.model_validate(PPO | {"sharing": sharing, "lora": lora})
    train_from_rollouts("ppo", config, setup, data, sft.output, reward_models.output, ppo)
    evaluate_policy(EVALUATION, setup, 6, data, ppo.output, sft.output, reward_models.output, evaluation)
    return runs


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        pytest.param(family, dtype, marks=[] if (number + turn) % 2 else [pytest.mark.soak])
        for number, family in enumerate(ALL)
        for turn, dtype in enumerate(("fp32", "bf16"))
    ],
)
def test_a_family_goes_through_the_pipeline(family, dtype, small_data, tmp_path):
    sharing = SHARINGS[(list(ALL).index(family) + (dtype == "bf16")) % 3]
    runs = run_pipeline(family, dtype, sharing, small_data, tmp_path)

    compute = ComputeConfig(dtype=dtype, num_threads=1)
    base, trained = (
        held_out(folder, compute, small_data) for folder in (tmp_path / "base", runs["sft"].output / "policy")
    )
    losses = runs["sft"].curves["sft/loss"]
    assert losses[1] == pytest.approx(base["first batch"], rel=1e-4 if dtype == "fp32" else 1e-2)  # no dropout
    assert trained["all"] < base["all"]
    for name in ("reward_model", "selection_reward_model"):
        assert 0.0 <= runs["reward_models"].final[f"{name}/validation_accuracy"] <= 1.0
        load_reward_model(runs["reward_models"].output / name, compute)
    assert abs(runs["policy"].curves["policy/kl_mean"][1]) < (1e-4 if dtype == "fp32" else 0.05)
    for run in runs.values():
        assert all(math.isfinite(value) for curve in run.curves.values() for value in curve.values())
        assert all(map(math.isfinite, run.final.values()))
    assert runs["evaluation"].final
    load_policy(runs["policy"].output / "policy", compute)


def held_out(folder, compute, data):
    """Nats per token of the demonstrations: of all, and of those that SFT takes first."""
    tokenizer = load_tokenizer(data / "tokenizer")
    rows = [row for _, row in read_rows(data / "demonstrations" / "train.jsonl", "demonstrations")]
    pairs = encode_pairs(tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])
    lengths = [len(prompt) + len(completion) for prompt, completion in pairs]
    first = training_order(lengths, 1, SFT.batch_size, derive_seed(0, "sft", "order"))[: SFT.batch_size]
    policy = load_policy(folder, compute)
    chosen = {"all": pairs, "first batch": [pairs[row] for row in first]}
    pad = tokenizer.pad_token_id
    return {name: evaluate_completions(policy, compute, rows, pad, 64).loss for name, rows in chosen.items()}


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_head_narrower_than_the_hidden_states(sharing, small_data, tmp_path):
    """OPT-350m has one; with every way to share models."""
    runs = run_pipeline("opt, narrow head", "bf16", sharing, small_data, tmp_path)
    assert math.isfinite(runs["policy"].curves["policy/value_loss"][1])


@pytest.mark.parametrize("family", WITHOUT_SCORE)
def test_a_family_of_which_no_reward_model_can_be_made_is_refused_at_the_start(family, tiny_tokenizer, tmp_path):
    with pytest.raises(ModelError, match=f"no sequence classifier of a {family}, so no reward model"):
        check_model(save_base(family, tiny_tokenizer, tmp_path), "policy")


@pytest.mark.parametrize("family", ALL)
def test_no_dropout_of_a_family_is_left_in_training(family, tiny_tokenizer):
    model = make_family(family, tiny_tokenizer).train()
    model.set_attn_implementation("eager")
    ids = torch.arange(6, 18).reshape(2, 6)
    quiet = model.eval()(ids).logits
    model.train()
    switch_dropout_off(model)
    assert model.training
    assert torch.equal(model(ids).logits, quiet)


def test_dropout_of_adapters_is_left_on(tiny_tokenizer):
    model = add_adapters(make_family("gpt2", tiny_tokenizer), LoraConfig(rank=2, dropout=0.5), "CAUSAL_LM")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.arange(6, 18).reshape(2, 6)
    model.train()
    switch_dropout_off(model)
    assert not torch.equal(model(ids).logits, model(ids).logits)
    with model.disable_adapter():
        assert torch.equal(model(ids).logits, model(ids).logits)
