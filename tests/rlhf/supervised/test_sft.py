import json
import math
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from stage_runs import KilledError, Run
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.config.model import LoraConfig
from rlhf.config.supervised import SFTConfig
from rlhf.data.schema import read_rows
from rlhf.errors import TrainingDivergedError
from rlhf.modeling.context import StageContext
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.models import load_policy, start_policy
from rlhf.progress import watching
from rlhf.supervised import trainer as supervised
from rlhf.supervised.sft import _dataset, _train, evaluate_completions, train_sft
from rlhf.supervised.trainer import newest_checkpoint

CONFIG = SFTConfig(num_epochs=5, batch_size=16, learning_rate=1e-2, num_samples=3)
"""20 steps on 64 rows, two a point of the curve."""
RESUMABLE = CONFIG.model_copy(update={"num_epochs": 1.5, "checkpoint_every_seconds": 1e-9})
"""6 steps, a checkpoint after each."""


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


def encoded(data, tokenizer, split="train"):
    rows = [row for _, row in read_rows(data / "demonstrations" / f"{split}.jsonl", "demonstrations")]
    return encode_pairs(tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])


@torch.no_grad()
def losses_row_by_row(policy, pairs):
    """Reference: negative log-likelihood and hits of every completion token, no batch, no padding."""
    losses, hits = [], []
    for prompt, completion in pairs:
        logits = policy(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        target = torch.tensor(completion)
        losses.extend(torch.nn.functional.cross_entropy(logits, target, reduction="none").tolist())
        hits.extend((logits.argmax(-1) == target).tolist())
    return losses, hits


def mean(values):
    return sum(values) / len(values)


def test_policy_learns_and_its_folder_is_whole(tiny_setup, arithmetic_data, tmp_path):
    run = Run(tmp_path / "run")
    train_sft(CONFIG, tiny_setup, arithmetic_data, run.workspace)

    curve = run.curves["sft/loss"]
    assert list(curve) == list(range(2, 21, 2))
    assert curve[20] < 0.6 * curve[2]
    rates = list(run.curves["sft/learning_rate"].values())
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert run.final["sft/validation_loss"] < curve[2]
    assert run.final["sft/validation_token_accuracy"] > 0.5

    assert [path.name for path in run.output.iterdir()] == ["policy"]
    assert not list(run.output.rglob("*.bin"))
    policy = AutoModelForCausalLM.from_pretrained(run.output / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run.output / "policy")
    assert policy.generation_config.eos_token_id == tokenizer.eos_token_id
    assert policy.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert policy.config.use_cache is True
    assert policy.dtype == torch.float32


def test_samples_are_a_table_of_validation_prompts(tiny_setup, arithmetic_data, tmp_path):
    run = Run(tmp_path / "run")
    train_sft(CONFIG, tiny_setup, arithmetic_data, run.workspace)
    report = run.folder / "report"
    samples = [json.loads(line) for line in (report / "samples.jsonl").read_text().splitlines()]
    prompts = [row["prompt"] for _, row in read_rows(arithmetic_data / "prompts" / "validation.jsonl", "prompts")]
    assert [sample["prompt"] for sample in samples] == prompts[:3]
    assert all(isinstance(sample["response"], str) and isinstance(sample["ended"], bool) for sample in samples)
    table = (report / "samples.md").read_text().splitlines()
    assert len(table) == 2 + 3
    assert table[2].startswith(f"| user: {prompts[0][0]['content']} |")


def test_no_samples(tiny_setup, arithmetic_data, tmp_path):
    run = Run(tmp_path / "run")
    config = CONFIG.model_copy(update={"num_samples": 0, "num_epochs": 0.25})
    train_sft(config, tiny_setup, arithmetic_data, run.workspace)
    assert list((run.folder / "report").iterdir()) == []


@pytest.mark.parametrize("micro_batch_size", [None, 16, 4])
def test_loss_is_that_of_completion_tokens_alone(
    tiny_setup, arithmetic_data, tiny_tokenizer, tmp_path, micro_batch_size
):
    """All rows in one step: the logged loss is the reference's, which never looks at what a prompt token foretells."""
    pairs = [
        (prompt, completion[i % 4 :]) for i, (prompt, completion) in enumerate(encoded(arithmetic_data, tiny_tokenizer))
    ]
    assert len({len(completion) for _, completion in pairs}) > 1  # else a mean of means would do
    config = SFTConfig(batch_size=64, micro_batch_size=micro_batch_size, num_samples=0)
    run = Run(tmp_path / "run")
    _train(StageContext(config, tiny_setup, tiny_tokenizer), "sft", pairs, run.output / "policy", run.workspace)
    losses, _ = losses_row_by_row(start_policy(tiny_setup, tiny_tokenizer), pairs)
    assert run.curves["sft/loss"] == {1: pytest.approx(mean(losses), rel=1e-5)}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_held_out_figures_weigh_every_token_the_same(
    tiny_setup, arithmetic_data, tiny_policy, tiny_tokenizer, batch_size
):
    pairs = encoded(arithmetic_data, tiny_tokenizer, "validation")
    pairs[0] = (pairs[0][0], pairs[0][1][:2])
    held_out = evaluate_completions(tiny_policy, tiny_setup.compute, pairs, tiny_tokenizer.pad_token_id, batch_size)
    losses, hits = losses_row_by_row(tiny_policy, pairs)
    assert held_out.loss == pytest.approx(mean(losses), rel=1e-5)
    assert held_out.token_accuracy == pytest.approx(mean(hits), abs=1e-9)


def test_final_figures_are_those_of_the_saved_policy(tiny_setup, arithmetic_data, tiny_tokenizer, tmp_path):
    run = Run(tmp_path / "run")
    train_sft(CONFIG, tiny_setup, arithmetic_data, run.workspace)
    policy = load_policy(run.output / "policy", tiny_setup.compute)
    losses, hits = losses_row_by_row(policy, encoded(arithmetic_data, tiny_tokenizer, "validation"))
    assert run.final["sft/validation_loss"] == pytest.approx(mean(losses), rel=1e-5)
    assert run.final["sft/validation_token_accuracy"] == pytest.approx(mean(hits), abs=1e-9)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=8, dropout=0.2)], ids=["all weights", "adapters"])
def test_killed_and_resumed_run_ends_with_the_same_bits(tiny_setup, arithmetic_data, tmp_path, count_steps, lora):
    config = RESUMABLE.model_copy(update={"lora": lora})
    whole = Run(tmp_path / "whole")
    train_sft(config, tiny_setup, arithmetic_data, whole.workspace)
    assert len(count_steps) == 6

    killed = Run(tmp_path / "killed", killed_at=("sft/loss", 5))
    with pytest.raises(KilledError):
        train_sft(config, tiny_setup, arithmetic_data, killed.workspace)
    assert newest_checkpoint(killed.checkpoints).name == "checkpoint-4"

    count_steps.clear()
    resumed = Run(tmp_path / "killed")
    train_sft(config, tiny_setup, arithmetic_data, resumed.workspace)
    assert len(count_steps) == 2
    assert resumed.weights("policy") == whole.weights("policy")
    assert resumed.curves == whole.curves
    assert resumed.num_logged == whole.num_logged
    assert resumed.final == whole.final


def test_dropout_of_adapters_is_that_of_the_settings(tiny_setup, arithmetic_data, tmp_path):
    """The first step, whose adapters add nothing yet, knows no difference."""
    runs = [Run(tmp_path / str(dropout)) for dropout in (0.0, 0.5)]
    for run, dropout in zip(runs, (0.0, 0.5), strict=True):
        lora = LoraConfig(rank=4, alpha=8, dropout=dropout)
        train_sft(RESUMABLE.model_copy(update={"lora": lora}), tiny_setup, arithmetic_data, run.workspace)
    (first, *without), (same, *with_dropout) = (list(run.curves["sft/loss"].values()) for run in runs)
    assert same == pytest.approx(first, abs=1e-6)
    assert all(one != other for one, other in zip(without[1:], with_dropout[1:], strict=True))


def test_torn_checkpoint_is_not_resumed_from(tiny_setup, arithmetic_data, tmp_path, count_steps):
    whole = Run(tmp_path / "whole")
    train_sft(RESUMABLE, tiny_setup, arithmetic_data, whole.workspace)
    killed = Run(tmp_path / "killed", killed_at=("sft/loss", 5))
    with pytest.raises(KilledError):
        train_sft(RESUMABLE, tiny_setup, arithmetic_data, killed.workspace)
    weights = killed.checkpoints / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    count_steps.clear()
    resumed = Run(tmp_path / "killed")
    train_sft(RESUMABLE, tiny_setup, arithmetic_data, resumed.workspace)
    assert len(count_steps) == 3
    assert resumed.weights("policy") == whole.weights("policy")


def test_progress_is_told(tiny_setup, arithmetic_data, tmp_path):
    heard = []
    config = CONFIG.model_copy(update={"num_epochs": 5.2})
    with watching(lambda *report: heard.append(report)):
        train_sft(config, tiny_setup, arithmetic_data, Run(tmp_path / "run").workspace)
    assert heard == [("sft", done, 21) for done in (*range(2, 21, 2), 21)]


def test_no_checkpoint_before_its_time(tiny_setup, arithmetic_data, tmp_path):
    run = Run(tmp_path / "run")
    train_sft(CONFIG, tiny_setup, arithmetic_data, run.workspace)
    assert list(run.checkpoints.iterdir()) == []


def test_two_checkpoints_are_kept_and_taken_where_a_point_of_the_curve_ends(tiny_setup, arithmetic_data, tmp_path):
    run = Run(tmp_path / "run")
    config = CONFIG.model_copy(update={"num_epochs": 5.2, "checkpoint_every_seconds": 1e-9})
    train_sft(config, tiny_setup, arithmetic_data, run.workspace)
    assert list(run.curves["sft/loss"]) == list(range(2, 21, 2))
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["checkpoint-18", "checkpoint-20"]


def test_seed_decides_every_bit(tiny_setup, arithmetic_data, tmp_path):
    runs = [Run(tmp_path / str(i)) for i in range(3)]
    config = CONFIG.model_copy(update={"num_epochs": 1})
    for run, seed in zip(runs, (0, 0, 1), strict=True):
        train_sft(config, tiny_setup.model_copy(update={"seed": seed}), arithmetic_data, run.workspace)
    first, same, other = (run.weights("policy") for run in runs)
    assert first == same != other


def test_order_of_rows_is_drawn_from_the_seed(tiny_setup, arithmetic_data, tiny_tokenizer):
    pairs = encoded(arithmetic_data, tiny_tokenizer)
    other = tiny_setup.model_copy(update={"seed": 1})
    contexts = (StageContext(CONFIG, setup, tiny_tokenizer) for setup in (tiny_setup, tiny_setup, other))
    first, same, second = (_dataset(context, pairs)["input_ids"][:] for context in contexts)
    assert first == same != second
    assert sorted(first) == sorted(second)


def test_rows_are_trained_on_in_the_order_drawn(tiny_setup, arithmetic_data, tiny_tokenizer, tmp_path, monkeypatch):
    trained = []
    training_step = supervised.WatchedTrainer.training_step

    def recorded(self, model, inputs, *args, **kwargs):
        for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
            trained.append(row[mask.bool()].tolist())
        return training_step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(supervised.WatchedTrainer, "training_step", recorded)
    config = CONFIG.model_copy(update={"num_epochs": 1.5, "micro_batch_size": 4})
    train_sft(config, tiny_setup, arithmetic_data, Run(tmp_path / "run").workspace)
    context = StageContext(config, tiny_setup, tiny_tokenizer)
    dataset = _dataset(context, encoded(arithmetic_data, tiny_tokenizer))
    assert trained == dataset["input_ids"][:]


def test_divergence_stops_the_stage_with_step_and_checkpoint(tiny_setup, arithmetic_data, tmp_path):
    config = RESUMABLE.model_copy(update={"learning_rate": 1e30, "warmup_fraction": 0.4})
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingDivergedError) as caught:
        train_sft(config, tiny_setup, arithmetic_data, run.workspace)
    # The warm-up's first step has a learning rate of zero, the second ruins the weights.
    assert caught.value.step == 3
    assert all(math.isfinite(loss) for loss in run.curves["sft/loss"].values())
    assert not (run.output / "policy").exists()


def test_last_step_may_diverge_too(tiny_setup, arithmetic_data, tmp_path):
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "warmup_fraction": 0.0, "num_epochs": 0.25})
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingDivergedError) as caught:
        train_sft(config, tiny_setup, arithmetic_data, run.workspace)
    assert caught.value.step == 1
    assert run.final == {}


def test_poisoned_weights_are_never_kept_as_a_checkpoint(tiny_setup, arithmetic_data, tmp_path, monkeypatch):
    """A finite loss with gradients that are not: the next checkpoint would be taken before a loss tells."""
    training_step = supervised.WatchedTrainer.training_step

    def poisoned(self, model, *args, **kwargs):
        loss = training_step(self, model, *args, **kwargs)
        if self.state.global_step == 4:
            model.lm_head.weight.grad[0, 0] = float("nan")
        return loss

    monkeypatch.setattr(supervised.WatchedTrainer, "training_step", poisoned)
    run = Run(tmp_path / "run")
    with pytest.raises(TrainingDivergedError) as caught:
        train_sft(RESUMABLE, tiny_setup, arithmetic_data, run.workspace)
    assert caught.value.step == 5
    assert caught.value.checkpoint == str(run.checkpoints / "checkpoint-4")


def test_adapters_are_merged_into_a_plain_model(tiny_setup, arithmetic_data, tiny_tokenizer, tmp_path):
    config = CONFIG.model_copy(update={"lora": LoraConfig(rank=2, alpha=4)})
    run = Run(tmp_path / "run")
    train_sft(config, tiny_setup, arithmetic_data, run.workspace)
    assert run.curves["sft/loss"][20] < run.curves["sft/loss"][2]
    before = start_policy(tiny_setup, tiny_tokenizer).state_dict()
    after = load_file(run.output / "policy" / "model.safetensors")
    assert set(after) == set(before)
    for name, weight in after.items():
        rank = torch.linalg.matrix_rank(weight - before[name], rtol=1e-3) if weight.dim() == 2 else torch.tensor(0)
        assert rank <= 2, name
    adapted = [name for name in after if not torch.equal(after[name], before[name])]
    assert adapted
    assert all("proj" in name for name in adapted)


def test_bf16_learns_too(tiny_setup, arithmetic_data, tmp_path):
    setup = tiny_setup.model_copy(update={"compute": tiny_setup.compute.model_copy(update={"dtype": "bf16"})})
    run = Run(tmp_path / "run")
    train_sft(CONFIG, setup, arithmetic_data, run.workspace)
    assert run.curves["sft/loss"][20] < 0.6 * run.curves["sft/loss"][2]
    assert load_file(run.output / "policy" / "model.safetensors")["lm_head.weight"].dtype == torch.float32
