"""Parts that the two supervised stages share: order of rows, trainer settings, checkpoints, watch over the loss."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback

from rlhf.config.supervised import TrainingSection
from rlhf.errors import TrainingDivergedError
from rlhf.files.atomic import new_folder
from rlhf.files.disk import check_room
from rlhf.files.manifest import is_complete, write_manifest
from rlhf.modeling.context import StageContext
from rlhf.modeling.device import derive_seed
from rlhf.workspace import MetricLog, Workspace

LOGGING_STEPS = 10


def training_order(lengths: Sequence[int], num_epochs: float, batch_size: int, seed: int) -> list[int]:
    """Row numbers in the order in which they are trained on, all epochs in a row.

    Every epoch is a permutation of its own. The rows of a batch then stand by length, so that micro-batches are padded
    little; the batch itself stays a random draw, since batches of like length, faster by a fifth, left the demo's
    held-out loss 8% higher. As the order is fixed before training starts, a resumed run goes on with the rows that
    were due.

    Args:
        lengths: tokens of every row.
        num_epochs: passes over the rows; a fraction of a pass ends in the middle of a permutation.
        batch_size: rows an optimizer step.
        seed: of the permutations.
    """
    rng = np.random.default_rng(seed)
    total = max(1, round(len(lengths) * num_epochs))
    passes = [rng.permutation(len(lengths)) for _ in range(math.ceil(total / len(lengths)))]
    drawn = np.concatenate(passes)[:total].tolist()
    batches = (drawn[start : start + batch_size] for start in range(0, total, batch_size))
    return [row for batch in batches for row in sorted(batch, key=lambda row: lengths[row])]


def trainer_settings(context: StageContext[TrainingSection], folder: Path, num_rows: int, seed: int) -> dict[str, Any]:
    """Arguments for TRL's SFTConfig and RewardConfig alike.

    Args:
        context: of the stage.
        folder: where checkpoints go.
        num_rows: rows of all epochs together, in the order in which they are trained on.
        seed: of what the trainer draws by itself (adapters, dropout).
    """
    config, compute = context.config, context.compute
    micro_batch_size = config.micro_batch_size or config.batch_size
    num_steps = math.ceil(num_rows / config.batch_size)
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": config.batch_size // micro_batch_size,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": int(num_steps * config.warmup_fraction),
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "activation_checkpointing": False,
        "bf16": compute.dtype == "bf16",
        "use_cpu": compute.device == "cpu",
        "dataloader_pin_memory": compute.device == "cuda",
        "seed": derive_seed(seed, "trainer") % 2**32,
        # Rows are cut to fit when the data is prepared; SFTTrainer would cut answers, RewardTrainer drop pairs.
        "max_length": None,
        "use_cache": True,
        "logging_steps": max(1, min(LOGGING_STEPS, num_steps // 10)),
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
    }


class WatchedTrainer(Trainer):  # type: ignore[misc]
    """Base beside TRL's trainers: stops at a loss that is not finite, and leaves out what nobody here reads.

    Models learn without the dropout of their family.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """A forward and backward pass, and a look at the loss."""
        loss: Tensor = super().training_step(*args, **kwargs)
        # To read a loss on a GPU is to wait for it. Once not finite it stays so, and later steps will tell.
        if loss.device.type == "cpu" or self.state.global_step % self.args.logging_steps == 0:
            refuse_divergence(loss, "the loss", self.state.global_step + 1, Path(self.args.output_dir))
        return loss

    def compute_loss_context_manager(self) -> ExitStack:
        """Entered after each time that the trainer switches the model to training."""
        switch_dropout_off(self.model)
        context: ExitStack = super().compute_loss_context_manager()
        return context

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: walking over all parameters at every step takes a millisecond."""
        return 0

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the model card is a stage of its own, and a checkpoint needs none."""

    def _send_telemetry(self) -> None:
        """None: a training run talks to nobody."""


def switch_dropout_off(model: Any) -> None:
    """Let a model compute as it does when it is used, so that PPO starts from what was trained.

    Families have dropout in modules, in numbers that their layers hold, and in numbers that are read from the
    configuration; OPT leaves out whole layers, and some routers of experts add noise. All of them ask the layer whether
    it is in training. The dropout of adapters was asked for in the settings, and stays.

    Args:
        model: in training mode. It itself stays so, since trainers ask it which of their metrics a pass belongs to.
    """
    for module in model.modules():
        module.training = module is model
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train()


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """Logs the curve under the stage's metric names, tells how far it is, asks for checkpoints by the clock.

    Args:
        names: metric name by the trainer's name for it.
        log_metrics: takes the points of the curve.
        checkpoint_every_seconds: time between checkpoints.
        report: takes the steps done and the steps there are.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        log_metrics: MetricLog,
        checkpoint_every_seconds: float,
        report: Callable[[int, int], None],
    ) -> None:
        self._names = names
        self._log_metrics = log_metrics
        self._report = report
        self._every = checkpoint_every_seconds
        self._saved_at = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed run repeats the curve up to its checkpoint, so that this attempt's curve is whole."""
        self._saved_at = time.monotonic()
        for entry in state.log_history:
            self._log(entry, entry["step"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
        """Log what the trainer logs, by this project's names."""
        self._log(logs, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint once it is time, where a point of the curve ends: a resumed one has no half points."""
        at_point = state.global_step % args.logging_steps == 0
        if at_point or state.global_step == state.max_steps:
            self._report(state.global_step, state.max_steps)
        if at_point and time.monotonic() - self._saved_at >= self._every:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        """Seal the checkpoint just written."""
        folder = Path(args.output_dir)
        refuse_divergent_weights(model, state.global_step, folder)
        write_manifest(folder / f"checkpoint-{state.global_step}")
        self._saved_at = time.monotonic()

    def _log(self, logs: Mapping[str, float], step: int) -> None:
        if "loss" in logs:
            self._log_metrics({name: float(logs[key]) for key, name in self._names.items()}, step)


def run_trainer(trainer: Any, folder: Path) -> int:
    """Train to the end, from the newest whole checkpoint where there is one. Returns the number of steps.

    Raises:
        DiskSpaceError: there is no room for the checkpoints.
        TrainingDivergedError: the loss or a weight is not finite.
    """
    trainer.remove_callback(PrinterCallback)  # it prints to standard output, which belongs to the command line
    check_room(folder, _checkpoint_bytes(trainer), "checkpoints and weights")
    checkpoint = newest_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    num_steps: int = trainer.state.global_step
    refuse_divergent_weights(trainer.model, num_steps, folder)
    return num_steps


def train_once(name: str, train: Callable[[Path, Workspace], None], workspace: Workspace) -> Path:
    """Train one of a stage's several models, unless an attempt of the stage that was killed has finished it.

    Args:
        name: of the model, for the names of its folders.
        train: trains it into a folder; its workspace has checkpoints of the model's own.
        workspace: the stage's. Metrics of a model that was finished before are logged again.

    Returns:
        The folder, which appears all at once. It is among the checkpoints, so it is the stage's to copy.
    """
    finished, logged = workspace.checkpoints / "finished" / name, list[tuple[Mapping[str, float], int | None]]()

    def log_metrics(metrics: Mapping[str, float], step: int | None) -> None:
        logged.append((metrics, step))
        workspace.log_metrics(metrics, step)

    if finished.is_dir():
        for metrics, step in json.loads((finished / "metrics.json").read_text()):
            workspace.log_metrics(metrics, step)
    else:
        with new_folder(finished) as folder:
            train(folder, replace(workspace, checkpoints=workspace.checkpoints / name, log_metrics=log_metrics))
            (folder / "metrics.json").write_text(json.dumps(logged))
    return finished


def refuse_divergence(value: float | Tensor, what: str, step: int, folder: Path) -> None:
    """Stop where a number is not finite.

    Raises:
        TrainingDivergedError: naming the last good checkpoint in `folder`.
    """
    if not math.isfinite(value):
        raise TrainingDivergedError(step, f"{what} is {float(value)}", newest_checkpoint(folder))


def refuse_divergent_weights(model: Any, step: int, folder: Path) -> None:
    """Stop where a trained weight is not finite.

    Raises:
        TrainingDivergedError: naming the last good checkpoint in `folder`.
    """
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            refuse_divergence(weight.detach().sum(), f"the sum of {name}", step, folder)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint. Torn ones are removed on the way, so that they do not count as kept ones."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in checkpoints:
        if is_complete(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _checkpoint_bytes(trainer: Any) -> int:
    """All checkpoints that are kept, the one that is being written, and the weights in the end."""
    parameters = list(trainer.model.parameters())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    moments = 2 * sum(4 * parameter.numel() for parameter in parameters if parameter.requires_grad)
    return int((trainer.args.save_total_limit + 1) * (weights + moments) + weights)
