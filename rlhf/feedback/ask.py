"""What a round asks: prompts that policies answer, and the pairs of answers that are shown."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf.chat.policies import ChatPolicy, find_policy
from rlhf.config.feedback import AskConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.data.preparation.splits import prompt_key
from rlhf.data.schema import Row, is_ranking, read_rows
from rlhf.data.versions.resolve import resolve
from rlhf.errors import ConfigError, DataError
from rlhf.feedback.comparisons import Candidates, ChosenPair, Comparison, arrange, best_pair, can_be_shown
from rlhf.files.names import below
from rlhf.modeling.conversations import Conversation, decode_responses, encode_prompts
from rlhf.modeling.device import configure, derive_seed
from rlhf.modeling.generation import generate_responses
from rlhf.modeling.models import load_policy, load_reward_model
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.progress import report_progress
from rlhf.rewards.scoring import score_rows
from rlhf.runs.filters import Filters
from rlhf.runs.listing import list_runs
from rlhf.tracking.registry import CHAMPION, champion_version
from rlhf.tracking.stores import open_store

logger = logging.getLogger(__name__)
_SCORERS = ("reward_model", "selection_reward_model")


@dataclass(frozen=True)
class Author:
    """A policy that answers prompts.

    Attributes:
        policy: which.
        config: the recipe: precision, batch size, lengths.
        ask: number, temperature and length of answers.
        max_response_tokens: the longest answer.
    """

    policy: ChatPolicy
    config: PipelineConfig
    ask: AskConfig
    max_response_tokens: int

    def answer(self, prompts: Sequence[Conversation], seed: int) -> list[Candidates]:
        """Answers to each prompt, with scores where pairs are chosen by them."""
        compute, batch_size = self.config.compute, self.config.evaluation.batch_size
        tokenizer = load_tokenizer(self.policy.folder)
        number = self.ask.num_responses
        ids = encode_prompts(tokenizer, prompts)
        repeated = [row for row in ids for _ in range(number)]
        responses = generate_responses(
            load_policy(self.policy.folder, compute),
            tokenizer,
            repeated,
            compute=compute,
            max_response_tokens=self.max_response_tokens,
            temperature=self.ask.temperature,
            seed=seed,
            batch_size=batch_size,
        )
        texts = [text.strip() for text in decode_responses(tokenizer, responses)]
        rows = [prompt + response for prompt, response in zip(repeated, responses, strict=True)]
        scores = None if self.ask.choose == "random" else self._scores(rows, batch_size)
        return [
            Candidates(
                prompt,
                texts[place * number : (place + 1) * number],
                self.policy.name,
                None if scores is None else scores[:, place * number : (place + 1) * number],
            )
            for place, prompt in enumerate(prompts)
        ]

    def fits(self, prompts: Sequence[Conversation]) -> list[bool]:
        """Whether each prompt leaves room for an answer."""
        room = self.config.model.max_length - self.max_response_tokens
        return [len(row) <= room for row in encode_prompts(load_tokenizer(self.policy.folder), prompts)]

    def _scores(self, rows: Sequence[Sequence[int]], batch_size: int) -> NDArray[np.float64]:
        folder = self.policy.reward_models
        if folder is None:
            raise ConfigError(
                f"choose is {self.ask.choose}, which asks the two reward models of the policy's run, but "
                f"{self.policy.name} has none here; set choose to random, or name a run"
            )
        compute = self.config.compute
        return np.stack(
            [
                score_rows(load_reward_model(folder / name, compute), name, compute, rows, batch_size).astype(
                    np.float64
                )
                for name in _SCORERS
            ]
        )


def find_policies(names: Sequence[str], recipe: str) -> list[ChatPolicy]:
    """The policies that answer: those that are named, else the recipe's champion, else its newest finished run's.

    Raises:
        InputError: there is no such policy, or nothing is left of it.
    """
    if names:
        return [find_policy(name) for name in names]
    if champion_version(recipe) is not None:
        return [find_policy(f"{recipe}@{CHAMPION}")]
    newest = list_runs(open_store(), Filters(recipe=recipe, state="finished"), 1).rows
    if not newest:
        raise ConfigError(
            f"recipe {recipe} has no champion and no finished run, so nobody would answer; run it first, or name a "
            f"run, a version or a folder (policies)"
        )
    return [find_policy(newest[0].run_id)]


def make_comparisons(
    config: PipelineConfig, ask: AskConfig, policies: Sequence[ChatPolicy], root: Path
) -> list[Comparison]:
    """Have policies answer prompts, and choose what is shown of it. The same arguments give the same comparisons.

    Args:
        config: the recipe.
        ask: the round.
        policies: one or more.
        root: the project's root.

    Raises:
        DataError: there are too few prompts, or too few with answers that differ.
        ConfigError: a file is not there, or answers leave no room for prompts.
        ModelError: a policy or a reward model cannot be loaded.
    """
    configure(config.compute)
    longest = ask.max_response_tokens or config.max_response_tokens
    if longest >= config.model.max_length:
        raise ConfigError(
            f"max_response_tokens is {longest}, which leaves no room for a prompt in model.max_length "
            f"({config.model.max_length}); make it smaller"
        )
    gold = _gold_questions(ask, root)
    authors = [Author(policy, config, ask, longest) for policy in policies]
    rng = np.random.default_rng(derive_seed(ask.seed, "feedback", ask.round))
    prompts = _prompts(config, ask, root, rng)
    pairs = _pairs(authors, prompts, ask, rng)
    return arrange(pairs, gold, ask, rng)


def _pairs(
    authors: Sequence[Author], prompts: Sequence[Conversation], ask: AskConfig, rng: np.random.Generator
) -> list[ChosenPair]:
    """The pairs to show: the first that can be, or the best of a pool of prompts."""
    wanted = num_prompts(ask)
    usable: list[Candidates] = []
    looked_at = 0
    while len(usable) < wanted and looked_at < len(prompts):
        some = prompts[looked_at : looked_at + wanted - len(usable)]
        usable += filter(can_be_shown, _answered(authors, some, ask, looked_at))
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
    authors: Sequence[Author], prompts: Sequence[Conversation], ask: AskConfig, place: int
) -> list[Candidates]:
    """Each prompt with the answers of one of the policies, which take turns."""
    answered: list[Candidates] = []
    for number, author in enumerate(authors):
        own = prompts[(number - place) % len(authors) :: len(authors)]  # also where a few are asked at a time
        usable = [prompt for prompt, fits in zip(own, author.fits(own), strict=True) if fits]
        if len(usable) < len(own):
            logger.warning("%d prompts are too long for an answer, and were left out", len(own) - len(usable))
        if usable:
            answered += author.answer(usable, derive_seed(ask.seed, "answers", ask.round, number, place))
    return answered


def _prompts(config: PipelineConfig, ask: AskConfig, root: Path, rng: np.random.Generator) -> list[Conversation]:
    """Different prompts in a drawn order."""
    if ask.prompts is not None:
        path = below(root, ask.prompts, "prompts")
    else:
        folder = root / resolve(config.data, root).path
        if not folder.is_dir():
            raise ConfigError(f"data.path is {config.data.path}, which is a file; name a file of prompts (prompts)")
        path = folder / "prompts.jsonl"
    prompts = different_prompts(path)
    if len(prompts) < num_prompts(ask):
        raise DataError(
            f"{path}: {len(prompts)} different prompts, and {num_prompts(ask)} are needed, since each pair is of "
            f"another prompt and choose is {ask.choose}; give more prompts, or lower num_pairs or pool"
        )
    return [prompts[place] for place in rng.permutation(len(prompts)).tolist()]


def different_prompts(path: Path) -> list[Conversation]:
    """The prompts of a file, each once."""
    by_key: dict[str, Any] = {prompt_key(row["prompt"]): row["prompt"] for _, row in read_rows(path, "prompts")}
    return list(by_key.values())


def _gold_questions(ask: AskConfig, root: Path) -> list[Row]:
    if ask.gold_questions is None:
        return []
    path = below(root, ask.gold_questions, "gold_questions")
    rows = [row for _, row in read_rows(path, "preferences")]
    for line, row in enumerate(rows, start=1):
        if is_ranking(row) or row.get("probability", 1.0) < 1:
            raise DataError(
                f"{path}:{line}: the answer to a gold question is known; give a pair of chosen and rejected"
            )
    return rows
