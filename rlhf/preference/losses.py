"""Losses of the methods that learn from given preferences.

Shapes: B pairs, or B single responses. A response's implicit reward is beta times its log-ratio, log policy - log
reference, summed over its tokens; of SimPO, which has no reference, beta times its mean log-probability of a token.
TRL's losses, which the tests compare these with, have no label smoothing for DPO, and IPO by the mean of tokens alone.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid


def logistic_loss(difference: Tensor, beta: float, label_smoothing: float, margin: float = 0.0) -> Tensor:
    """Loss of DPO and SimPO, [B]: -(1 - e) log sigmoid(h) - e log sigmoid(-h), h = beta * difference - margin.

    Args:
        difference: chosen less rejected, of log-ratios (DPO) or mean log-probabilities (SimPO), [B].
        beta: factor.
        label_smoothing: share e of wrong labels; the minimum over h is at logit(1 - e).
        margin: by which the chosen response must lead.

    Source:
        DPO, 2305.18290, eq. 7; SimPO, 2405.14734, eq. 6; conservative DPO, Mitchell 2023.
    """
    h = beta * difference - margin
    return -(1.0 - label_smoothing) * logsigmoid(h) - label_smoothing * logsigmoid(-h)


def squared_loss(difference: Tensor, beta: float) -> Tensor:
    """Loss of IPO, [B]: the squared distance of the log-ratios' difference from 1 / (2 beta).

    Source:
        IPO, 2310.12036, eq. 17.
    """
    return (difference - 1.0 / (2.0 * beta)).square()


def prospect_loss(
    log_ratio: Tensor, desirable: Tensor, kl: Tensor, beta: float, weights: tuple[float, float]
) -> Tensor:
    """Loss of KTO, [B]: the weight of a response's kind times 1 - sigmoid of its gain over the reference point.

    Args:
        log_ratio: of the responses, [B].
        desirable: whether each is wanted, [B].
        kl: the reference point, a scalar without gradient: the policy's KL to its reference, at least 0, estimated on
            responses to other prompts.
        beta: factor.
        weights: of wanted and of unwanted responses.

    Source:
        KTO, 2402.01306, eq. 7 and 8.
    """
    gain = beta * (log_ratio - kl)
    wanted, unwanted = weights
    return desirable * wanted * (-gain).sigmoid() + ~desirable * unwanted * gain.sigmoid()


def balanced_weights(
    num_wanted: int, num_unwanted: int, wanted: float | None, unwanted: float | None
) -> tuple[float, float]:
    """Weights of wanted and unwanted responses for KTO; one that is None is such that both kinds count the same.

    Of two that are None the one of the more frequent kind is 1.

    Source:
        KTO, 2402.01306, 4.2: the ratio of weight times number lies between 1 and 4/3; here it is 1.
    """
    if wanted is None and unwanted is None:
        most = max(num_wanted, num_unwanted)
        return most / num_wanted, most / num_unwanted
    if wanted is None:
        assert unwanted is not None
        return unwanted * num_unwanted / num_wanted, unwanted
    return wanted, wanted * num_wanted / num_unwanted if unwanted is None else unwanted
