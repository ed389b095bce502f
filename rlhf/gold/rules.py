"""Rules that say what the raters meant, so that a run can be measured by it and not by a model of the labels alone.

Only policy evaluation, and the generators that label pairs by a rule, may read this package.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Share:
    """A property of responses, and the responses that can have it.

    Attributes:
        holds: the response has it, [N].
        among: the response is counted, [N].
    """

    holds: NDArray[np.bool_]
    among: NDArray[np.bool_]


@dataclass(frozen=True)
class Judgement:
    """A rule's judgement of N responses.

    Attributes:
        rewards: gold reward of each, [N].
        shares: further properties by the name that `rlhf.metrics` declares.
    """

    rewards: NDArray[np.float64]
    shares: Mapping[str, Share] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptKinds:
    """Two kinds of prompts, of which an evaluation takes fixed shares.

    Attributes:
        names: of the first and the second kind.
        share: of the first kind among the prompts of an evaluation.
        is_first: which of N prompts are of the first kind, [N].
    """

    names: tuple[str, str]
    share: float
    is_first: Callable[[Sequence[Conversation]], NDArray[np.bool_]]


@dataclass(frozen=True)
class GoldRule:
    """A registered rule.

    Attributes:
        meaning: what the reward of a response is, as a noun with its article.
        judge: N prompts and one response to each, judged.
        kinds: of prompts, where the rule tells them apart.
        revise: a response to a prompt, rewritten as the rule wants it; None where the rule cannot say how.
    """

    meaning: str
    judge: Callable[[Sequence[Conversation], Sequence[str]], Judgement]
    kinds: PromptKinds | None = None
    revise: Callable[[Conversation, str], str] | None = None
