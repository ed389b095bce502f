import json
import math
from itertools import combinations

import pytest
import torch
from safetensors.torch import load_file
from stage_runs import KilledError, Run
from trl import RewardConfig as TRLConfig

from rlhf.config.supervised import RewardModelConfig, SFTConfig
from rlhf.data.schema import read_rows
from rlhf.errors import DataError
from rlhf.modeling.models import save_model
from rlhf.supervised import reward_model
from rlhf.supervised.comparisons import (
    ComparisonTrainer,
    GroupCollator,
    group_comparisons,
    preference_losses,
    with_batch_sizes,
)
from rlhf.supervised.reward_model import SPLITS, start_reward_model, train_reward_models
from rlhf.supervised.sft import train_sft

MODELS = tuple(SPLITS)
RESPONSES = [[5, 6, 7], [5, 6, 8, 9, 10], [5, 6, 11, 12], [5, 6, 13]]
"""Four responses of one prompt, the best first."""
OTHERS = [[14, 15, 16], [14, 15, 17]]


@pytest.fixture
def start(tmp_path, tiny_policy, tiny_tokenizer):
    """Output of the SFT stage."""
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "sft" / "policy")
    return tmp_path / "sft"


@pytest.fixture
def gradient(tiny_setup, start, tmp_path, tiny_tokenizer):
    """The gradient of the loss of micro-batches, each a list of groups."""

    def of(*micro_batches):
        model = start_reward_model(start / "policy", tiny_setup.compute, seed=1)
        args = TRLConfig(output_dir=str(tmp_path / "trainer"), use_cpu=True, bf16=False, activation_checkpointing=False)
        trainer = ComparisonTrainer(
            model=model, args=args, train_dataset=_dataset(micro_batches[0]), processing_class=tiny_tokenizer
        )
        model.eval()
        for groups in micro_batches:
            trainer.compute_loss(model, GroupCollator(tiny_tokenizer.pad_token_id)(groups)).backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    return of


def _dataset(groups):
    from datasets import Dataset

    return Dataset.from_list(list(groups))


def grouped(pairs, units, **labels):
    margins, probabilities = labels.get("margins"), labels.get("probabilities")
    weights = labels.get("weights")
    return group_comparisons([c for c, _ in pairs], [r for _, r in pairs], margins, probabilities, weights, units)


def write_rankings(data, with_ties=False):
    """Every prompt gets a third response, worse than both."""
    for split in SPLITS.values():
        path = data / "preferences" / f"{split}.jsonl"
        rows = []
        for _, row in read_rows(path, "preferences"):
            worst = [{"role": "assistant", "content": "1 2 3"}]
            pairs = combinations((row["chosen"], row["rejected"], worst), 2)
            rows += [{"prompt": row["prompt"], "chosen": better, "rejected": worse} for better, worse in pairs]
            if with_ties:
                rows[-1]["probability"] = 0.5
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("probability", [0.5, 0.6, 0.95])
@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_soft_label_is_the_cross_entropy_of_both_outcomes(probability, margin):
    """By hand; without a margin the smallest loss is where the difference of the scores is the logit."""
    difference = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    p, m = torch.tensor([probability]).double(), torch.tensor([margin]).double()
    loss = preference_losses(difference, torch.zeros(1).double(), m, p)
    first, second = (1 / (1 + math.exp(-(sign * 0.3 - margin))) for sign in (1, -1))
    assert loss.item() == pytest.approx(-probability * math.log(first) - (1 - probability) * math.log(second))
    if not margin:
        optimum = torch.logit(p).requires_grad_()
        preference_losses(optimum, torch.zeros(1).double(), m, p).backward()
        assert optimum.grad.item() == pytest.approx(0.0, abs=1e-12)
        loss.backward()
        assert math.copysign(1, difference.grad.item()) == math.copysign(1, 0.3 - optimum.item())


def test_groups_of_one_pair_are_pairs_to_the_bit(tiny_setup, arithmetic_data, start, tmp_path):
    """Certain labels, given as probabilities, take the loss over groups: after ten steps no weight has moved apart."""
    runs = []
    for given in ({}, {"probability": 1.0}):
        for margin in (0.0, 0.5):
            for split in SPLITS.values():
                path = arithmetic_data / "preferences" / f"{split}.jsonl"
                rows = [row for _, row in read_rows(path, "preferences")]
                kept = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
                path.write_text("".join(json.dumps({**row, "margin": margin, **given}) + "\n" for row in kept))
            runs.append(Run(tmp_path / f"{len(runs)}"))
            config = RewardModelConfig(num_epochs=5, batch_size=16, learning_rate=5e-3)
            train_reward_models(config, tiny_setup, arithmetic_data, start, runs[-1].workspace)
    pairs, pairs_margin, groups, groups_margin = runs
    assert pairs.weights(*MODELS) == groups.weights(*MODELS)
    assert pairs_margin.weights(*MODELS) == groups_margin.weights(*MODELS)
    assert pairs.curves == groups.curves
    assert not set(pairs.weights(*MODELS)) & set(pairs_margin.weights(*MODELS))


def test_group_has_the_mean_gradient_of_its_pairs(gradient):
    """A prompt as six shuffled pairs in batches of two, and as one group of four responses."""
    pairs = list(combinations(RESPONSES, 2))
    shuffled = [pairs[i] for i in (3, 0, 5, 1, 4, 2)]
    by_pairs = with_batch_sizes(grouped(shuffled, range(6)), 2)
    steps = [gradient(by_pairs[start : start + 2]) for start in (0, 2, 4)]
    (group,) = with_batch_sizes(grouped(pairs, ["x"] * 6), 1)
    whole = gradient([group])
    torch.testing.assert_close(torch.stack(steps).mean(0), whole, rtol=1e-4, atol=1e-7)
    assert whole.norm() > 1e-3


def test_prompts_weigh_the_same_whatever_they_hold_and_however_they_are_cut(gradient):
    groups = grouped([*combinations(RESPONSES, 2), tuple(OTHERS)], [*"xxxxxx", "y"])
    together = with_batch_sizes(groups, 2)
    alone = [gradient(with_batch_sizes([group], 1)) for group in groups]
    torch.testing.assert_close(gradient(together), (alone[0] + alone[1]) / 2, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(gradient(together[:1], together[1:]), gradient(together), rtol=1e-4, atol=1e-7)


def test_a_pair_of_weight_two_counts_as_two(gradient):
    """Of two groups the first is weighted: its part of the gradient doubles, that of the other stays."""
    groups = [(RESPONSES[0], RESPONSES[1]), tuple(OTHERS)]
    weighted = with_batch_sizes(grouped(groups, range(2), weights=[2.0, 1.0]), 2)
    first, second = (gradient(with_batch_sizes([group], 1)) for group in grouped(groups, range(2)))
    torch.testing.assert_close(gradient(weighted), (2 * first + second) / 2, rtol=1e-4, atol=1e-7)


def test_every_response_is_read_once():
    groups = grouped([*combinations(RESPONSES, 2), tuple(OTHERS)], [*"xxxxxx", "y"], probabilities=[1.0] * 6 + [0.5])
    batch = GroupCollator(0)(with_batch_sizes(groups, 2))
    assert batch["input_ids"].tolist() == [
        [*ids, *[0] * (5 - len(ids))] for ids in (RESPONSES[0], OTHERS[0], RESPONSES[1], OTHERS[1], *RESPONSES[2:])
    ]
    assert batch["attention_mask"].sum(1).tolist() == [3, 3, 5, 3, 4, 3]
    assert batch["first"].tolist() == [0, 0, 0, 2, 2, 4, 1]
    assert batch["second"].tolist() == [2, 4, 5, 4, 5, 5, 3]
    assert batch["group_size"].tolist() == [6] * 6 + [1]
    assert batch["probability"].tolist() == [1] * 6 + [0.5]
    assert batch["batch_groups"] == 2


def test_last_batch_is_smaller():
    groups = grouped([tuple(OTHERS)] * 5, range(5))
    assert [group["batch_groups"] for group in with_batch_sizes(groups, 2)] == [2, 2, 2, 2, 1]


def test_rankings_are_learned_and_resumed_to_the_bit(tiny_setup, arithmetic_data, start, tmp_path):
    write_rankings(arithmetic_data, with_ties=True)
    config = RewardModelConfig(
        rankings="groups",
        num_epochs=2.5,
        batch_size=8,
        micro_batch_size=2,
        learning_rate=5e-3,
        checkpoint_every_seconds=1e-9,
    )
    whole, killed = Run(tmp_path / "whole"), tmp_path / "killed"
    train_reward_models(config, tiny_setup, arithmetic_data, start, whole.workspace)
    # 32 prompts: 10 batches of 8 in two and a half passes, where 96 pairs would make 30.
    assert list(whole.curves["reward_model/loss"]) == list(range(1, 11))
    assert whole.curves["reward_model/loss"][10] < 0.8 * whole.curves["reward_model/loss"][1]
    run = Run(killed, killed_at=("selection_reward_model/loss", 4))
    with pytest.raises(KilledError):
        train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
    resumed = Run(killed)
    train_reward_models(config, tiny_setup, arithmetic_data, start, resumed.workspace)
    assert resumed.weights(*MODELS) == whole.weights(*MODELS)
    assert resumed.curves == whole.curves


def test_soft_labels_change_what_is_learned(tiny_setup, arithmetic_data, start, tmp_path):
    """Pairs that either response wins move the scores together."""
    gaps = []
    for probability in (1.0, 0.5):
        for split in SPLITS.values():
            path = arithmetic_data / "preferences" / f"{split}.jsonl"
            rows = [row | {"probability": probability} for _, row in read_rows(path, "preferences")]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = Run(tmp_path / str(probability))
        config = RewardModelConfig(num_epochs=5, batch_size=16, learning_rate=5e-3)
        train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
        gaps.append(run.curves["reward_model/loss"][10])
        assert set(run.curves["reward_model/accuracy"].values()) == {0.5} or probability == 1.0
    assert gaps[0] < 0.3
    assert gaps[1] == pytest.approx(math.log(2), abs=0.02)


def test_members_of_an_ensemble_learn_from_parts_of_their_own(
    tiny_setup, arithmetic_data, start, tmp_path, monkeypatch
):
    """Killed in the second member, it ends with the same bits; each prompt of the 32 is one member's."""
    seen = {}
    encode = reward_model._encode
    monkeypatch.setattr(
        reward_model, "_encode", lambda tokenizer, rows: seen.setdefault(len(seen), rows) and encode(tokenizer, rows)
    )
    config = RewardModelConfig(num_members=2, num_epochs=2, batch_size=4, checkpoint_every_seconds=1e-9)
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed", killed_at=("reward_model_2/loss", 4))
    train_reward_models(config, tiny_setup, arithmetic_data, start, whole.workspace)
    prompts = [{json.dumps(row["prompt"]) for row in seen[number]} for number in (1, 2, 3)]
    assert [len(part) for part in prompts] == [16, 16, 32]
    assert not prompts[0] & prompts[1] | prompts[2] & (prompts[0] | prompts[1])
    with pytest.raises(KilledError):
        train_reward_models(config, tiny_setup, arithmetic_data, start, killed.workspace)
    resumed = Run(tmp_path / "killed")
    train_reward_models(config, tiny_setup, arithmetic_data, start, resumed.workspace)
    names = ("reward_model", "reward_model_2", "selection_reward_model")
    assert resumed.weights(*names) == whole.weights(*names)
    assert len(set(whole.weights(*names))) == 3
    assert resumed.curves == whole.curves


def test_members_that_share_their_pairs_differ_in_head_and_order(tiny_setup, arithmetic_data, start, tmp_path):
    runs = [Run(tmp_path / "one"), Run(tmp_path / "several")]
    for run, settings in zip(runs, ({}, {"num_members": 2, "members_learn_from": "all"}), strict=True):
        config = RewardModelConfig(num_epochs=1, batch_size=16, **settings)
        train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
    assert runs[0].weights(*MODELS) == runs[1].weights(*MODELS)
    assert runs[1].weights("reward_model") != runs[1].weights("reward_model_2")


def test_members_start_from_sft_policies_of_their_own_seed(tiny_setup, arithmetic_data, tmp_path):
    """Killed in the second SFT policy, it ends with the same bits; the first is what it is alone."""
    config = SFTConfig(num_epochs=1.5, batch_size=16, checkpoint_every_seconds=1e-9, num_samples=0)
    several = config.model_copy(update={"num_policies": 2})
    alone, whole, killed = Run(tmp_path / "a"), Run(tmp_path / "b"), Run(tmp_path / "c", killed_at=("sft_2/loss", 4))
    train_sft(config, tiny_setup, arithmetic_data, alone.workspace)
    train_sft(several, tiny_setup, arithmetic_data, whole.workspace)
    with pytest.raises(KilledError):
        train_sft(several, tiny_setup, arithmetic_data, killed.workspace)
    resumed = Run(tmp_path / "c")
    train_sft(several, tiny_setup, arithmetic_data, resumed.workspace)
    assert resumed.weights("policy", "policy_2") == whole.weights("policy", "policy_2")
    assert resumed.curves == whole.curves
    assert whole.weights("policy") == alone.weights("policy")
    assert whole.weights("policy") != whole.weights("policy_2")
    assert whole.final["sft/validation_loss"] != whole.final["sft_2/validation_loss"]

    config = RewardModelConfig(num_members=2, members_start_from="own", num_epochs=0.01, batch_size=16)
    run = Run(tmp_path / "members")
    train_reward_models(config, tiny_setup, arithmetic_data, whole.output, run.workspace)
    for name, start in (("reward_model", "policy"), ("reward_model_2", "policy_2"), (MODELS[1], "policy")):
        weights = [load_file(folder / "model.safetensors") for folder in (run.output / name, whole.output / start)]
        shared = "model.embed_tokens.weight"
        assert (weights[0][shared] - weights[1][shared]).abs().max() < 0.01, name  # after a step


def test_more_members_than_prompts_are_refused(tiny_setup, arithmetic_data, start, tmp_path):
    path = arithmetic_data / "preferences" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    config = RewardModelConfig(num_members=3)
    with pytest.raises(DataError, match=r"train.jsonl: 2 prompts make no parts for 3 reward models; lower reward_mo"):
        train_reward_models(config, tiny_setup, arithmetic_data, start, Run(tmp_path / "run").workspace)


def test_groups_of_pairs_alone_are_refused(tiny_setup, arithmetic_data, start, tmp_path):
    config = RewardModelConfig(rankings="groups")
    with pytest.raises(DataError, match=r"train.jsonl: reward_model.rankings is groups, but every prompt has one pair"):
        train_reward_models(config, tiny_setup, arithmetic_data, start, Run(tmp_path / "run").workspace)
