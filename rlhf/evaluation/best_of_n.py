"""Best-of-n sampling of the SFT policy: what a proxy would have bought without training, at a KL that is known.

N responses to each prompt are sampled once. The best of n of them by the reward model's score stands for a policy whose
KL to the SFT policy is log n - (n - 1)/n, and what it is worth is estimated over all subsets of n of the N.

Shapes: P prompts, N responses to each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.data.preparation.splits import prompt_key
from rlhf.evaluation.answers import OWN_JUDGE, SCORES, Context, decode_answers
from rlhf.evaluation.scaling_law import Fit, fit_best_of_n
from rlhf.evaluation.statistics import Estimate, mean_interval
from rlhf.gold.rules import GoldRule
from rlhf.modeling.conversations import Conversation, encode_prompts
from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.models import load_policy
from rlhf.policy.parts import collect_parts
from rlhf.rewards.scoring import score_rows_once

_PROMPTS_IN_A_PART = 64
_PROXY = "reward_model"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BestOfNPoint:
    """The best of n responses by the reward model's score.

    Attributes:
        num_samples: n.
        kl: log n - (n - 1)/n, nats per response, of which no distribution of the best of n has more (Beirami et al.
            2401.01879).
        values: means over prompts by the names of figures: score, selection_score, and gold where there is a rule.
    """

    num_samples: int
    kl: float
    values: Mapping[str, Estimate]

    @property
    def sqrt_kl(self) -> float:
        """Distance from the SFT policy."""
        return math.sqrt(self.kl)


@dataclass(frozen=True)
class BestOfN:
    """Best-of-n of the SFT policy beside the trained one, on validation prompts.

    Attributes:
        num_prompts: answered.
        points: n = 1, 2, 4, ... and N.
        fits: of Gao et al.'s form, by the names of figures; None where there are too few points.
    """

    num_prompts: int
    points: Sequence[BestOfNPoint]
    fits: Mapping[str, Fit | None]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        points = [asdict(point) | {"sqrt_kl": point.sqrt_kl} for point in self.points]
        fits = {name: fit and fit.as_dict() for name, fit in self.fits.items()}
        return {"num_prompts": self.num_prompts, "points": points, "fits": fits}


def measure_best_of_n(
    context: Context,
    max_response_tokens: int,
    prompts: Sequence[Conversation],
    baseline: Path,
    reward_models: Path,
    rule: GoldRule | None,
    checkpoints: Path,
) -> BestOfN:
    """Sample, rank by the reward model's own score, and judge what is ranked first.

    Of a recipe's other sources and its penalties the score has nothing: it is what `evaluation.json` calls the score.

    Args:
        context: of the evaluation.
        max_response_tokens: longest response.
        prompts: those of the held-out evaluations.
        baseline: the SFT stage's output.
        reward_models: the reward-model stage's output.
        rule: gives gold rewards, where there is one; they rank nothing.
        checkpoints: where samples are kept as they are made.

    Raises:
        DataError: fewer than two prompts.
        ModelError: a dialogue is longer than a reward model reads.
        ScoringError: the scores are not one finite number for each response.
    """
    size, ids = context.config.best_of_n, encode_prompts(context.tokenizer, prompts)
    policy = load_policy(baseline / "policy", context.compute)

    def respond(part: range) -> list[list[int]]:
        keys: list[tuple[str | int, ...]] = [("best_of_n", prompt, n) for prompt in part for n in range(size)]
        rows = [ids[prompt] for prompt in part for _ in range(size)]
        noise = sampling_noise(context.seed("evaluation", "best_of_n"), keys, max_response_tokens)
        responses: list[list[int]] = []
        at_once = context.config.batch_size // size * size or context.config.batch_size  # whole prompts, read once
        for start in range(0, len(rows), at_once):
            batch, temperature = slice(start, start + at_once), context.config.temperature
            responses += sample(policy, rows[batch], noise[batch], context.tokenizer, context.compute, temperature)
        return responses

    def make(part: range) -> list[dict[str, object]]:
        return [{"response": response} for response in respond(part)]

    made = collect_parts(checkpoints / "samples", "evaluation", len(prompts), _PROMPTS_IN_A_PART, make)
    responses = [row["response"] for row in made]
    dialogues = [(*ids[number // size], *response) for number, response in enumerate(responses)]
    values = {
        SCORES[judge]: score_rows_once(reward_models / judge, context.compute, dialogues, context.config.batch_size)
        for judge in (_PROXY, OWN_JUDGE)
    }
    if rule is not None:
        asked = [prompt for prompt in prompts for _ in range(size)]
        values[SCORES["gold"]] = rule.judge(asked, decode_answers(context, responses).texts).rewards
    by_prompt = {name: column.reshape(-1, size) for name, column in values.items()}
    return _summarize(context, by_prompt, [prompt_key(prompt) for prompt in prompts])


def best_of_subsets(values: Floats, scores: Floats, num_samples: int) -> Floats:
    """The mean value of the response with the best score, over all subsets of n of N responses, by prompt, [P].

    Of equal scores the first response wins, as where n are sampled and one is kept.

    Args:
        values: of every response, [P, N].
        scores: by which responses are ranked, [P, N].
        num_samples: n, at most N.
    """
    size = scores.shape[1]
    rank = np.lexsort((np.broadcast_to(-np.arange(size), scores.shape), scores), axis=1)
    subsets = [math.comb(place, num_samples - 1) / math.comb(size, num_samples) for place in range(size)]
    return np.asarray(np.take_along_axis(values, rank, axis=1) @ np.array(subsets))


def best_of_n_kl(num_samples: int) -> float:
    """The KL of the best of n, which is at most log n - (n - 1)/n, nats per response."""
    return math.log(num_samples) - (num_samples - 1) / num_samples


def _summarize(context: Context, values: Mapping[str, Floats], prompts: Sequence[str]) -> BestOfN:
    size = context.config.best_of_n
    sizes = sorted({2**power for power in range(size.bit_length())} | {size})
    kl = np.array([best_of_n_kl(n) for n in sizes])
    best = {
        name: np.stack([best_of_subsets(column, values[SCORES[_PROXY]], n) for n in sizes], axis=1)
        for name, column in values.items()
    }
    points = [
        BestOfNPoint(n, float(kl[i]), {name: mean_interval(rows[:, i], prompts) for name, rows in best.items()})
        for i, n in enumerate(sizes)
    ]
    resamples, seed = context.config.num_bootstrap, context.seed("bootstrap")
    fits = {name: fit_best_of_n(kl, rows, prompts, resamples, seed) for name, rows in best.items()}
    return BestOfN(len(set(prompts)), points, fits)
