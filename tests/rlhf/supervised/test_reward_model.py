import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from stage_runs import KilledError, Run
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from rlhf.config.model import LoraConfig
from rlhf.config.supervised import RewardModelConfig
from rlhf.data.schema import read_rows
from rlhf.errors import DataError, TrainingDivergedError
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.models import load_policy, load_reward_model, save_model, score
from rlhf.progress import watching
from rlhf.rewards.scoring import score_rows
from rlhf.supervised import trainer as supervised
from rlhf.supervised.reward_model import start_reward_model, train_reward_models

CONFIG = RewardModelConfig(num_epochs=5, batch_size=16, learning_rate=5e-3)
"""10 steps on 32 pairs for each model."""
MODELS = ("reward_model", "selection_reward_model")
RESUMABLE = CONFIG.model_copy(update={"num_epochs": 2.5, "checkpoint_every_seconds": 1e-9})
"""5 steps, a checkpoint after each."""


@pytest.fixture
def start(tmp_path, tiny_policy, tiny_tokenizer):
    """Output of the SFT stage."""
    save_model(tiny_policy, tiny_tokenizer, tmp_path / "sft" / "policy")
    return tmp_path / "sft"


@pytest.fixture
def count_steps(monkeypatch):
    """Counts the forward and backward passes of all runs."""
    counted = []
    training_step = supervised.WatchedTrainer.training_step
    monkeypatch.setattr(
        supervised.WatchedTrainer,
        "training_step",
        lambda self, *args, **kwargs: counted.append(1) or training_step(self, *args, **kwargs),
    )
    return counted


def read(data, split):
    return [row for _, row in read_rows(data / "preferences" / f"{split}.jsonl", "preferences")]


def write(data, split, rows):
    (data / "preferences" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def dialogues(tokenizer, rows, answer):
    pairs = encode_pairs(tokenizer, [row["prompt"] for row in rows], [row[answer] for row in rows])
    return [prompt + completion for prompt, completion in pairs]


def score_dialogues(model, setup, tokenizer, rows, answer):
    return score_rows(model, "tested", setup.compute, dialogues(tokenizer, rows, answer), 8)


def demonstrations(data):
    return [row for _, row in read_rows(data / "demonstrations" / "train.jsonl", "demonstrations")]


def test_both_models_learn_and_are_centred(tiny_setup, arithmetic_data, start, tiny_tokenizer, tmp_path):
    run = Run(tmp_path / "run")
    train_reward_models(CONFIG, tiny_setup, arithmetic_data, start, run.workspace)

    assert sorted(path.name for path in run.output.iterdir()) == sorted(MODELS)
    assert not list(run.output.rglob("*.bin"))
    for name in MODELS:
        losses = run.curves[f"{name}/loss"]
        assert list(losses) == list(range(1, 11))
        assert losses[1] == pytest.approx(math.log(2), abs=0.1)
        assert losses[10] < 0.5 * losses[1]
        assert run.curves[f"{name}/accuracy"][10] > 0.9

        model = load_reward_model(run.output / name, tiny_setup.compute)
        demonstrated = score_dialogues(model, tiny_setup, tiny_tokenizer, demonstrations(arithmetic_data), "completion")
        assert demonstrated.mean() == pytest.approx(0.0, abs=1e-5)
        assert demonstrated.std() > 1e-4
        held_out = read(arithmetic_data, "validation")
        chosen, rejected = (
            score_dialogues(model, tiny_setup, tiny_tokenizer, held_out, a) for a in ("chosen", "rejected")
        )
        assert run.final[f"{name}/validation_accuracy"] == pytest.approx((chosen > rejected).mean())
        assert run.final[f"{name}/validation_accuracy"] > 0.9
        assert run.final[f"{name}/score_offset"] == model.config.score_offset != 0.0
    assert len(set(run.weights(*MODELS))) == 2


def test_progress_is_told_as_that_of_one_stage(tiny_setup, arithmetic_data, start, tmp_path):
    heard = []
    config = CONFIG.model_copy(update={"num_epochs": 1})
    with watching(lambda *report: heard.append(report)):
        train_reward_models(config, tiny_setup, arithmetic_data, start, Run(tmp_path / "run").workspace)
    assert heard == [("reward_model", done, 4) for done in (1, 2, 3, 4)]


def test_saved_folder_is_a_plain_classifier(tiny_setup, arithmetic_data, start, tiny_tokenizer, tmp_path):
    run = Run(tmp_path / "run")
    train_reward_models(CONFIG, tiny_setup, arithmetic_data, start, run.workspace)
    model = AutoModelForSequenceClassification.from_pretrained(run.output / "reward_model")
    assert model.config.num_labels == 1
    assert model.config.pad_token_id == tiny_tokenizer.pad_token_id != tiny_tokenizer.eos_token_id
    row = dialogues(tiny_tokenizer, read(arithmetic_data, "validation")[:1], "chosen")[0]
    padded = torch.tensor([[*row, *[tiny_tokenizer.pad_token_id] * 3]])
    expected = score(
        load_reward_model(run.output / "reward_model", tiny_setup.compute), torch.tensor([row]), torch.ones(1, len(row))
    )
    assert model(padded).logits.item() - model.config.score_offset == pytest.approx(expected.item(), abs=1e-5)


def test_head_starts_small_and_is_drawn_from_the_seed(tiny_setup, arithmetic_data, start, tiny_tokenizer):
    first, same, other = (start_reward_model(start / "policy", tiny_setup.compute, seed) for seed in (1, 1, 2))
    scores = score_dialogues(first, tiny_setup, tiny_tokenizer, read(arithmetic_data, "validation"), "chosen")
    assert 0 < abs(scores).max() < 1
    assert torch.equal(first.score.weight, same.score.weight)
    assert not torch.equal(first.score.weight, other.score.weight)


def test_body_starts_from_the_policy(tiny_setup, start):
    model = start_reward_model(start / "policy", tiny_setup.compute, seed=1)
    policy = load_policy(start / "policy", tiny_setup.compute)
    body = policy.base_model.state_dict()
    assert all(torch.equal(weight, body[name]) for name, weight in model.base_model.state_dict().items())
    assert model.config._attn_implementation == policy.config._attn_implementation


@pytest.mark.parametrize("margins", [[], [2.0], [0.5, None, 3.0]], ids=["none", "all", "some"])
@pytest.mark.parametrize("micro_batch_size", [None, 8])
def test_loss_is_the_margin_loss(
    tiny_setup, arithmetic_data, start, tiny_tokenizer, tmp_path, monkeypatch, margins, micro_batch_size
):
    """All pairs in one step: the logged loss is -log sigmoid(chosen - rejected - margin), a missing margin being 0."""
    rows = read(arithmetic_data, "train")
    for i, row in enumerate(rows):
        if margins and (margin := margins[i % len(margins)]) is not None:
            row["margin"] = margin
    write(arithmetic_data, "train", rows)
    untrained = []
    monkeypatch.setattr(
        "rlhf.supervised.reward_model.start_reward_model",
        lambda *args: untrained.append(start_reward_model(*args)) or start_reward_model(*args),
    )
    config = RewardModelConfig(batch_size=32, micro_batch_size=micro_batch_size)
    run = Run(tmp_path / "run")
    train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)

    chosen, rejected = (
        torch.from_numpy(score_dialogues(untrained[0], tiny_setup, tiny_tokenizer, rows, a))
        for a in ("chosen", "rejected")
    )
    margin = torch.tensor([row.get("margin", 0.0) for row in rows])
    expected = -logsigmoid(chosen - rejected - margin).mean().item()
    assert run.curves["reward_model/loss"] == {1: pytest.approx(expected, abs=1e-5)}
    assert run.curves["reward_model/accuracy"] == {1: pytest.approx((chosen > rejected).float().mean().item())}


def test_centred_on_the_number_of_rows_asked_for(tiny_setup, arithmetic_data, start, tiny_tokenizer, tmp_path):
    run = Run(tmp_path / "run")
    config = CONFIG.model_copy(update={"num_centring_rows": 1, "num_epochs": 0.5})
    train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
    model = load_reward_model(run.output / "reward_model", tiny_setup.compute)
    scores = score_dialogues(model, tiny_setup, tiny_tokenizer, demonstrations(arithmetic_data), "completion")
    assert min(abs(scores)) < 1e-6
    assert abs(scores.mean()) > 1e-4


def test_centred_on_the_split_asked_for(tiny_setup, arithmetic_data, start, tiny_tokenizer, tmp_path):
    runs = {split: Run(tmp_path / split) for split in ("train", "validation")}
    for split, run in runs.items():
        config = CONFIG.model_copy(update={"centring_split": split, "num_epochs": 0.5})
        train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
    offsets = {split: run.final["reward_model/score_offset"] for split, run in runs.items()}
    for run in runs.values():
        gap = run.final["reward_model/train_less_validation_score"]
        assert gap == pytest.approx(offsets["train"] - offsets["validation"])
        assert abs(gap) > 1e-6
    rows = [row for _, row in read_rows(arithmetic_data / "demonstrations" / "validation.jsonl", "demonstrations")]
    model = load_reward_model(runs["validation"].output / "reward_model", tiny_setup.compute)
    scored = score_dialogues(model, tiny_setup, tiny_tokenizer, rows, "completion")
    assert scored.mean() == pytest.approx(0.0, abs=1e-5)


def test_margins_by_rating_are_those_of_the_table(tiny_setup, arithmetic_data, start, tmp_path):
    """Ratings of 0, 1 and 2, or the margins that the table has for them: the same bits."""
    config = CONFIG.model_copy(update={"num_epochs": 1})
    runs = []
    for values, table in (((0.0, 1.5, 3.0), ()), ((0.0, 1.0, 2.0), (0.0, 1.5, 3.0))):
        for split in ("train", "selection"):
            rows = read(arithmetic_data, split)
            write(arithmetic_data, split, [row | {"margin": values[i % 3]} for i, row in enumerate(rows)])
        runs.append(Run(tmp_path / str(len(runs))))
        own = config.model_copy(update={"margin_by_rating": table})
        train_reward_models(own, tiny_setup, arithmetic_data, start, runs[-1].workspace)
    assert runs[0].weights(*MODELS) == runs[1].weights(*MODELS)
    saved = json.loads((runs[1].output / "reward_model" / "config.json").read_text())
    assert saved["margins"] == {"mean": pytest.approx(1.453125), "largest": 3.0}
    short = config.model_copy(update={"margin_by_rating": (0.0, 1.0)})
    with pytest.raises(DataError, match=r'ratings 0 to 1 in the field "margin", but one is 2; correct the table'):
        train_reward_models(short, tiny_setup, arithmetic_data, start, Run(tmp_path / "short").workspace)


def test_weight_of_judges_changes_their_pairs_alone_and_is_refused_without_any(
    tiny_setup, arithmetic_data, start, tmp_path
):
    weighted = CONFIG.model_copy(update={"num_epochs": 1, "judge_weight": 0.5})
    with pytest.raises(DataError, match=r"judge_weight is 0\.5, but no pair was labelled by a judge, so it would"):
        train_reward_models(weighted, tiny_setup, arithmetic_data, start, Run(tmp_path / "none").workspace)
    rows = read(arithmetic_data, "train")
    write(arithmetic_data, "train", [row | {"source": "feedback of a judge, round 1"} for row in rows])
    runs = [Run(tmp_path / name) for name in ("as people's", "half")]
    for run, config in zip(runs, (CONFIG.model_copy(update={"num_epochs": 1}), weighted), strict=True):
        train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
    (first, first_selection), (second, second_selection) = (run.weights(*MODELS) for run in runs)
    assert first != second, "its pairs are a judge's"
    assert first_selection == second_selection, "its pairs are people's"


def test_models_see_nothing_of_each_others_pairs(tiny_setup, arithmetic_data, start, tmp_path):
    config = CONFIG.model_copy(update={"num_epochs": 1})
    runs = [Run(tmp_path / "before"), Run(tmp_path / "after")]
    train_reward_models(config, tiny_setup, arithmetic_data, start, runs[0].workspace)
    rows = read(arithmetic_data, "selection")
    write(arithmetic_data, "selection", [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows])
    train_reward_models(config, tiny_setup, arithmetic_data, start, runs[1].workspace)
    (first, first_selection), (second, second_selection) = (run.weights(*MODELS) for run in runs)
    assert first == second
    assert first_selection != second_selection


def test_dropout_of_adapters_is_that_of_the_settings(tiny_setup, arithmetic_data, start, tmp_path):
    runs = [Run(tmp_path / str(dropout)) for dropout in (0.0, 0.5)]
    for run, dropout in zip(runs, (0.0, 0.5), strict=True):
        config = CONFIG.model_copy(update={"num_epochs": 1, "lora": LoraConfig(rank=4, alpha=8, dropout=dropout)})
        train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
    without, with_dropout = (run.weights(*MODELS) for run in runs)
    assert not set(without) & set(with_dropout)


def test_same_pairs_are_refused(tiny_setup, arithmetic_data, start, tmp_path):
    rows = read(arithmetic_data, "selection")
    write(arithmetic_data, "selection", [*rows, *read(arithmetic_data, "train")[:2]])
    run = Run(tmp_path / "run")
    with pytest.raises(DataError, match=r"selection\.jsonl share 2 prompts, such as .*prepare the data again"):
        train_reward_models(CONFIG, tiny_setup, arithmetic_data, start, run.workspace)


def test_seed_decides_every_bit(tiny_setup, arithmetic_data, start, tmp_path):
    config = CONFIG.model_copy(update={"num_epochs": 1})
    runs = [Run(tmp_path / str(i)) for i in range(3)]
    for run, seed in zip(runs, (0, 0, 1), strict=True):
        train_reward_models(config, tiny_setup.model_copy(update={"seed": seed}), arithmetic_data, start, run.workspace)
    first, same, other = (run.weights(*MODELS) for run in runs)
    assert first == same
    assert not set(first) & set(other)


@pytest.mark.parametrize(
    ("killed_at", "steps_left"),
    [
        pytest.param(("reward_model/loss", 3), 3 + 5, marks=pytest.mark.soak),
        (("selection_reward_model/loss", 3), 3),
        (("selection_reward_model/validation_accuracy", None), 0),
    ],
    ids=["in the first model", "in the second model", "at the very end"],
)
def test_killed_and_resumed_run_ends_with_the_same_bits(
    tiny_setup, arithmetic_data, start, tmp_path, count_steps, killed_at, steps_left
):
    whole = Run(tmp_path / "whole")
    train_reward_models(RESUMABLE, tiny_setup, arithmetic_data, start, whole.workspace)
    with pytest.raises(KilledError):
        train_reward_models(
            RESUMABLE, tiny_setup, arithmetic_data, start, Run(tmp_path / "killed", killed_at=killed_at).workspace
        )
    count_steps.clear()
    resumed = Run(tmp_path / "killed")
    train_reward_models(RESUMABLE, tiny_setup, arithmetic_data, start, resumed.workspace)
    assert len(count_steps) == steps_left
    assert resumed.weights(*MODELS) == whole.weights(*MODELS)
    assert resumed.curves == whole.curves
    assert resumed.final == whole.final
    assert resumed.num_logged == whole.num_logged


def test_half_a_finished_model_is_trained_again(tiny_setup, arithmetic_data, start, tmp_path, count_steps):
    """Killed while the trained model was written: nothing of that is kept."""
    run = Run(tmp_path / "run")
    torn = run.workspace.checkpoints / "finished" / "reward_model.partial" / "model"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half")
    (torn / "left_behind.json").write_bytes(b"{}")
    train_reward_models(CONFIG, tiny_setup, arithmetic_data, start, run.workspace)
    assert len(count_steps) == 20
    load_reward_model(run.output / "reward_model", tiny_setup.compute)
    assert list(run.output.rglob("left_behind.json")) == []


@pytest.mark.parametrize(("learning_rate", "num_epochs", "step"), [(1e30, 5, 2), (1e30, 0.5, 1)])
def test_divergence_stops_the_stage(tiny_setup, arithmetic_data, start, tmp_path, learning_rate, num_epochs, step):
    config = CONFIG.model_copy(
        update={"learning_rate": learning_rate, "num_epochs": num_epochs, "warmup_fraction": 0.0}
    )
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingDivergedError) as caught:
        train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
    assert caught.value.step == step
    assert caught.value.checkpoint is None
    assert run.final == {}
    assert list(run.output.iterdir()) == []


def test_poisoned_start_stops_the_stage_at_once(tiny_setup, arithmetic_data, start, tmp_path):
    weights = load_file(start / "policy" / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, start / "policy" / "model.safetensors", metadata={"format": "pt"})
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingDivergedError, match="step 1: the loss is nan; no checkpoint had been written yet"):
        train_reward_models(CONFIG, tiny_setup, arithmetic_data, start, run.workspace)


def test_adapters_are_merged_and_the_head_is_trained(tiny_setup, arithmetic_data, start, tiny_tokenizer, tmp_path):
    config = CONFIG.model_copy(update={"lora": LoraConfig(rank=2, alpha=4), "checkpoint_every_seconds": 0.1})
    killed = Run(tmp_path / "run", killed_at=("selection_reward_model/loss", 7))
    with pytest.raises(KilledError):
        train_reward_models(config, tiny_setup, arithmetic_data, start, killed.workspace)
    run = Run(tmp_path / "run")
    train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)

    body = load_policy(start / "policy", tiny_setup.compute).base_model.state_dict()
    for name in MODELS:
        weights = load_file(run.output / name / "model.safetensors")
        assert set(weights) == {f"model.{key}" for key in body} | {"score.weight"}
        for key, before in body.items():
            change = weights[f"model.{key}"] - before
            assert change.dim() < 2 or torch.linalg.matrix_rank(change, rtol=1e-3) <= 2, key
        assert run.final[f"{name}/validation_accuracy"] > 0.9
        assert weights["score.weight"].norm() > 0.15  # it starts at 0.1


def test_adapters_are_kept_beside_the_merged_models(tiny_setup, arithmetic_data, start, tmp_path):
    """On the shared backbone they score as the merged models do, and no path of this machine is in them."""
    from rlhf.rl.adapters import add_reward_model, load_backbone

    config = CONFIG.model_copy(update={"lora": LoraConfig(rank=2, alpha=4)})
    run = Run(tmp_path / "run")
    train_reward_models(config, tiny_setup, arithmetic_data, start, run.workspace)
    backbone = load_backbone(start / "policy", LoraConfig(rank=3), tiny_setup)
    rows = torch.tensor([[6, 7, 8, 9], [9, 8, 7, 6]])
    for name in MODELS:
        folder = run.output / name
        assert str(tmp_path) not in (folder / "adapter" / "adapter_config.json").read_text()
        assert {path.suffix for path in (folder / "adapter").iterdir()} == {".json", ".safetensors"}
        adapter = add_reward_model(backbone, folder, name)
        with torch.no_grad():
            ours = score(adapter, rows, torch.ones_like(rows))
            theirs = score(load_reward_model(folder, tiny_setup.compute), rows, torch.ones_like(rows))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_bf16_learns_too(tiny_setup, arithmetic_data, start, tmp_path):
    setup = tiny_setup.model_copy(update={"compute": tiny_setup.compute.model_copy(update={"dtype": "bf16"})})
    run = Run(tmp_path / "run")
    train_reward_models(CONFIG, setup, arithmetic_data, start, run.workspace)
    assert run.final["reward_model/validation_accuracy"] > 0.9
    assert load_file(run.output / "reward_model" / "model.safetensors")["score.weight"].dtype == torch.float32
