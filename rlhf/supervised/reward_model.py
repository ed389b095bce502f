"""Training of the two reward models, with TRL's RewardTrainer.

Both start from the SFT weights with a head of their own and minimize -log sigmoid(chosen - rejected - margin)
(Bradley-Terry; margins as in Llama 2, 2307.09288, eq. 2), by pairs, or by prompts with all that was said of their
responses (`rlhf.supervised.comparisons`). They are trained on other prompts: what the first one gets
wrong, the second has no reason to get wrong in the same way, so it may choose the checkpoint of a policy that climbed
the first.
"""

import copy
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig as TRLConfig
from trl import RewardTrainer

from rlhf.config.model import ComputeConfig, Setup
from rlhf.config.supervised import RewardModelConfig, member_name, policy_name
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import Row, is_of_judge, read_rows
from rlhf.errors import DataError, ModelError, TrainingDivergedError
from rlhf.modeling.context import StageContext, start_stage
from rlhf.modeling.conversations import encode_pairs
from rlhf.modeling.device import derive_seed
from rlhf.modeling.lora import ADAPTER, merged, peft_config, save_adapter
from rlhf.modeling.models import load_policy, load_reward_model, save_model
from rlhf.progress import report_progress
from rlhf.rewards.scoring import ScoringError, score_rows
from rlhf.supervised.comparisons import ComparisonTrainer, group_comparisons, with_batch_sizes
from rlhf.supervised.trainer import (
    StageCallback,
    WatchedTrainer,
    newest_checkpoint,
    run_trainer,
    train_once,
    trainer_settings,
    training_order,
)
from rlhf.workspace import Workspace

SPLITS = {"reward_model": "train", "selection_reward_model": "selection"}
"""The two models, and the split of the preferences that each is trained on; the members of an ensemble share one."""
SELECTION = "selection_reward_model"

_HEAD_SCALE = 0.1


@dataclass(frozen=True)
class _Pairs:
    """Dialogues as token ids, prompt included, with what is known of each pair.

    Attributes:
        chosen: the better dialogues.
        rejected: what each is compared with.
        margins: by how much the first should win; None where no row says so.
        probabilities: how probably it does; None where all are certain.
        prompts: keys of the prompts.
        weights: in the loss; None where all are 1.
    """

    chosen: list[list[int]]
    rejected: list[list[int]]
    margins: list[float] | None
    probabilities: list[float] | None
    prompts: list[str]
    weights: list[float] | None = None


@dataclass(frozen=True)
class Inputs:
    """Inputs of all models: the stage that trains them, the SFT policy that each starts from, what validates them."""

    stage: str
    starts: Mapping[str, Path]
    demonstrations: Mapping[str, list[list[int]]]
    validation: _Pairs


Context = StageContext[RewardModelConfig]


class PreferenceTrainer(WatchedTrainer, RewardTrainer):  # type: ignore[misc]
    """TRL's trainer, watched."""


def train_reward_models(config: RewardModelConfig, setup: Setup, data: Path, start: Path, workspace: Workspace) -> None:
    """Train the reward models that PPO climbs and the one that chooses checkpoints.

    Writes `reward_model/`, the further members of an ensemble (`reward_model_2/` and so on) and
    `selection_reward_model/` to the output. A model that was finished before the stage was killed is kept among the
    checkpoints, and not trained again.

    Args:
        config: settings of the stage.
        setup: seed, model and compute.
        data: prepared data.
        start: output of the SFT stage.
        workspace: where results, checkpoints and metrics go.

    Raises:
        DataError: the two models would be trained on a common prompt.
        TrainingDivergedError: the loss or a weight is not finite.
    """
    context = start_stage(config, setup, data / "tokenizer")
    train, selection = (_read(data / "preferences" / f"{split}.jsonl") for split in SPLITS.values())
    _refuse_shared_prompts(train, selection)
    if config.rankings == "groups":
        _refuse_single_pairs({"train": train, "selection": selection})
    if config.judge_weight != 1.0 and not any(map(is_of_judge, (*train, *selection))):
        raise DataError(
            f"preferences: reward_model.judge_weight is {config.judge_weight:g}, but no pair was labelled by a judge, "
            f"so it would be ignored; drop it"
        )
    rows = {**member_rows(context, train), SELECTION: selection}
    inputs = read_inputs(context, data, "reward_model", _starts(config, start))
    for name in rows:
        finished = train_once(name, partial(train_to_end, context, name, rows[name], inputs), workspace)
        shutil.copytree(finished / "model", workspace.output / name, dirs_exist_ok=True)


def start_reward_model(folder: Path, compute: ComputeConfig, seed: int) -> Any:
    """A reward model with the weights of a policy, and a head whose scores start near zero.

    Args:
        folder: the policy.
        compute: device and precision.
        seed: of the head.

    Raises:
        ModelError: the architecture has no sequence classifier.
    """
    policy = load_policy(folder, compute)
    model_config = copy.deepcopy(policy.config)
    model_config.num_labels = 1
    try:
        model = AutoModelForSequenceClassification.from_config(model_config)
    except ValueError as error:
        raise ModelError(f"{folder}: no reward model can be made of a {model_config.model_type}: {error}") from error
    model.base_model.load_state_dict(policy.base_model.state_dict())
    head = model.score.weight
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
    head.data.copy_(noise * _HEAD_SCALE / math.sqrt(head.shape[1]))
    return model.to(compute.device)


def train_to_end(
    context: Context, name: str, rows: Sequence[Row], inputs: Inputs, folder: Path, workspace: Workspace
) -> None:
    """Train, centre and validate one model.

    Args:
        context: of the stage.
        name: of the model, which decides its seed.
        rows: the preferences that it learns from.
        inputs: of all models of the stage.
        folder: the model goes to `model/` in it.
        workspace: with checkpoints of the model's own.

    Raises:
        TrainingDivergedError: the loss or a weight is not finite.
    """
    pairs = _with_margins(context.config, _encode(context.tokenizer, rows))
    if context.config.judge_weight != 1.0:
        weights = [context.config.judge_weight if is_of_judge(row) else 1.0 for row in rows]
        pairs = replace(pairs, weights=weights)
    num_steps = _train(context, name, pairs, inputs, folder / "model", workspace)
    try:
        metrics = _centre_and_validate(context, name, folder / "model", inputs, pairs.margins)
    except ScoringError as error:
        raise TrainingDivergedError(num_steps, str(error), newest_checkpoint(workspace.checkpoints)) from error
    workspace.log_metrics({f"{name}/{key}": value for key, value in metrics.items()}, None)


def _train(context: Context, name: str, pairs: _Pairs, inputs: Inputs, folder: Path, workspace: Workspace) -> int:
    """Train and save. Returns the number of steps."""
    config, tokenizer, seed = context.config, context.tokenizer, context.seed(name)
    trainer_class, dataset = _dataset(config, pairs, seed)
    report = partial(_report, inputs, name)
    curve = {"loss": f"{name}/loss", "accuracy": f"{name}/accuracy"}
    model = start_reward_model(inputs.starts[name], context.compute, derive_seed(seed, "head"))
    trainer = trainer_class(
        model=model,
        args=TRLConfig(
            **trainer_settings(context, workspace.checkpoints, len(dataset), seed),
            disable_dropout=False,  # it would switch off the adapters' own as well; `switch_dropout_off` does not
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=peft_config(config.lora, "SEQ_CLS", model) if config.lora else None,
        callbacks=[StageCallback(curve, workspace.log_metrics, config.checkpoint_every_seconds, report)],
    )
    num_steps = run_trainer(trainer, workspace.checkpoints)
    save_model(merged(trainer.model), tokenizer, folder)
    if config.lora is not None:
        save_adapter(trainer.model, folder / ADAPTER)
    return num_steps


def _report(inputs: Inputs, name: str, done: int, total: int) -> None:
    """To those who watch, all models are one stage, and each is as much of it."""
    names = list(inputs.starts)
    report_progress(inputs.stage, names.index(name) * total + done, len(names) * total)


def _centre_and_validate(
    context: Context, name: str, folder: Path, inputs: Inputs, margins: Sequence[float] | None
) -> dict[str, float]:
    """Note the demonstrations' mean score and the margins in the saved model's config; compare the held-out pairs."""
    config, model = context.config, load_reward_model(folder, context.compute)
    batch_size = 2 * (config.micro_batch_size or config.batch_size)

    def scores(rows: Sequence[Sequence[int]]) -> Any:
        return score_rows(model, name, context.compute, rows, batch_size)

    chosen, rejected = scores(inputs.validation.chosen), scores(inputs.validation.rejected)
    means = {split: float(scores(rows).mean(dtype=np.float64)) for split, rows in inputs.demonstrations.items()}
    model.config.score_offset = means[config.centring_split]
    if margins is not None:
        model.config.margins = {"mean": float(np.mean(margins)), "largest": max(margins)}
    model.config.save_pretrained(folder)
    accuracy = np.mean((chosen > rejected) + 0.5 * (chosen == rejected))
    return {
        "validation_accuracy": float(accuracy),
        "score_offset": model.config.score_offset,
        "train_less_validation_score": means["train"] - means["validation"],
    }


def _dataset(config: RewardModelConfig, pairs: _Pairs, seed: int) -> tuple[type[RewardTrainer], Dataset]:
    """The trainer that takes the pairs, and its rows in the order of training: TRL takes token ids as they are."""

    def order(lengths: Sequence[int]) -> list[int]:
        return training_order(lengths, config.num_epochs, config.batch_size, derive_seed(seed, "order"))

    if config.rankings == "groups" or pairs.probabilities is not None or pairs.weights is not None:
        units = pairs.prompts if config.rankings == "groups" else range(len(pairs.prompts))
        groups = group_comparisons(
            pairs.chosen, pairs.rejected, pairs.margins, pairs.probabilities, pairs.weights, units
        )
        rows = order([max(map(len, group["responses"])) for group in groups])
        return ComparisonTrainer, Dataset.from_list(with_batch_sizes([groups[row] for row in rows], config.batch_size))
    columns: dict[str, Any] = {"chosen_ids": pairs.chosen, "rejected_ids": pairs.rejected}
    if pairs.margins is not None:
        columns["margin"] = pairs.margins
    lengths = [max(len(c), len(r)) for c, r in zip(pairs.chosen, pairs.rejected, strict=True)]
    return PreferenceTrainer, Dataset.from_dict(columns).select(order(lengths))


def read_inputs(context: Context, data: Path, stage: str, starts: Mapping[str, Path]) -> Inputs:
    """The inputs of all models that a stage trains.

    Args:
        context: of the stage.
        data: prepared data.
        stage: its name.
        starts: the SFT policy that each model starts from, in the order in which they are trained.
    """
    tokenizer = context.tokenizer
    demonstrations = {}
    for split in ("train", "validation"):
        rows = [row for _, row in read_rows(data / "demonstrations" / f"{split}.jsonl", "demonstrations")]
        shuffled = np.random.default_rng(context.seed("centring")).permutation(len(rows))
        drawn = [rows[i] for i in shuffled[: context.config.num_centring_rows]]
        demonstrations[split] = _join(tokenizer, drawn, "completion")
    validation = _encode(tokenizer, _read(data / "preferences" / "validation.jsonl"))
    return Inputs(stage, starts, demonstrations, validation)


def _starts(config: RewardModelConfig, start: Path) -> dict[str, Path]:
    """The SFT policy that each model starts from."""
    of_members = {
        member_name(member): start / policy_name(member if config.members_start_from == "own" else 1)
        for member in range(1, config.num_members + 1)
    }
    return {**of_members, SELECTION: start / policy_name(1)}


def member_rows(context: Context, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The preferences of each member of the ensemble, by the member's name; parts are of whole prompts.

    Raises:
        DataError: there are fewer prompts than members that learn from parts.
    """
    config = context.config
    names = [member_name(member) for member in range(1, config.num_members + 1)]
    if config.members_learn_from == "all" or len(names) == 1:
        return {name: list(rows) for name in names}
    keys = sorted({prompt_key(row["prompt"]) for row in rows})
    if len(keys) < len(names):
        raise DataError(
            f"preferences/train.jsonl: {len(keys)} prompts make no parts for {len(names)} reward models; lower "
            f"reward_model.num_members, or set reward_model.members_learn_from to all"
        )
    order = np.random.default_rng(context.seed("members")).permutation(len(keys))
    part = {keys[key]: place % len(names) for place, key in enumerate(order)}
    return {
        name: [row for row in rows if part[prompt_key(row["prompt"])] == number] for number, name in enumerate(names)
    }


def _read(path: Path) -> list[Row]:
    return [row for _, row in read_rows(path, "preferences")]


def _encode(tokenizer: Any, rows: Sequence[Row]) -> _Pairs:
    def column(name: str, absent: float) -> list[float] | None:
        values = [row.get(name) for row in rows]
        return None if set(values) == {None} else [absent if value is None else float(value) for value in values]

    return _Pairs(
        _join(tokenizer, rows, "chosen"),
        _join(tokenizer, rows, "rejected"),
        column("margin", 0.0),
        column("probability", 1.0),
        [prompt_key(row["prompt"]) for row in rows],
    )


def _with_margins(config: RewardModelConfig, pairs: _Pairs) -> _Pairs:
    """The pairs with the margin of each rating, where the settings have a table of them."""
    table, ratings = config.margin_by_rating, pairs.margins
    if not table:
        return pairs
    places = [int(rating) for rating in ratings or () if rating in range(len(table))]
    if ratings is None or len(places) < len(ratings):
        got = (
            "no row has one"
            if ratings is None
            else f"one is {next(r for r in ratings if r not in range(len(table))):g}"
        )
        raise DataError(
            f"preferences: reward_model.margin_by_rating has margins for the ratings 0 to {len(table) - 1} in the "
            f'field "margin", but {got}; correct the table, or drop it'
        )
    return replace(pairs, margins=[table[place] for place in places])


def _join(tokenizer: Any, rows: Sequence[Row], answer: str) -> list[list[int]]:
    pairs = encode_pairs(tokenizer, [row["prompt"] for row in rows], [row[answer] for row in rows])
    return [prompt + completion for prompt, completion in pairs]


def _refuse_single_pairs(rows: Mapping[str, Sequence[Row]]) -> None:
    """Groups of one pair each are pairs, whatever the setting says."""
    for split, of_split in rows.items():
        if len({prompt_key(row["prompt"]) for row in of_split}) == len(of_split):
            raise DataError(
                f"preferences/{split}.jsonl: reward_model.rankings is groups, but every prompt has one pair alone, so "
                f"it would be ignored; give rankings of three or more responses, or set it to pairs"
            )


def _refuse_shared_prompts(first: Sequence[Row], second: Sequence[Row]) -> None:
    """The selection model is evidence only as long as it learned from what the other never saw."""
    shared = {json.dumps(row["prompt"]) for row in first} & {json.dumps(row["prompt"]) for row in second}
    if shared:
        raise DataError(
            f"preferences/train.jsonl and preferences/selection.jsonl share {len(shared)} prompts, such as "
            f"{min(shared)[:80]}; prepare the data again"
        )
