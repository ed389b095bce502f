"""Verbosity: how much longer responses became, and how much of the gain in reward is no gain in length.

Source:
    Singhal et al., "A long way to go", 2310.03716, section 3: the non-length reward gain, binned by length.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.evaluation.paired import Keys, Resampling, change_of_means, resampled

_BIN_TOKENS = 20
"""Widest bin of lengths, as in the paper."""
_LEAST_BINS = 10
"""Bins up to the longest response, where responses are short."""


def verbosity(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    our_lengths: NDArray[np.int64],
    their_lengths: NDArray[np.int64],
    prompts: Keys,
    resampling: Resampling,
) -> dict[str, Any]:
    """The change of the mean length, and the non-length reward gain.

    The gain is `sum over bins of n_b / n (mean score of the policy in b - mean score of the baseline in b)`, as a share
    of the whole gain: 1 where none of the gain is length. Only bins with responses of both count. Where the whole gain
    cannot be told from none, a share of it says nothing and is None.

    Args:
        ours: scores of the policy's responses, [N].
        theirs: scores of the baseline's.
        our_lengths: tokens of the policy's responses, EOS included.
        their_lengths: tokens of the baseline's.
        prompts: the prompt of each row.
        resampling: of both figures.
    """
    change = change_of_means((our_lengths - their_lengths).astype(np.float64), prompts, resampling)
    gain = change_of_means(ours - theirs, prompts, resampling)
    width = min(_BIN_TOKENS, max(1, -(-int(max(our_lengths.max(), their_lengths.max())) // _LEAST_BINS)))
    bins = np.concatenate([our_lengths, their_lengths]) // width
    shared = np.isin(bins, np.intersect1d(bins[: len(ours)], bins[len(ours) :]))
    told = gain is not None and (gain.low > 0 or gain.high < 0)

    def figure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        within = _gain_within(np.concatenate([ours, theirs]), np.concatenate([weights, weights], axis=1), bins)
        whole = weights @ (ours - theirs) / weights.sum(axis=1)
        return np.asarray(np.divide(within, whole, out=np.full(len(whole), np.nan), where=whole != 0))

    share = resampled(figure, prompts, resampling) if told and shared.any() else None
    return {
        "response_tokens_change": change.as_dict() if change else None,
        "non_length_reward_gain": share.as_dict() if share else None,
        "length_bin_tokens": width,
        "share_in_common_bins": float(shared.mean()),
    }


def _gain_within(
    scores: NDArray[np.float64], weights: NDArray[np.float64], bins: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean gain of responses of like length, [S].

    Args:
        scores: of the policy's responses, then of the baseline's, [2 N].
        weights: of these responses in S samples, [S, 2 N].
        bins: of lengths, [2 N].
    """
    is_ours = np.arange(len(scores)) < len(scores) // 2
    total, weight = np.zeros((2, len(weights)))
    for number in np.unique(bins):
        sides = [weights[:, (bins == number) & side] for side in (is_ours, ~is_ours)]
        values = [scores[(bins == number) & side] for side in (is_ours, ~is_ours)]
        counts = [side.sum(axis=1) for side in sides]
        both = (counts[0] > 0) & (counts[1] > 0)
        means = [side @ value / np.maximum(count, 1) for side, value, count in zip(sides, values, counts, strict=True)]
        total += np.where(both, (counts[0] + counts[1]) * (means[0] - means[1]), 0.0)
        weight += np.where(both, counts[0] + counts[1], 0.0)
    return np.asarray(np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0))
