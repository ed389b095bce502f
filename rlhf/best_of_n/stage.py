"""Best-of-n as a stage: sample, rank, and fine-tune the SFT policy on the best responses."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rlhf.best_of_n.samples import BestOf, Context, collect_samples, gain_by_number, read_best, write_best
from rlhf.config.best_of_n import BestOfNConfig
from rlhf.config.model import Setup
from rlhf.modeling.batches import pad_sequences
from rlhf.modeling.context import start_stage
from rlhf.modeling.models import freeze, load_policy
from rlhf.policy.context import PolicyContext
from rlhf.policy.models import load_policy_models
from rlhf.policy.prompts import training_prompts
from rlhf.supervised.offline import Objective, batch_logprobs, train_offline
from rlhf.text.markdown import table
from rlhf.workspace import Workspace

Pair = tuple[Sequence[int], list[int]]
"""Token ids of a prompt and of the best response to it."""


def train_on_best_of_n(
    method: str,
    config: BestOfNConfig,
    setup: Setup,
    data: Path,
    start: Path,
    reward_models: Path,
    workspace: Workspace,
    earlier: Sequence[Path] = (),
) -> None:
    """Sample responses to training prompts, and fine-tune a policy on the best one to each.

    The chosen policy, the evaluations and their generations, and the best responses (`best.jsonl`) are left in
    `workspace.output`, and the gain by n in `workspace.report`.

    Args:
        method: `best_of_n`.
        config: its settings.
        setup: seed, model and compute.
        data: the data stage's output.
        start: holds `policy/`, which is fine-tuned and is also the reference: the SFT stage's output, or a round's.
        reward_models: the reward stage's output.
        workspace: a run that was killed goes on from `workspace.checkpoints`.
        earlier: outputs of the rounds before. The last one's policy samples, and the best responses of all of them are
            learned with the new ones.

    Raises:
        ConfigError: a reward source that is not there.
        DataError: there are no prompts.
        ModelError: a model cannot be loaded.
        TrainingDivergedError: a loss, a logit or a weight that is not finite.
        ScoringError: a source failed, or its scores are not one finite number for each response.
        CheckpointError: something cannot be written.
        DiskSpaceError: there is no room for the checkpoints.

    Source:
        Rejection sampling: Llama 2, 2307.09288, 3.2.3.
    """
    assert method == "best_of_n", method
    stage = start_stage(config, setup, start / "policy")
    # Rounds draw anew, where the same noise would draw the same responses again.
    purpose = ("best_of_n", len(earlier)) if earlier else ("best_of_n",)
    prompts = training_prompts(data, stage.tokenizer)
    if config.num_prompts is not None:
        shuffled = np.random.default_rng(stage.seed(*purpose, "prompts")).permutation(len(prompts.ids))
        prompts = prompts.pick(sorted(shuffled[: config.num_prompts].tolist()))
    models = load_policy_models(stage, start, reward_models)
    context = PolicyContext(config, setup, stage.tokenizer, models, prompts)
    samples = collect_samples(_sampling(context, earlier), workspace.checkpoints, stage.seed(*purpose))
    _report(gain_by_number(samples.scores), workspace)
    best = samples.best()
    write_best(workspace.output, prompts, best, stage.tokenizer)
    rows = [*read_best(earlier, stage.tokenizer), *zip(prompts.ids, best, strict=True)]
    lengths = [len(prompt) + len(response) for prompt, response in rows]
    objective = Objective(lambda model, rows: _loss(context, model, rows), _num_tokens)
    train_offline(context, config.alarms, data, rows, lengths, objective, workspace)


def _sampling(context: Context, earlier: Sequence[Path]) -> Context:
    """The context whose policy samples: that of the round before, where there is one."""
    if not earlier:
        return context
    policy = freeze(load_policy(earlier[-1] / "policy", context.compute), context.compute)
    return replace(context, models=replace(context.models, policy=policy))


def _loss(context: Context, model: Any, rows: Sequence[Pair]) -> Tensor:
    """Negative log-likelihood of the responses' tokens, nats, summed."""
    prompts, responses = [prompt for prompt, _ in rows], [response for _, response in rows]
    batch = pad_sequences(prompts, responses, context.tokenizer.pad_token_id, context.compute.device)
    return -batch_logprobs(context, model, batch).sum()


def _num_tokens(rows: Sequence[Pair]) -> int:
    return sum(len(response) for _, response in rows)


def _report(gains: Sequence[BestOf], workspace: Workspace) -> None:
    """The gain by n as curves, with n as the step, and as a table."""
    for gain in gains:
        curves = {"policy/best_of_n_score": gain.best, "policy/best_of_n_median": gain.median}
        workspace.log_metrics(curves, gain.num_samples)
    workspace.log_metrics({"policy/best_of_n_kl_bound": gains[-1].kl_bound}, None)
    rows = [[str(g.num_samples), f"{g.best:.3f}", f"{g.median:.3f}", f"{g.kl_bound:.3f}"] for g in gains]
    header = [
        "Responses to a prompt (n)",
        "Best score",
        "Median score",
        "Largest KL of the best of n (nats)",
    ]
    (workspace.report / "best_of_n.md").write_text(table(header, rows) + "\n", encoding="utf-8")
