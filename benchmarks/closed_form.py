"""A world so small that RLHF's optimum is known: every response can be listed, so every expectation is a finite sum.

For every prompt the policy that maximizes J = E[score] - kl_coef * KL(policy || reference) is
reference * exp(score / kl_coef) / Z. Its value is J* = kl_coef * log Z, and what a policy lacks is
J* - J = kl_coef * KL(policy || optimum) (Ziegler et al., 1909.08593, section 2.1; Rafailov et al., 2305.18290, appendix
A.1). With 16 tokens and at most 3 of them a prompt has 3,616 responses.

Nothing here uses the project's own sampling, log-probabilities, KL or losses: it is what they are measured by.

Shapes: P prompts, N responses a prompt, S states (what stands before a response token) a prompt, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig, Setup
from rlhf.modeling.conversations import Conversation, encode_prompts
from rlhf.modeling.models import save_model, start_policy
from rlhf.modeling.precision import autocast
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.policy.context import Prompts

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
PROMPTS = ("a b", "a c", "a d e f", "a g")
NUM_TOKENS = 3
"""Longest response, its EOS included."""
MISSING_EOS_PENALTY = 2.0
"""Some three standard deviations of a word's score, so that much of what can be won lies in ending."""
SCORE_DEVIATION = 0.7
WEIGHT_SCALE = 4.0
"""What matrices are multiplied by. A fresh model says nearly the same of every token, and this reference does not; and
where the head is frozen, as it is with adapters, its size bounds the logits, and with 3 the optimum lies beyond."""


@dataclass(frozen=True)
class World:
    """Prompts, a reference policy and a rule that scores; each seed makes another.

    Attributes:
        setup: seed, model and compute.
        folder: where the reference policy is saved.
        tokenizer: the policy's.
        prompts: P of them.
        table: score of a word at a place of the response, [places, words], by prompt.
    """

    setup: Setup
    folder: Path
    tokenizer: Any
    prompts: Prompts
    table: Mapping[str, NDArray[np.float64]]

    def score(self, prompt: str, response: str) -> float:
        """Score of a response's text, before the penalty for missing EOS."""
        words = enumerate(response.split())
        return sum(float(self.table[prompt][place, WORDS.index(word)]) for place, word in words if word in WORDS)

    def reward_function(self, prompts: Sequence[Conversation], responses: Sequence[str]) -> list[float]:
        """`score`, in the form that PPO takes."""
        return [self.score(str(p[0]["content"]), r) for p, r in zip(prompts, responses, strict=True)]


def make_world(seed: int, dtype: str, folder: Path) -> World:
    """Make a world and save its reference policy.

    Args:
        seed: of the weights and of the scores.
        dtype: `fp32` or `bf16`; the weights do not depend on it.
        folder: gets the policy.
    """
    shape = ArchitectureConfig(hidden_size=64, num_layers=2, num_heads=2, feed_forward_size=128)
    compute = ComputeConfig.model_validate({"dtype": dtype, "num_threads": 1})
    setup = Setup(seed=seed, model=ModelConfig(architecture=shape, max_length=16), compute=compute)
    tokenizer = prepare_tokenizer(setup.model, [" ".join(WORDS)])[0]
    policy = start_policy(setup, tokenizer)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.dim() > 1:
                weight.mul_(WEIGHT_SCALE)
    save_model(policy, tokenizer, folder)
    conversations: list[Conversation] = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    draws = np.random.default_rng(seed).normal(0.0, SCORE_DEVIATION, (len(PROMPTS), NUM_TOKENS, len(WORDS)))
    prompts = Prompts(conversations, encode_prompts(tokenizer, conversations))
    return World(setup, folder, tokenizer, prompts, dict(zip(PROMPTS, draws, strict=True)))


@dataclass(frozen=True)
class Tree:
    """All responses as one tree a prompt, whose nodes are the states before each response token.

    A pass reads each state once, since the attention mask lets a state see its own past alone: some 250 tokens a prompt
    instead of the 3,616 responses.

    Attributes:
        responses: token ids, N of them, in the order of `response_logprobs`.
        goes_on: ids that do not end a response: all but EOS, [V - 1].
        eos: id of EOS.
        inputs: ids, mask and positions of the pass over all trees.
    """

    responses: list[list[int]]
    goes_on: Tensor
    eos: int
    inputs: dict[str, Tensor]

    @property
    def num_states(self) -> int:
        """S."""
        return 1 + len(self.goes_on) + len(self.goes_on) ** 2

    def state_logprobs(self, policy: Any, compute: ComputeConfig, temperature: float) -> Tensor:
        """Log-probabilities of the next token in every state, [P, S, V], fp64, with gradients where they are on."""
        with autocast(compute):
            logits = policy(**self.inputs, use_cache=False).logits
        states: Tensor = logits[:, -self.num_states :].double() / temperature
        return states.log_softmax(-1)

    def response_logprobs(self, states: Tensor) -> Tensor:
        """Log-probabilities of all responses, [P, N], from those of `state_logprobs`."""
        k = len(self.goes_on)
        root, child, grandchild = states[:, 0], states[:, 1 : 1 + k], states[:, 1 + k :]
        one_token = root[:, self.goes_on]
        two_tokens = (one_token[..., None] + child[..., self.goes_on]).flatten(1)
        ended = [root[:, [self.eos]], one_token + child[..., self.eos]]
        return torch.cat([*ended, (two_tokens[..., None] + grandchild).flatten(1)], dim=1)

    def logprobs(self, policy: Any, compute: ComputeConfig, temperature: float) -> Tensor:
        """Log-probabilities of all responses under a policy, [P, N]."""
        return self.response_logprobs(self.state_logprobs(policy, compute, temperature))


def grow_tree(world: World) -> Tree:
    """The tree of a world's responses."""
    eos, size = int(world.tokenizer.eos_token_id), len(world.tokenizer)
    on = [token for token in range(size) if token != eos]
    pairs = [(first, second) for first in on for second in on]
    responses = [[eos], *([token, eos] for token in on), *([*pair, last] for pair in pairs for last in range(size))]
    return Tree(responses, torch.tensor(on), eos, _tree_inputs(world, on))


def _tree_inputs(world: World, on: Sequence[int]) -> dict[str, Tensor]:
    """Per prompt: its tokens, on the right of padding; then every first token; then every second one."""
    k, longest = len(on), max(map(len, world.prompts.ids))
    width = longest + k + k * k
    ids = torch.full((len(world.prompts.ids), width), on[0])
    positions = torch.zeros_like(ids)
    sees = torch.eye(width, dtype=torch.bool).repeat(len(ids), 1, 1)  # padding sees itself, and nobody sees it
    for row, prompt in enumerate(world.prompts.ids):
        begin = longest - len(prompt)
        ids[row, begin:] = torch.tensor([*prompt, *on, *(token for _ in on for token in on)])
        positions[row, begin:longest] = torch.arange(len(prompt))
        positions[row, longest : longest + k] = len(prompt)
        positions[row, longest + k :] = len(prompt) + 1
        sees[row, begin:longest, begin:longest] = torch.ones(len(prompt), len(prompt)).tril().bool()
        sees[row, longest:, begin:longest] = True
        for child in range(k):
            first = longest + k + child * k
            sees[row, first : first + k, longest + child] = True
    mask = torch.zeros(len(ids), 1, width, width).masked_fill(~sees[:, None], torch.finfo(torch.float32).min)
    if world.setup.compute.dtype == "bf16":
        mask = mask.bfloat16()  # the precision of the scores that it is added to
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


@dataclass(frozen=True)
class Exact:
    """What sampling estimates, without sampling; means over the prompts.

    Attributes:
        score: expected score, penalties included.
        kl: KL(policy || reference), nats a response.
        score_variance: of a response's score to its prompt.
        kl_variance: of a response's log ratio to the reference, to its prompt.
        objective: J.
        to_optimum: KL(policy || optimum), nats a response.
    """

    score: float
    kl: float
    score_variance: float
    kl_variance: float
    objective: float
    to_optimum: float


@dataclass(frozen=True)
class ClosedForm:
    """The problem and its solution.

    Attributes:
        scores: of all responses, penalties included, [P, N].
        ref_logprobs: [P, N].
        kl_coef: weight of the KL.
    """

    scores: Tensor
    ref_logprobs: Tensor
    kl_coef: float

    @cached_property
    def values(self) -> Tensor:
        """J* of each prompt, [P]."""
        return self.kl_coef * (self.ref_logprobs + self.scores / self.kl_coef).logsumexp(1)

    @cached_property
    def optimum(self) -> Tensor:
        """Log-probabilities of the best policy, [P, N]."""
        return self.ref_logprobs + (self.scores - self.values[:, None]) / self.kl_coef

    def objective(self, logprobs: Tensor) -> Tensor:
        """J of a policy with these log-probabilities [P, N], the mean over the prompts, with gradients."""
        worth = self.scores - self.kl_coef * (logprobs - self.ref_logprobs)
        return (logprobs.exp() * worth).sum(1).mean()

    def share(self, objective: float) -> float:
        """What of it is won: 0 is the reference's J, 1 is J*."""
        start = float(self.objective(self.ref_logprobs))
        return (objective - start) / (float(self.values.mean()) - start)

    def measure(self, logprobs: Tensor) -> Exact:
        """Exact figures of a policy with these log-probabilities, [P, N]."""
        ratios = logprobs - self.ref_logprobs
        score, score_variance = _moments(logprobs, self.scores)
        kl, kl_variance = _moments(logprobs, ratios)
        to_optimum, _ = _moments(logprobs, logprobs - self.optimum)
        return Exact(score, kl, score_variance, kl_variance, score - self.kl_coef * kl, to_optimum)


def _moments(logprobs: Tensor, of: Tensor) -> tuple[float, float]:
    """Mean and variance of something [P, N] under a policy, each to its prompt, then the mean over the prompts."""
    probabilities = logprobs.exp()
    mean = (probabilities * of).sum(1, keepdim=True)
    return float(mean.mean()), float((probabilities * (of - mean).square()).sum(1).mean())


def solve(world: World, tree: Tree, ref_policy: Any, kl_coef: float, temperature: float) -> ClosedForm:
    """The closed form of a world.

    Raises:
        AssertionError: the reference's probabilities do not add up to 1.
    """
    texts = [text.strip() for text in world.tokenizer.batch_decode(tree.responses, skip_special_tokens=True)]
    scores = torch.tensor([[world.score(prompt, text) for text in texts] for prompt in PROMPTS], dtype=torch.float64)
    scores -= MISSING_EOS_PENALTY * torch.tensor([response[-1] != tree.eos for response in tree.responses])
    with torch.no_grad():
        ref_logprobs = tree.logprobs(ref_policy, world.setup.compute, temperature)
    assert torch.allclose(ref_logprobs.exp().sum(1), torch.ones(len(PROMPTS), dtype=torch.float64), atol=1e-9)
    return ClosedForm(scores, ref_logprobs, kl_coef)
