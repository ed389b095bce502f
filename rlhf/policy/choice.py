"""The choice of a checkpoint while a policy is trained: held-out evaluations, the best policy kept, the results."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from rlhf.config.policy import EvaluationAlarms, PolicyConfig
from rlhf.policy import distributed as processes
from rlhf.policy.alarms import Alarm, AlarmState, watch_evaluations
from rlhf.policy.best_checkpoint import (
    ChoiceState,
    explain_write_errors,
    keep_candidate,
    remove_other_candidates,
    write_results,
)
from rlhf.policy.context import PolicyContext, Prompts
from rlhf.policy.objective import Units, best_evaluation
from rlhf.policy.sharding import whole
from rlhf.policy.turn import is_certain
from rlhf.policy.validation import validate, write_generations
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)

State = TypeVar("State", bound=ChoiceState)


@dataclass(frozen=True)
class Choice:
    """Chooses among the policies of a run by held-out evidence.

    Attributes:
        context: of the run.
        alarms: thresholds.
        validation: prompts that nothing is trained on.
        workspace: of the stage.
        num_updates: how many the run has.
        episodes_per_update: responses, or rows, that an update learns from.
    """

    context: PolicyContext[PolicyConfig]
    alarms: EvaluationAlarms
    validation: Prompts
    workspace: Workspace
    num_updates: int
    episodes_per_update: int

    def log(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Log metrics, once for all processes."""
        if processes.is_first():
            self.workspace.log_metrics(metrics, step)

    def log_and_note(self, state: State, metrics: Mapping[str, float], step: int) -> State:
        """Log metrics, and note them: a run that goes on from here logs them again, so that its curves are whole."""
        self.log(metrics, step)
        return replace(state, logged=[*state.logged, [step, dict(metrics)]])

    def log_again(self, state: ChoiceState) -> None:
        """Log what a run that goes on from here has logged before."""
        for step, metrics in state.logged:
            self.log(metrics, step)

    def evaluate(self, state: State, update: int, last_checkpoint: int | None) -> State:
        """Evaluate on validation prompts; a policy that is better than all before it is kept.

        Args:
            state: so far.
            update: updates taken.
            last_checkpoint: updates that the newest checkpoint has; None where there is none yet.

        Raises:
            FloatingPointError: the policy's logits are not finite.
            ScoringError: a source failed, or its scores are not one finite number for each response.
            CheckpointError: something cannot be written.
        """
        checkpoints, kl_budget = self.workspace.checkpoints, self.context.config.kl_budget
        units = Units.from_dict(state.units) if state.units else None
        episodes = update * self.episodes_per_update
        evaluation, generations, units = validate(self.context, self.validation, update, episodes, units)
        logger.info(
            "update %d/%d: score %.3f, held-out score %.3f, KL %.2f, objective %.3f",
            evaluation.update,
            self.num_updates,
            evaluation.score,
            evaluation.held_out_score,
            evaluation.kl,
            evaluation.objective,
        )
        state = self.log_and_note(state, evaluation.metrics(), update)
        evaluations = [*state.evaluations, asdict(evaluation)]
        last = None if last_checkpoint is None else f"the checkpoint of update {last_checkpoint}"
        if processes.is_first():
            with explain_write_errors("the generations of a held-out evaluation", last):
                write_generations(checkpoints, evaluation.update, generations)
        if best_evaluation(evaluations, kl_budget)["update"] == update:
            models = self.context.models
            with whole(models.policy), explain_write_errors(f"the policy of update {update}", last):
                if processes.is_first():
                    keep_candidate(checkpoints, update, models.export_policy(), self.context.tokenizer)
            if processes.is_first():
                remove_other_candidates(checkpoints, evaluations, kl_budget, last_checkpoint)
        memory, alarms = watch_evaluations(self.alarms, AlarmState(**state.alarms), evaluations, kl_budget)
        state = raise_alarms(replace(state, evaluations=evaluations, units=asdict(units)), memory, alarms)
        enough = self.context.config.stop_after_turn
        if state.stopped_because is None and enough is not None and is_certain(evaluations, enough):
            state = replace(state, stopped_because="turn")
        return state

    def finish(self, state: ChoiceState, num_updates: int, stopped_because: str) -> None:
        """Write the chosen policy and the evidence for it to the stage's output.

        Raises:
            CheckpointError: it cannot be written.
        """
        config = self.context.config
        if processes.is_first():
            with explain_write_errors("the stage's output", None):
                write_results(self.workspace, state, num_updates, stopped_because, config)
            best = best_evaluation(state.evaluations, config.kl_budget)
            self.log({"policy/chosen_update": best["update"], "policy/chosen_objective": best["objective"]}, None)
            self.log({"policy/num_alarms": len(state.alarms["raised"])}, None)
        processes.wait_for_all()


def raise_alarms(state: State, memory: AlarmState, alarms: Sequence[Alarm]) -> State:
    """Say which alarms went off, and note them; the first fatal one is why the run stops."""
    for alarm in alarms:
        logger.warning("alarm %s after update %d: %s", alarm.name, alarm.update, alarm.message)
    fatal = next((alarm.name for alarm in alarms if alarm.fatal), None)
    return replace(state, alarms=asdict(memory), stopped_because=state.stopped_because or fatal)
