"""The losses: minima in closed form, and TRL's own trainers as an independent reference."""

import math

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from rlhf.config.preference import PreferenceConfig, preference_error
from rlhf.data.schema import write_rows
from rlhf.errors import DataError
from rlhf.modeling.context import start_stage
from rlhf.policy.context import PolicyContext, Prompts
from rlhf.policy.models import load_policy_models
from rlhf.preference.losses import balanced_weights, logistic_loss, prospect_loss, squared_loss
from rlhf.preference.rows import PreferenceRow, read_single, with_references
from rlhf.preference.stage import paired_objective, unpaired_objective


def minimum(loss, start=0.0, steps=400):
    """Where a loss of one number is smallest, by Newton's method on its gradient."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        gradient = torch.autograd.grad(loss(x), x, create_graph=True)[0]
        curvature = torch.autograd.grad(gradient, x)[0]
        with torch.no_grad():
            x -= (gradient / curvature).clamp(-0.5, 0.5)
    return x.item()


@pytest.mark.parametrize("noise", [0.05, 0.2])
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_dpo_ends_where_the_labels_are_as_noisy_as_it_says(noise, beta):
    """Two responses to one prompt; a share of the raters is wrong: beta * difference = logit(1 - share)."""
    logit = math.log((1 - noise) / noise)

    def of_both(difference, smoothing):
        return (1 - noise) * logistic_loss(difference, beta, smoothing) + noise * logistic_loss(
            -difference, beta, smoothing
        )

    assert beta * minimum(lambda d: of_both(d, 0.0)) == pytest.approx(logit, rel=1e-6)
    # Label smoothing makes the difference finite where all raters agree, and stands for the same noise.
    assert beta * minimum(lambda d: logistic_loss(d, beta, noise)) == pytest.approx(logit, rel=1e-6)


def test_simpo_ends_a_margin_further():
    smoothed = minimum(lambda d: logistic_loss(d, 2.0, 0.05, margin=1.0))
    assert 2.0 * smoothed == pytest.approx(1.0 + math.log(0.95 / 0.05), rel=1e-6)


def test_ipo_ends_at_its_aim_however_sure_the_raters_are():
    assert minimum(lambda d: squared_loss(d, 0.1)) == pytest.approx(5.0)
    noisy = minimum(lambda d: 0.95 * squared_loss(d, 0.1) + 0.05 * squared_loss(-d, 0.1))
    assert noisy == pytest.approx(0.9 * 5.0)  # (1 - 2 p) / (2 beta)


def test_kto_by_hand():
    log_ratio, wanted = torch.tensor([1.0, 1.0, -2.0]), torch.tensor([True, False, False])
    losses = prospect_loss(log_ratio, wanted, torch.tensor(0.5), beta=0.2, weights=(1.0, 3.0))
    sigmoid = 1 / (1 + math.exp(-0.1))
    assert losses.tolist() == pytest.approx([1 - sigmoid, 3 * sigmoid, 3 / (1 + math.exp(0.5))])


@pytest.mark.parametrize(
    ("counts", "given", "expected"),
    [
        ((10, 40), (None, None), (4.0, 1.0)),
        ((40, 10), (None, None), (1.0, 4.0)),
        ((10, 40), (2.0, None), (2.0, 0.5)),
        ((10, 40), (None, 2.0), (8.0, 2.0)),
        ((10, 40), (1.0, 1.5), (1.0, 1.5)),
    ],
)
def test_weights_of_kto_make_both_kinds_count_the_same(counts, given, expected):
    assert balanced_weights(*counts, *given) == expected


@pytest.mark.parametrize(
    ("method", "settings", "named"),
    [
        ("kto", {"label_smoothing": 0.1}, "label_smoothing"),
        ("ipo", {"label_smoothing": 0.1}, "label_smoothing"),
        ("simpo", {"length_normalized": True}, "length_normalized"),
        ("dpo", {"target_margin": 1.0}, "target_margin"),
        ("dpo", {"desirable_weight": 1.0}, "desirable_weight"),
        ("simpo", {"undesirable_weight": 1.0}, "undesirable_weight"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(method, settings, named):
    assert f"preference.{named} is set" in preference_error(method, PreferenceConfig(**settings))
    assert preference_error(method, PreferenceConfig()) is None


@pytest.fixture
def world(preference_run, tiny_setup):
    """The context of a run whose policy has moved away from its reference, and pairs of unequal lengths."""

    def make(**settings):
        run = preference_run()
        config = PreferenceConfig(**settings)
        stage = start_stage(config, tiny_setup, run.inputs[1] / "policy")
        models = load_policy_models(stage, *run.inputs[1:])
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in models.policy.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        context = PolicyContext(config, tiny_setup, stage.tokenizer, models, Prompts([], []))
        return context, run.inputs[0]

    return make


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def trl_loss(trainer, model):
    inputs = next(iter(trainer.get_train_dataloader()))
    return trainer.compute_loss(model, inputs)


class TokenIds:
    """TRL's trainers take text alone; beside one of them this lets it take token ids."""

    def _prepare_dataset(self, dataset, *_):
        return dataset


class PairsTrainer(TokenIds, DPOTrainer):
    pass


class SingleTrainer(TokenIds, KTOTrainer):
    pass


def of_trl(folder, size):
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": size,
        "max_length": None,
        "activation_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "disable_dropout": False,
        "train_sampling_strategy": "sequential",
    }


@pytest.mark.parametrize(
    ("method", "settings", "loss_type"),
    [
        ("dpo", {}, "sigmoid"),
        ("dpo", {"length_normalized": True}, "sigmoid_norm"),
        ("ipo", {"length_normalized": True}, "ipo"),
    ],
)
def test_the_losses_of_pairs_are_trls(method, settings, loss_type, world, tmp_path):
    context, _ = world(beta=0.3, **settings)
    pairs = [([6, 7], ([8, 9, 5], [10, 5])), ([9], ([11, 5], [12, 13, 14, 5])), ([6], ([7, 5], [8, 5]))]
    rows = with_references(context, [PreferenceRow(prompt, responses) for prompt, responses in pairs])
    policy = context.models.policy
    loss = paired_objective(method, context).loss(policy, rows) / len(rows)
    ours = gradients(policy, loss)
    columns = {
        "prompt_ids": [row.prompt for row in rows],
        "chosen_ids": [row.responses[0] for row in rows],
        "rejected_ids": [row.responses[1] for row in rows],
    }
    trainer = PairsTrainer(
        model=policy,
        ref_model=context.models.ref_policy,
        args=DPOConfig(**of_trl(tmp_path / "trl", len(rows)), loss_type=[loss_type], beta=0.3),
        train_dataset=Dataset.from_dict(columns),
        processing_class=context.tokenizer,
    )
    expected = trl_loss(trainer, policy)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(ours, gradients(policy, expected), atol=1e-6)


def test_the_loss_of_single_responses_is_trls(world, tmp_path):
    context, data = world(beta=0.3, desirable_weight=1.0, undesirable_weight=1.5)
    rows = with_references(context, read_single(data, context.tokenizer, seed=0)[:6])
    policy = context.models.policy
    objective = unpaired_objective(context, rows)
    objective.before_step(policy, rows)
    loss = objective.loss(policy, rows) / len(rows)
    ours = gradients(policy, loss)
    columns = {
        "prompt_ids": [row.prompt for row in rows],
        "completion_ids": [row.responses[0] for row in rows],
        "KL_completion_ids": [row.responses[1] for row in rows],
        "label": [row.desirable for row in rows],
    }
    trainer = SingleTrainer(
        model=policy,
        ref_model=context.models.ref_policy,
        args=KTOConfig(**of_trl(tmp_path / "trl", len(rows)), beta=0.3, undesirable_weight=1.5),
        train_dataset=Dataset.from_dict(columns),
        processing_class=context.tokenizer,
    )
    expected = trl_loss(trainer, policy)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(ours, gradients(policy, expected), atol=1e-6)


def test_a_single_response_is_set_beside_one_to_another_prompt(arithmetic_data, tiny_tokenizer):
    """Three prompts with many responses, so that neighbours in any order often share a prompt."""
    (arithmetic_data / "labels").mkdir()
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {number % 3} + 1 ?"}],
            "completion": [{"role": "assistant", "content": " ".join(["7"] * (number - 9))}],
            "label": number % 2 == 0,
        }
        for number in range(10, 40)
    ]
    write_rows(arithmetic_data / "labels" / "train.jsonl", rows)
    singles = read_single(arithmetic_data, tiny_tokenizer, seed=0)
    prompt_of = {tuple(row.responses[0]): row.prompt for row in singles}
    assert [row.desirable for row in singles] == [row["label"] for row in rows]
    assert len(prompt_of) == 30
    assert all(prompt_of[tuple(row.responses[1])] != row.prompt for row in singles)
    assert len({tuple(row.responses[1]) for row in singles}) > 10


@pytest.mark.parametrize(
    ("labels", "numbers", "what"),
    [([True] * 4, range(4), "is true, and KTO needs both"), ([True, False], [1, 1], "to one prompt")],
)
def test_labels_that_teach_nothing_are_refused(labels, numbers, what, arithmetic_data, tiny_tokenizer):
    (arithmetic_data / "labels").mkdir()
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is {number} + 1 ?"}],
            "completion": [{"role": "assistant", "content": "The answer is 2 ."}],
            "label": label,
        }
        for label, number in zip(labels, numbers, strict=True)
    ]
    write_rows(arithmetic_data / "labels" / "train.jsonl", rows)
    with pytest.raises(DataError, match=what):
        read_single(arithmetic_data, tiny_tokenizer, seed=0)
