"""Seconds of a stage, from its settings, the model's shape and the data.

A forward pass takes two floating-point operations for each weight and token, a backward pass twice as many (Kaplan et
al., 2001.08361, section 2.1); a step of AdamW reads and writes all that it knows of a weight; each call of a block
takes a while however little it computes. Constants are of the machine of docs/memory-and-time.md, and
`python -m benchmarks.plan` holds them against runs. What matters more is the ratio of two such figures: an earlier run
on the same machine says how long something took, and the model how much more or less another recipe asks for.
"""

import math
from collections.abc import Callable, Mapping

from rlhf.config.model import ComputeConfig
from rlhf.config.offline import OfflineConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import PolicyConfig
from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.config.supervised import TrainingSection
from rlhf.evaluation.learning_curve import SHARES
from rlhf.planning.memory import kept_bytes, rows_of_one
from rlhf.planning.shape import ModelShape, Workload

FLOPS = {"cpu": {"bf16": 2.5e11, "fp32": 1.2e11}, "cuda": {"bf16": 1e14, "fp32": 3e13}}
"""Of a thread of a CPU, and of a device, in large products; a guess for CUDA, where nothing was measured."""
_BYTES = {"cpu": 8e9, "cuda": 2e12}
"""Memory that is read or written in a second."""
_CALL = {"cpu": 0.7e-3, "cuda": 0.3e-3}
"""Seconds of a call of a block; with its backward pass three times as many."""
_STEP = 5e-3
"""Seconds of a step of sampling or training beside its blocks."""
_MOVED = {"forward": 1.3, "training": 4.0}
"""How often a pass moves what it would keep for the backward pass, which for small models takes most of its time."""
_OPTIMIZER_BYTES = 28
"""Of a weight, read and written in a step of AdamW."""
_STAGE = {"data": 1.5, "sft": 3.0, "reward_model": 1.0, "reward_audit": 1.5, "policy": 1.0, "evaluation": 0.5}
"""Seconds of a stage that computes nothing: imports, loading, saving, logging."""
_DATA_ROW = 1.2e-4
_CHANGES, _TRIED_WORDS = 10, 1600
"""Dialogues that the audit scores for each pair that it changes, and for the words that it tries, by each model."""
_SAMPLES_PER_PROMPT, _SAMPLED_PROMPTS = 9, 32
"""Of the data stage where the base writes the responses (`rlhf.data.sampling`)."""


def duration(config: PipelineConfig, shape: ModelShape, work: Workload) -> dict[str, float]:
    """Seconds of each stage.

    Args:
        config: the recipe.
        shape: of the model that it starts from.
        work: its data.
    """
    machine = _Machine(config.compute, shape, work)
    stages: Mapping[str, Callable[[PipelineConfig, _Machine], float]] = {
        "data": _data,
        "sft": lambda config, machine: _training(config.sft, machine.work.demonstrations, 1, machine),
        "reward_model": _reward_models,
        "reward_audit": _audit,
        "policy": lambda config, machine: sum(_policy(recipe, machine) for recipe in config.per_round),
        "evaluation": _evaluation,
    }
    return {stage: _STAGE[stage] + seconds(config, machine) for stage, seconds in stages.items()}


def seconds_per_update(config: PipelineConfig, shape: ModelShape, work: Workload) -> float:
    """Of one update, without evaluations."""
    assert config.rl is not None, "the others have no updates"
    return _update(config, config.rl, _Machine(config.compute, shape, work))


class _Machine:
    """Seconds of passes over one model."""

    def __init__(self, compute: ComputeConfig, shape: ModelShape, work: Workload, processes: int = 1) -> None:
        self.shape, self.work, self.device = shape, work, compute.device
        units = compute.num_threads if compute.device == "cpu" else 1
        self.rate = FLOPS[compute.device][compute.dtype] * units * processes
        self.processes = processes
        self.weight_bytes = 2 if compute.dtype == "bf16" else 4
        self.kept = kept_bytes(shape, work.longest, compute)

    def forward(self, rows: float, batch: int, head_tokens: float) -> float:
        """A forward pass over whole rows, a batch at a time; logits of some of a row's tokens."""
        calls = math.ceil(rows / self.processes / batch) * self.shape.num_layers
        return self._flops(rows, head_tokens) / self.rate + self._moving(rows, "forward") + calls * _CALL[self.device]

    def training(self, rows: float, batch: int, head_tokens: float, steps: float, learned: int) -> float:
        """Forward and backward passes, and the optimizer's steps."""
        passes = math.ceil(rows / self.processes / batch)
        fixed = passes * (3 * self.shape.num_layers * _CALL[self.device] + _STEP)
        moved = steps * learned * _OPTIMIZER_BYTES / _BYTES[self.device]
        return 3 * self._flops(rows, head_tokens) / self.rate + self._moving(rows, "training") + fixed + moved

    def generation(self, rows: float, batch: int, longest: float) -> float:
        """Reading prompts, and decoding a token at a time until the last row ends."""
        shape, work = self.shape, self.work
        batches = math.ceil(rows / self.processes / batch)
        response = min(work.response_tokens, longest)
        decoding = 2 * rows * response * (shape.products + shape.head) / self.rate
        context = work.prompt_tokens + response / 2
        read = batches * longest * self.weight_bytes * (shape.products + shape.head)
        read += rows * response * context * shape.num_layers * 2 * shape.key_value_size * self.weight_bytes
        fixed = batches * longest * (shape.num_layers * _CALL[self.device] + _STEP)
        reading = 2 * rows * work.prompt_tokens * shape.products / self.rate
        moving = self._moving(rows, "forward")
        return reading + decoding + moving + read / _BYTES[self.device] + fixed

    def _moving(self, rows: float, kind: str) -> float:
        tokens = self.work.prompt_tokens + self.work.response_tokens
        return _MOVED[kind] * rows * tokens * self.kept / _BYTES[self.device] / self.processes

    def _flops(self, rows: float, head_tokens: float) -> float:
        shape, tokens = self.shape, self.work.prompt_tokens + self.work.response_tokens
        attention = 2 * shape.num_layers * shape.hidden_size * tokens * tokens
        return rows * (2 * shape.products * tokens + attention + 2 * shape.head * head_tokens)


def _data(config: PipelineConfig, machine: _Machine) -> float:
    work = machine.work
    seconds = _DATA_ROW * work.rows
    if config.data.sampled_from is not None:
        batch = _SAMPLES_PER_PROMPT * _SAMPLED_PROMPTS
        seconds += machine.generation(_SAMPLES_PER_PROMPT * work.rows, batch, config.max_response_tokens)
    return seconds


def _training(section: TrainingSection, num_rows: int, rows_of_one: int, machine: _Machine) -> float:
    rows = section.num_epochs * num_rows
    batch = rows_of_one * (section.micro_batch_size or section.batch_size)
    head = machine.work.prompt_tokens + machine.work.response_tokens if rows_of_one == 1 else 0
    learned = machine.shape.parameters if section.lora is None else machine.shape.adapters(section.lora.rank)
    steps = math.ceil(rows / section.batch_size)
    return machine.training(rows * rows_of_one, batch, head, steps, learned)


def _audit(config: PipelineConfig, machine: _Machine) -> float:
    pairs, audit = machine.work.test_preferences, config.reward_audit
    changed = min(pairs, audit.num_perturbed)
    rows = 2 * pairs + _CHANGES * changed + (_TRIED_WORDS if changed else 0)
    seconds = machine.forward(2 * rows, audit.batch_size, 0)
    return seconds + _learning_curve(config, machine) if audit.learning_curve else seconds


def _learning_curve(config: PipelineConfig, machine: _Machine) -> float:
    """Training on parts of the pairs, and scoring by the models of all points."""
    work, model = machine.work, config.reward_model
    pairs = work.preferences // (model.num_members if model.members_learn_from == "parts" else 1)
    trained = sum(_training(model, math.ceil(share * pairs), 2, machine) for share in SHARES[:-1])
    rows = 2 * work.test_preferences * len(SHARES)
    return trained + machine.forward(rows, config.reward_audit.batch_size, 0)


def _reward_models(config: PipelineConfig, machine: _Machine) -> float:
    pairs = (machine.work.preferences, machine.work.selection_preferences)
    return sum(_training(config.reward_model, number, 2, machine) for number in pairs)


def _policy(config: PipelineConfig, machine: _Machine) -> float:
    if config.rl is not None:
        return _rollouts(config, config.rl, machine)
    section, work = config.policy, machine.work
    assert isinstance(section, OfflineConfig), "the other sections' settings"
    rows, seconds = work.preferences, 0.0
    if config.best_of_n is not None:
        rows = min(config.best_of_n.num_prompts or work.prompts, work.prompts)
        sampled = rows * config.best_of_n.num_samples
        seconds += machine.generation(sampled, section.rows_per_pass, section.max_response_tokens)
        seconds += machine.forward(sampled, section.rows_per_pass, 0)
    seconds += _training(section, rows, rows_of_one(config), machine)
    if rows_of_one(config) == 2:
        seconds += machine.forward(2 * section.num_epochs * rows, section.rows_per_pass, work.response_tokens)
    steps = math.ceil(section.num_epochs * rows / section.batch_size)
    evaluations = 1 + math.ceil(steps / section.evaluate_every)
    return seconds + evaluations * _held_out(section, section.rows_per_pass, machine)


def _rollouts(config: PipelineConfig, rl: RLConfig, machine: _Machine) -> float:
    compute = config.compute
    machine = _Machine(compute, machine.shape, machine.work, compute.num_processes)
    batch = rl.micro_batch_size or rl.minibatch_size // compute.num_processes
    num_evaluations = 1 + math.ceil(rl.num_updates / rl.evaluate_every)
    return rl.num_updates * _update(config, rl, machine) + num_evaluations * _held_out(rl, batch, machine)


def _held_out(section: PolicyConfig, batch: int, machine: _Machine) -> float:
    """One held-out evaluation."""
    rows = min(section.num_validation_prompts, machine.work.validation_prompts)
    sampling = machine.generation(rows, rows, section.max_response_tokens)
    scoring = 2 * machine.forward(rows, batch, machine.work.response_tokens) + 2 * machine.forward(rows, batch, 0)
    return sampling + scoring


def _update(config: PipelineConfig, rl: RLConfig, machine: _Machine) -> float:
    shape, response = machine.shape, machine.work.response_tokens
    batch = rl.micro_batch_size or rl.minibatch_size // machine.processes
    rows = rl.rollout_size
    learned = shape.parameters if rl.lora is None else shape.adapters(rl.lora.rank)
    steps = rl.num_ppo_epochs * rl.num_minibatches
    trained = steps * rl.minibatch_size
    num_sources = sum(source.kind != "function" for source in rl.rewards)
    sampling = machine.generation(rows, rows, rl.max_response_tokens)
    scoring = 2 * machine.forward(rows, batch, response) + num_sources * machine.forward(rows, batch, 0)
    training = machine.training(trained, batch, response, steps, learned)
    if ROLLOUT_METHODS[config.method].has_critic and rl.sharing != "trunk":
        of_value = shape.parameters if rl.sharing == "none" else learned
        scoring += machine.forward(rows, batch, 0)
        training += machine.training(trained, batch, 0, steps, of_value)
    if rl.ptx_coef:
        training += machine.training(steps * (rl.ptx_batch_size or rl.minibatch_size), batch, response, 0, 0)
    return sampling + scoring + training


def _evaluation(config: PipelineConfig, machine: _Machine) -> float:
    settings, work = config.evaluation, machine.work
    rows = min(settings.num_prompts, work.test_prompts)
    sampling = machine.generation(rows, settings.batch_size, config.policy.max_response_tokens)
    scoring = machine.forward(rows, settings.batch_size, work.response_tokens)
    seconds = 2 * sampling + 2 * scoring + 4 * machine.forward(rows, settings.batch_size, 0)
    ranked = settings.best_of_n * min(config.policy.num_validation_prompts, work.validation_prompts)
    if ranked:
        seconds += machine.generation(ranked, settings.batch_size, config.policy.max_response_tokens)
        seconds += machine.forward(2 * ranked, settings.batch_size, 0)
    return seconds
