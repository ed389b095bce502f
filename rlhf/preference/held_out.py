"""What is measured of held-out pairs at each evaluation: implicit-reward accuracy, and likelihood displacement."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlhf.config.preference import PreferenceAlarms, PreferenceConfig
from rlhf.policy.alarms import Alarm, AlarmState
from rlhf.policy.best_checkpoint import ChoiceState
from rlhf.policy.choice import Choice, raise_alarms
from rlhf.policy.context import PolicyContext
from rlhf.preference.rows import PreferenceRow, logprob_sums

_ALARM = "likelihood_displacement"


@dataclass(frozen=True)
class PairFigures:
    """Figures of held-out pairs under a policy.

    Attributes:
        implicit_accuracy: share of the pairs whose chosen response has the larger implicit reward, ties half.
        chosen_log_ratio: mean log-ratio of policy to SFT policy of the chosen responses, nats per response.
        rejected_log_ratio: the same of the rejected ones.
        chosen_token_log_ratio: log-ratio of the chosen responses, nats per token.
    """

    implicit_accuracy: float
    chosen_log_ratio: float
    rejected_log_ratio: float
    chosen_token_log_ratio: float

    def metrics(self) -> dict[str, float]:
        """Under the names of `rlhf.metrics`."""
        return {f"policy/validation_{name}": value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class HeldOutPairs:
    """Measures held-out pairs, and looks for likelihood displacement.

    Attributes:
        context: of the stage.
        rows: the pairs, with the SFT policy's log-probabilities.
        has_reference: the implicit reward is of the log-ratio, not of the log-probability.
        by_mean: it is a mean over tokens.
    """

    context: PolicyContext[PreferenceConfig]
    rows: Sequence[PreferenceRow]
    has_reference: bool
    by_mean: bool

    def __call__(self, choice: Choice, state: ChoiceState) -> ChoiceState:
        """The state with the pairs' figures in its newest evaluation, and the alarm if it goes off."""
        update = state.evaluations[-1]["update"]
        sums = logprob_sums(self.context, self.context.models.policy, self.rows)
        figures = pair_figures(sums, self.rows, has_reference=self.has_reference, by_mean=self.by_mean)
        state = choice.log_and_note(state, figures.metrics(), update)
        newest = {**state.evaluations[-1], **asdict(figures)}
        state = replace(state, evaluations=[*state.evaluations[:-1], newest])
        return raise_alarms(
            state, *watch_pairs(self.context.config.alarms, AlarmState(**state.alarms), figures, update)
        )


def pair_figures(
    sums: NDArray[np.float64], rows: Sequence[PreferenceRow], *, has_reference: bool, by_mean: bool
) -> PairFigures:
    """Figures of pairs.

    Args:
        sums: log-probability of each chosen and rejected response under the policy, nats, [N, 2].
        rows: the N pairs.
        has_reference: the implicit reward is of the log-ratio, not of the log-probability.
        by_mean: it is a mean over tokens.
    """
    log_ratios = sums - np.array([row.ref_logprobs for row in rows])
    lengths = np.array([[len(response) for response in row.responses] for row in rows])
    rewards = (log_ratios if has_reference else sums) / (lengths if by_mean else 1)
    lead = rewards[:, 0] - rewards[:, 1]
    chosen, rejected = log_ratios.mean(0).tolist()
    return PairFigures(
        implicit_accuracy=float(np.mean((lead > 0) + 0.5 * (lead == 0))),
        chosen_log_ratio=chosen,
        rejected_log_ratio=rejected,
        chosen_token_log_ratio=float(log_ratios[:, 0].sum() / lengths[:, 0].sum()),
    )


def watch_pairs(
    config: PreferenceAlarms, memory: AlarmState, figures: PairFigures, update: int
) -> tuple[AlarmState, list[Alarm]]:
    """Look at the newest figures. The alarm is told once, and again after it had ended.

    Source:
        Likelihood displacement: Razin et al. 2410.08847.
    """
    threshold, fall = config.likelihood_displacement, -figures.chosen_token_log_ratio
    holds = threshold is not None and fall > threshold and figures.rejected_log_ratio < 0
    streak = memory.streaks.get(_ALARM, 0) + 1 if holds else 0
    memory = replace(memory, streaks=memory.streaks | {_ALARM: streak})
    if streak != 1:
        return memory, []
    message = (
        f"held-out chosen responses became less likely than under the SFT policy, by {-figures.chosen_log_ratio:.2f} "
        f"nats per response, beside the rejected ones, by {-figures.rejected_log_ratio:.2f}: what the policy says "
        f"instead nobody has rated; raise beta, lower the learning rate, or take fewer epochs"
    )
    alarm = Alarm(_ALARM, update, message, _ALARM in config.fatal)
    return replace(memory, raised=[*memory.raised, asdict(alarm)]), [alarm]
