"""Runs of the optimum benchmark: each method by the project's own parts, and exact gradient ascent beside it."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.closed_form import (
    MISSING_EOS_PENALTY,
    NUM_TOKENS,
    ClosedForm,
    Tree,
    World,
    grow_tree,
    make_world,
    solve,
)
from benchmarks.optimum_faults import FAULTS
from rlhf.config.model import ComputeConfig, LoraConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.errors import StartError
from rlhf.modeling.context import StageContext
from rlhf.modeling.device import configure
from rlhf.modeling.models import freeze, load_policy
from rlhf.rewards.sources import Source
from rlhf.rl.adapters import Role, add_zero_value_model, load_backbone, merged_policy
from rlhf.rl.context import ADAM_EPS, RLContext, make_context
from rlhf.rl.models import Models
from rlhf.rl.update import run_update
from rlhf.rl.value_model import TrunkValueHead, ValueModel

KL_COEF = 0.5
GROUP_SIZE = 4
"""Responses to a prompt, of methods that compare them."""
CURVE_STEP = 5
"""Updates between the points of a curve that are kept."""
TUNING_SEEDS = (0, 100, 101)
"""By which rates, budget and world were chosen; those that are reported begin at 1."""
LORA = LoraConfig(rank=16, alpha=32.0)
LEARNING_RATES = {"none": 1e-3, "trunk": 1e-3, "adapters": 2e-3}
VALUE_LEARNING_RATE, VALUE_CLIP_RANGE = 2e-3, 0.2
_SOURCE = RewardSourceConfig(kind="function", name="table")


@dataclass(frozen=True)
class Budget:
    """How long a run is.

    Attributes:
        num_updates: rollouts, each followed by two passes over it in four minibatches.
        rollout_size: episodes.
    """

    num_updates: int
    rollout_size: int


FULL = Budget(num_updates=150, rollout_size=512)


@dataclass(frozen=True)
class Case:
    """One way to run a method.

    Attributes:
        dtype: `fp32` or `bf16`.
        sharing: `none`, `trunk` or `adapters`.
        temperature: of sampling and of every log-probability.
        fault: name of a planted fault; empty for none.
        method: of `rlhf.config.rl.ROLLOUT_METHODS`.
        kl_in: `reward` or `loss`; empty: the method has no say.
    """

    dtype: str
    sharing: str
    temperature: float
    fault: str = ""
    method: str = "ppo"
    kl_in: str = "reward"

    @property
    def name(self) -> str:
        """As it is reported."""
        name = f"{self.dtype}-{self.sharing}-T{self.temperature:g}"
        if self.method != "ppo":
            name = self.method + (f"-kl-in-{self.kl_in}" if self.kl_in else "")
        return f"{name}-{self.fault}" if self.fault else name

    @property
    def ascent(self) -> "Case":
        """The exact ascent beside it: in fp32, on the policy's weights, to which a trunk's value head adds none."""
        return Case("fp32", "adapters" if self.sharing == "adapters" else "none", self.temperature)


@dataclass(frozen=True)
class Surprise:
    """How far logged means lie from the exact expectations, in standard errors of a rollout's mean.

    Attributes:
        num: updates that were looked at.
        mean: of the z-scores; where the logged figure is unbiased, 0 within 1 / sqrt(num).
        beyond: how many are beyond 2 on either side; where it is unbiased, about 4.6% of `num`.
    """

    num: int
    mean: float
    beyond: int


@dataclass(frozen=True)
class Ended:
    """What a run came to.

    Attributes:
        share: of what can be won.
        kl_to_optimum: KL(policy || optimum) at the start and at the end, nats a response.
        curve: the share before the first update, and after every one.
        seconds: of processor time, exact evaluations left out.
        score: of the logged `policy/score_mean`.
        kl: of the logged `policy/kl_mean`, from the first update on at which the policy has moved.
        refused: the alarm that refused to start the run.
    """

    share: float | None
    kl_to_optimum: tuple[float, float] | None
    curve: tuple[float, ...]
    seconds: float
    score: Surprise | None = None
    kl: Surprise | None = None
    refused: str = ""


def config_of(case: Case, budget: Budget = FULL) -> RLConfig:
    """The method's settings."""
    of_critic = {
        "value_learning_rate": VALUE_LEARNING_RATE,
        # Only a critic that knows something before the policy moves shows what a wrong one does.
        "num_critic_warmup_updates": min(10, budget.num_updates // 5),
        "value_clip_range": VALUE_CLIP_RANGE,
    }
    of_groups: dict[str, object] = {"num_responses_per_prompt": GROUP_SIZE, "kl_in": case.kl_in or None}
    if ROLLOUT_METHODS[case.method].kl_in is None:
        of_groups["beta"] = KL_COEF
    return RLConfig.model_validate(
        (of_critic if ROLLOUT_METHODS[case.method].has_critic else of_groups)
        | {
            "num_updates": budget.num_updates,
            "rollout_size": budget.rollout_size,
            "num_ppo_epochs": 2,
            "num_minibatches": 4,
            "learning_rate": LEARNING_RATES[case.sharing],
            "kl_coef": KL_COEF,
            "max_response_tokens": NUM_TOKENS,
            "missing_eos_penalty": MISSING_EOS_PENALTY,
            "temperature": case.temperature,
            "rewards": [_SOURCE],
            "sharing": case.sharing,
            "lora": LORA if case.sharing == "adapters" else None,
        }
    )


def num_policy_steps(config: RLConfig) -> int:
    """Optimizer steps that the policy takes by PPO."""
    return (config.num_updates - config.num_critic_warmup_updates) * config.num_ppo_epochs * config.num_minibatches


def load(world: World, config: RLConfig, *, has_critic: bool = True) -> Models:
    """Policy, reference and value model, sharing what `config` says; the score is the world's own rule."""
    setup, folder = world.setup, world.folder
    policy: Any
    value_model: ValueModel | TrunkValueHead | None
    if config.sharing == "adapters":
        assert config.lora is not None, "the configuration asks for it"
        backbone = load_backbone(folder, config.lora, setup)
        policy, ref_policy = Role(backbone, "policy", backbone.causal_lm), Role(backbone, None, backbone.causal_lm)
        value_model = add_zero_value_model(backbone, config.lora, setup)
        of_policy = backbone.parameters_of("policy")
        of_value = backbone.parameters_of("value") | {f"head.{n}": p for n, p in value_model.head.named_parameters()}
        export: Callable[[], Any] = lambda: merged_policy(backbone, folder, setup)  # noqa: E731
    else:
        policy, ref_policy = (
            load_policy(folder, setup.compute),
            freeze(load_policy(folder, setup.compute), setup.compute),
        )
        if not has_critic:
            value_model = None
        elif config.sharing == "trunk":
            value_model = TrunkValueHead(policy)
        else:
            value_model = ValueModel(load_policy(folder, setup.compute).base_model, policy.config.hidden_size)
        of_policy = dict(policy.named_parameters())
        of_value = {} if value_model is None else dict(value_model.named_parameters())
        export = lambda: policy  # noqa: E731
    sources = (Source(_SOURCE, function=world.reward_function),)
    return Models(
        policy=policy,
        ref_policy=ref_policy,
        sources=sources,
        selection_reward_model=None,
        export_policy=export,
        value_model=value_model,
        policy_parameters=of_policy,
        value_parameters=of_value,
    )


def run_method(case: Case, seed: int, budget: Budget = FULL) -> Ended:
    """A method from one seed, against the closed form of that seed's world."""
    with _world(seed, case.dtype) as world, FAULTS[case.fault]():
        config = config_of(case, budget)
        models = load(world, config, has_critic=ROLLOUT_METHODS[case.method].has_critic)
        stage = StageContext(config, world.setup, world.tokenizer)
        learner = make_context(stage, models, world.prompts, method=case.method)
        tree = grow_tree(world)
        closed = solve(world, tree, learner.models.ref_policy, config.kl_coef, config.temperature)
        try:
            return _climb(learner, tree, closed)
        except StartError as error:
            return Ended(None, None, (), 0.0, refused=error.alarm)


def _climb(learner: RLContext, tree: Tree, closed: ClosedForm) -> Ended:
    config, compute = learner.config, learner.compute
    policy, seconds = learner.models.policy, 0.0
    found, z_scores, z_kls = [], [], []
    for update in range(config.num_updates):
        found.append(closed.measure(_logprobs(tree, policy, compute, config.temperature)))
        begun = time.process_time()
        metrics = run_update(learner, update, config.kl_coef).metrics
        seconds += time.process_time() - begun
        exact = found[-1]
        z_scores.append(_z(metrics["policy/score_mean"], exact.score, exact.score_variance, config.rollout_size))
        if update > config.num_critic_warmup_updates:
            z_kls.append(_z(metrics["policy/kl_mean"], exact.kl, exact.kl_variance, config.rollout_size))
    found.append(closed.measure(_logprobs(tree, policy, compute, config.temperature)))
    curve = tuple(closed.share(exact.objective) for exact in found)
    kls = (found[0].to_optimum, found[-1].to_optimum)
    return Ended(curve[-1], kls, curve, seconds, _surprise(z_scores), _surprise(z_kls))


def ascend(case: Case, seed: int, budget: Budget = FULL) -> Ended:
    """Exact gradient ascent on J: PPO's optimizer, learning rate, schedule and number of steps; no sample anywhere."""
    with _world(seed, case.dtype) as world:
        config = config_of(case, budget)
        models, tree = load(world, config), grow_tree(world)
        closed = solve(world, tree, models.ref_policy, config.kl_coef, config.temperature)
        parameters = list(models.policy_parameters.values())
        optimizer = torch.optim.AdamW(parameters, config.learning_rate, eps=ADAM_EPS, weight_decay=0.0)
        num_steps = num_policy_steps(config)
        curve, begun = [], time.process_time()
        start = closed.measure(_logprobs(tree, models.policy, world.setup.compute, config.temperature))
        for step in range(num_steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1.0 - step / num_steps)
            objective = closed.objective(tree.logprobs(models.policy, world.setup.compute, config.temperature))
            (-objective).backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            if step % (config.num_ppo_epochs * config.num_minibatches) == 0:
                curve.append(closed.share(float(objective.detach())))
        seconds = time.process_time() - begun
        end = closed.measure(_logprobs(tree, models.policy, world.setup.compute, config.temperature))
    share = closed.share(end.objective)
    return Ended(share, (start.to_optimum, end.to_optimum), (*curve, share), seconds)


@torch.no_grad()
def _logprobs(tree: Tree, policy: Any, compute: ComputeConfig, temperature: float) -> Tensor:
    return tree.logprobs(policy, compute, temperature)


@contextmanager
def _world(seed: int, dtype: str) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="bench_optimum_") as folder:
        world = make_world(seed, dtype, Path(folder))
        configure(world.setup.compute)
        yield world


def _z(logged: float, exact: float, variance: float, num_rows: int) -> float:
    """Every prompt stands in a rollout equally often, so the variance within prompts is all there is."""
    return (logged - exact) / math.sqrt(variance / num_rows)


def _surprise(z_scores: Sequence[float]) -> Surprise:
    beyond = sum(abs(z) > 2.0 for z in z_scores)
    return Surprise(len(z_scores), sum(z_scores) / max(1, len(z_scores)), beyond)
