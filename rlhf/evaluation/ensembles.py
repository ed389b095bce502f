"""What the members of an ensemble of reward models say together, and whether their disagreement knows their errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.pair_groups import HeldOutPairs, accuracy_by_disagreement
from rlhf.evaluation.statistics import mean_interval, share_interval, win_rate

_NUM_GROUPS = 3


def measure_ensemble(
    chosen: Sequence[NDArray[np.float64]], rejected: Sequence[NDArray[np.float64]], pairs: HeldOutPairs
) -> dict[str, Any]:
    """Accuracy of an ensemble's mean score and of its members, and their disagreement.

    `disagreement` is the mean standard deviation of a response's scores over the members, in standard deviations of all
    scores; `disputed` the share of the pairs whose winner the members do not agree about (a tie is a side of its own).
    Pairs are in thirds by the standard deviation over members of the difference of the two scores.

    Args:
        chosen: scores of the chosen responses by each member, [M] of [N].
        rejected: scores of the rejected ones.
        pairs: the pairs.

    Source:
        Coste et al., "Reward model ensembles help mitigate overoptimization", 2310.02743.
    """
    scores = np.stack([np.stack(chosen), np.stack(rejected)], axis=1)
    margins = scores[:, 0] - scores[:, 1]
    spread = float(scores.std()) or 1.0
    signs = np.sign(margins)
    mean = margins.mean(axis=0)
    return {
        "num_members": len(margins),
        "accuracy": win_rate(mean, np.zeros(len(mean)), pairs.prompts).rate.as_dict(),
        "members": [win_rate(of, np.zeros(len(of)), pairs.prompts).rate.as_dict() for of in margins],
        "disagreement": mean_interval(scores.std(axis=0).mean(axis=0) / spread, pairs.prompts).as_dict(),
        "disputed": share_interval((signs != signs[0]).any(axis=0).astype(float), pairs.prompts).as_dict(),
        **accuracy_by_disagreement(mean, margins.std(axis=0), pairs, _NUM_GROUPS),
    }
