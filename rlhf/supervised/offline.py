"""Training of a policy on rows that are fixed before it starts, with the checkpoint chosen as every method's is.

The rows, their order and their loss are the method's. Nothing is drawn in training, so a run that goes on from a
checkpoint ends with the bits of one that never stopped.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor
from transformers import TrainingArguments

from rlhf.config.offline import OfflineConfig
from rlhf.config.policy import EvaluationAlarms
from rlhf.errors import TrainingDivergedError
from rlhf.files.atomic import write_file
from rlhf.modeling.batches import SequenceBatch
from rlhf.modeling.logprobs import chosen_logprobs, response_logits
from rlhf.modeling.precision import autocast
from rlhf.policy.best_checkpoint import ChoiceState
from rlhf.policy.choice import Choice
from rlhf.policy.context import PolicyContext
from rlhf.policy.prompts import validation_prompts
from rlhf.progress import report_progress
from rlhf.supervised.trainer import (
    StageCallback,
    WatchedTrainer,
    newest_checkpoint,
    run_trainer,
    switch_dropout_off,
    trainer_settings,
    training_order,
)
from rlhf.workspace import Workspace

Row = TypeVar("Row")
Watch = Callable[[Choice, ChoiceState], ChoiceState]
"""Adds to the newest evaluation what the method alone measures."""

_CURVE = {"loss": "policy/policy_loss", "grad_norm": "policy/policy_grad_norm", "learning_rate": "policy/learning_rate"}
_STATE = "choice.json"


@dataclass(frozen=True)
class Objective(Generic[Row]):
    """What training minimizes: the sum of the rows' losses over the units of the whole batch, micro-batches and all.

    Attributes:
        loss: sum over rows, which can be differentiated; takes the policy and the rows.
        num_units: units of rows, such as rows or tokens.
        before_step: looks at all rows of a batch before the first of its micro-batches.
    """

    loss: Callable[[Any, Sequence[Row]], Tensor]
    num_units: Callable[[Sequence[Row]], int] = len
    before_step: Callable[[Any, Sequence[Row]], None] = lambda model, rows: None


class OfflineTrainer(WatchedTrainer):
    """The trainer of a policy: batches are lists of rows, and the method computes their loss."""

    def __init__(self, objective: Objective[Any], **arguments: Any) -> None:
        super().__init__(data_collator=lambda rows: {"rows": rows}, **arguments)
        self._objective = objective
        self.model_accepts_loss_kwargs = True  # the loss is of the whole batch already

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], int]:
        """The micro-batches of a step, and the units in them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = [row for batch in batches for row in batch["rows"]]
        switch_dropout_off(self.model)
        self._objective.before_step(self.model, rows)
        return batches, self._objective.num_units(rows)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> Tensor:
        """The micro-batch's part of the batch's loss."""
        assert num_items_in_batch is not None, "every batch is counted"
        return self._objective.loss(model, inputs["rows"]) / num_items_in_batch


class ChoiceCallback(StageCallback):
    """Evaluates and chooses while the trainer trains; what it has found is part of each checkpoint."""

    def __init__(self, choice: Choice, state: ChoiceState, watch: Watch, every: int, seconds: float) -> None:
        super().__init__(_CURVE, choice.log, seconds, partial(report_progress, "policy"))
        self.state = state
        self._choice, self._watch, self._every = choice, watch, every
        self._last_saved: int | None = None

    def evaluate(self, model: Any, step: int) -> None:
        """Evaluate the policy after so many steps."""
        checkpoints, kl_budget = self._choice.workspace.checkpoints, self._choice.context.config.kl_budget
        model.eval()
        try:
            state = self._choice.evaluate(self.state, step, self._last_saved)
        except FloatingPointError as error:
            raise TrainingDivergedError(step, str(error), newest_checkpoint(checkpoints)) from error
        state = self._watch(self._choice, state)
        if state.stopped_because is None and state.evaluations[-1]["kl"] > kl_budget:
            state = replace(state, stopped_because="kl_budget")
        self.state = state

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where a run goes on, its checkpoint's policies are kept."""
        self._last_saved = state.global_step or None
        super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Evaluate where it is due, before a checkpoint is written."""
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self.evaluate(model, state.global_step)
            control.should_training_stop |= self.state.stopped_because is not None
        super().on_step_end(args, state, control, **kwargs)

    def on_save(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        """Put the state beside the weights, and seal the checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_file(folder / _STATE, json.dumps(asdict(self.state)))
        super().on_save(args, state, control, model, **kwargs)
        self._last_saved = state.global_step


def train_offline(
    context: PolicyContext[OfflineConfig],
    alarms: EvaluationAlarms,
    data: Path,
    rows: Sequence[Row],
    lengths: Sequence[int],
    objective: Objective[Row],
    workspace: Workspace,
    watch: Watch = lambda choice, state: state,
) -> None:
    """Train the policy, evaluate it on the way, and leave the chosen one with the evidence in `workspace.output`.

    Args:
        context: of the stage.
        alarms: thresholds of the alarms that look at evaluations.
        data: prepared data, whose validation prompts choose.
        rows: of one epoch.
        lengths: tokens of each row; the rows of a batch stand by length.
        objective: what is minimized.
        workspace: a run that was killed goes on from `workspace.checkpoints`.
        watch: measures more at each evaluation.

    Raises:
        TrainingDivergedError: a loss, a logit or a weight is not finite.
        ScoringError: a source failed, or its scores are not one finite number for each response.
        CheckpointError: something cannot be written.
        DiskSpaceError: there is no room for the checkpoints.
    """
    config, checkpoints, policy = context.config, workspace.checkpoints, context.models.policy
    order = training_order(lengths, config.num_epochs, config.batch_size, context.seed("policy", "order"))
    num_steps = math.ceil(len(order) / config.batch_size)
    validation = validation_prompts(data, context.tokenizer, config.num_validation_prompts)
    choice = Choice(context, alarms, validation, workspace, num_steps, config.batch_size)
    newest = newest_checkpoint(checkpoints)
    state = ChoiceState() if newest is None else ChoiceState(**json.loads((newest / _STATE).read_text()))
    choice.log_again(state)
    callback = ChoiceCallback(choice, state, watch, config.evaluate_every, config.checkpoint_every_seconds)
    if newest is None:
        callback.evaluate(policy, 0)
    if callback.state.stopped_because is None:
        settings = trainer_settings(context, checkpoints, len(order), context.seed("policy"))
        del settings["max_length"]  # which only TRL's trainers know
        trainer = OfflineTrainer(
            objective,
            model=policy,
            # The policy's own precision, as where it is sampled.
            args=TrainingArguments(**settings | {"bf16": False, "remove_unused_columns": False}),
            train_dataset=[rows[i] for i in order],
            callbacks=[callback],
        )
        run_trainer(trainer, checkpoints)
    last = callback.state.evaluations[-1]["update"]
    choice.finish(callback.state, last, callback.state.stopped_because or "finished")


def batch_logprobs(context: PolicyContext[OfflineConfig], model: Any, batch: SequenceBatch) -> Tensor:
    """Log-probabilities of the responses' tokens, which can be differentiated, [B, R], 0 outside the mask."""
    with autocast(context.compute):
        logits = response_logits(model, batch)
    logprobs = chosen_logprobs(logits, batch.responses, context.config.temperature)
    return logprobs.masked_fill(~batch.response_mask, 0.0)
