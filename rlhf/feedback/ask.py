"""What a round asks: prompts that policies answer, and the pairs of answers that are shown."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.config.feedback import AskConfig
from rlhf.config.model import ComputeConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import Row, read_rows
from rlhf.errors import ConfigError, DataError
from rlhf.feedback.comparisons import Candidates, ChosenPair, Comparison, arrange, best_pair, can_be_shown
from rlhf.modeling.conversations import Conversation, decode_responses, encode_prompts
from rlhf.modeling.device import configure, derive_seed
from rlhf.modeling.generation import generate_responses
from rlhf.modeling.models import load_policy, load_reward_model
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.progress import report_progress
from rlhf.rewards.scoring import score_rows

logger = logging.getLogger(__name__)
SCORERS = ("reward_model", "selection_reward_model")
"""Folders of the two reward models."""


@dataclass(frozen=True)
class Author:
    """A policy that answers prompts.

    Attributes:
        name: of the policy, as the data has it.
        folder: its weights and tokenizer.
        reward_models: the folder with the two reward models of its run; None where there are none.
    """

    name: str
    folder: Path
    reward_models: Path | None


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled and scored.

    Attributes:
        compute: device, threads, precision.
        batch_size: responses that are sampled or scored together.
        max_length: tokens of prompt and answer.
        max_response_tokens: tokens of the longest answer.
    """

    compute: ComputeConfig
    batch_size: int
    max_length: int
    max_response_tokens: int

    def answer(self, author: Author, prompts: Sequence[Conversation], ask: AskConfig, seed: int) -> list[Candidates]:
        """Answers to each prompt, with scores where pairs are chosen by them."""
        tokenizer = load_tokenizer(author.folder)
        number = ask.num_responses
        ids = encode_prompts(tokenizer, prompts)
        repeated = [row for row in ids for _ in range(number)]
        responses = generate_responses(
            load_policy(author.folder, self.compute),
            tokenizer,
            repeated,
            compute=self.compute,
            max_response_tokens=self.max_response_tokens,
            temperature=ask.temperature,
            seed=seed,
            batch_size=self.batch_size,
        )
        texts = [text.strip() for text in decode_responses(tokenizer, responses)]
        rows = [prompt + response for prompt, response in zip(repeated, responses, strict=True)]
        scores = None if ask.choose == "random" else self._scores(author, rows, ask)
        return [
            Candidates(
                prompt,
                texts[place * number : (place + 1) * number],
                author.name,
                None if scores is None else scores[:, place * number : (place + 1) * number],
            )
            for place, prompt in enumerate(prompts)
        ]

    def fits(self, author: Author, prompts: Sequence[Conversation]) -> list[bool]:
        """Whether each prompt leaves room for an answer."""
        room = self.max_length - self.max_response_tokens
        return [len(row) <= room for row in encode_prompts(load_tokenizer(author.folder), prompts)]

    def _scores(self, author: Author, rows: Sequence[Sequence[int]], ask: AskConfig) -> NDArray[np.float64]:
        if author.reward_models is None:
            raise ConfigError(
                f"choose is {ask.choose}, which asks the two reward models of the policy's run, but {author.name} has "
                f"none here; set choose to random, or name a run"
            )
        return score_by_both(author.reward_models, self.compute, rows, self.batch_size)


def score_by_both(
    folder: Path, compute: ComputeConfig, rows: Sequence[Sequence[int]], batch_size: int
) -> NDArray[np.float64]:
    """Scores of the two reward models of a run, [2, N].

    Args:
        folder: of the reward models.
        compute: device, threads, precision.
        rows: token ids of prompt and response, N of them.
        batch_size: rows that are scored together.
    """
    return np.stack(
        [
            score_rows(load_reward_model(folder / name, compute), name, compute, rows, batch_size).astype(np.float64)
            for name in SCORERS
        ]
    )


def make_comparisons(
    sampling: Sampling,
    ask: AskConfig,
    authors: Sequence[Author],
    prompts: Sequence[Conversation],
    gold: Sequence[Row] = (),
) -> list[Comparison]:
    """Have policies answer prompts, and choose what is shown of it. The same arguments give the same comparisons.

    Args:
        sampling: how they answer.
        ask: the round.
        authors: one or more policies.
        prompts: different ones.
        gold: pairs whose answers are known.

    Raises:
        DataError: there are too few prompts, or too few with answers that differ.
        ConfigError: pairs are to be chosen by reward models, and a policy has none.
        ModelError: a policy or a reward model cannot be loaded.
    """
    configure(sampling.compute)
    rng = np.random.default_rng(derive_seed(ask.seed, "feedback", ask.round))
    drawn = [prompts[place] for place in rng.permutation(len(prompts)).tolist()]
    return arrange(_pairs(sampling, authors, drawn, ask, rng), gold, ask, rng)


def _pairs(
    sampling: Sampling,
    authors: Sequence[Author],
    prompts: Sequence[Conversation],
    ask: AskConfig,
    rng: np.random.Generator,
) -> list[ChosenPair]:
    """The pairs to show: the first that can be, or the best of a pool of prompts."""
    wanted = num_prompts(ask)
    usable: list[Candidates] = []
    looked_at = 0
    while len(usable) < wanted and looked_at < len(prompts):
        some = prompts[looked_at : looked_at + wanted - len(usable)]
        usable += filter(can_be_shown, _answered(sampling, authors, some, ask, looked_at))
        looked_at += len(some)
        report_progress("feedback", len(usable), wanted)
    if len(usable) < wanted:
        raise DataError(
            f"round {ask.round}: of {looked_at} prompts only {len(usable)} have two answers that differ, and {wanted} "
            f"are needed; raise num_responses or temperature, give more prompts, or lower num_pairs or pool"
        )
    logger.info("%d prompts were answered; %d had two answers that differ", looked_at, len(usable))
    spreads = _spreads(usable)
    pairs = [best_pair(candidates, ask, spreads[candidates.policy], rng) for candidates in usable]
    return sorted((pair for pair in pairs if pair is not None), key=lambda pair: pair.rank)[: ask.num_pairs]


def num_prompts(ask: AskConfig) -> int:
    """Prompts that are answered, so that pairs can be chosen."""
    return ask.num_pairs * (1 if ask.choose == "random" else ask.pool)


def _spreads(answered: Sequence[Candidates]) -> dict[str, NDArray[np.float64]]:
    """Standard deviations of both reward models' scores over all answers of each policy, [2]."""
    by_policy: dict[str, list[NDArray[np.float64]]] = {}
    for candidates in answered:
        scores = by_policy.setdefault(candidates.policy, [])
        if candidates.scores is not None:
            scores.append(candidates.scores)
    return {
        name: np.concatenate(scores, axis=1).std(axis=1) if scores else np.ones(2) for name, scores in by_policy.items()
    }


def _answered(
    sampling: Sampling, authors: Sequence[Author], prompts: Sequence[Conversation], ask: AskConfig, place: int
) -> list[Candidates]:
    """Each prompt with the answers of one of the policies, which take turns."""
    answered: list[Candidates] = []
    for number, author in enumerate(authors):
        own = prompts[(number - place) % len(authors) :: len(authors)]  # also where a few are asked at a time
        usable = [prompt for prompt, fits in zip(own, sampling.fits(author, own), strict=True) if fits]
        if len(usable) < len(own):
            logger.warning("%d prompts are too long for an answer, and were left out", len(own) - len(usable))
        if usable:
            answered += sampling.answer(author, usable, ask, derive_seed(ask.seed, "answers", ask.round, number, place))
    return answered


def different_prompts(*paths: Path) -> list[Conversation]:
    """The prompts of files, each once."""
    rows = (row for path in paths for _, row in read_rows(path, "prompts"))
    by_key: dict[str, Any] = {prompt_key(row["prompt"]): row["prompt"] for row in rows}
    return list(by_key.values())
