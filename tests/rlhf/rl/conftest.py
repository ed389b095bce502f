"""A PPO run small enough for tests: tiny models, and a reward model that likes EOS at the end."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.config.rl import ROLLOUT_METHODS, RLConfig
from rlhf.rl.stage import train_from_rollouts
from rlhf.workspace import Workspace


def score_the_last_token(model: Any, token: int, size: float) -> None:
    """Make a Llama classifier's score depend on its last token alone: `size` for one token, about 0 for the others."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embedding = model.model.embed_tokens.weight
        normalized = embedding[token] / embedding[token].square().mean().sqrt()
        model.score.weight.copy_(size * normalized / normalized.square().sum())


@pytest.fixture
def like_last_token() -> Callable[[Path, int, float], None]:
    """Rewrites a saved reward model by `score_the_last_token`."""
    from transformers import AutoModelForSequenceClassification

    def rewrite(folder: Path, token: int, size: float) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        score_the_last_token(model, token, size)
        model.save_pretrained(folder)

    return rewrite


@dataclass
class TinyRun:
    """Calls the PPO stage and keeps what it logged."""

    setup: Any
    data: Path
    start: Path
    reward_models: Path
    folder: Path
    logged: list[tuple[dict[str, float], int | None]] = field(default_factory=list)
    interrupt_at: int | None = None

    def __call__(self, method: str = "ppo", **settings: Any) -> Path:
        defaults = {"num_updates": 4, "rollout_size": 16, "num_minibatches": 2, "max_response_tokens": 8}
        defaults |= {"evaluate_every": 2, "checkpoint_every": 1, "num_critic_warmup_updates": 1, "kl_budget": 1e6}
        config = RLConfig(**(defaults | settings))
        for part in ("output", "report", "checkpoints"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        workspace = Workspace(
            self.folder / "output", self.folder / "report", self.folder / "checkpoints", self._log_metrics
        )
        train_from_rollouts(method, config, self.setup, self.data, self.start, self.reward_models, workspace)
        return self.folder / "output"

    def curve(self, name: str) -> dict[int, float]:
        return {step: metrics[name] for metrics, step in self.logged if step is not None and name in metrics}

    def evaluations(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "output" / "evaluations.jsonl").read_text().splitlines()]

    def _log_metrics(self, metrics: Any, step: int | None) -> None:
        self.logged.append((dict(metrics), step))
        if step is not None and step == self.interrupt_at and "policy/score_mean" in metrics:
            raise KeyboardInterrupt


@pytest.fixture
def tiny_run(
    tmp_path: Path,
    tiny_setup: Any,
    tiny_policy: Any,
    tiny_tokenizer: Any,
    arithmetic_data: Path,
    save_reward_model: Callable[..., Path],
    like_last_token: Callable[[Path, int, float], None],
) -> Callable[..., TinyRun]:
    from rlhf.modeling.models import save_model

    save_model(tiny_policy, tiny_tokenizer, tmp_path / "sft" / "policy")
    for name, seed in (("reward_model", 1), ("selection_reward_model", 2)):
        like_last_token(save_reward_model(name, seed), tiny_tokenizer.eos_token_id, 2.0)

    def make(name: str = "policy") -> TinyRun:
        return TinyRun(tiny_setup, arithmetic_data, tmp_path / "sft", tmp_path / "reward_models", tmp_path / name)

    return make


@pytest.fixture
def make_learner(tiny_run: Callable[..., TinyRun]) -> Callable[..., Any]:
    """Makes the context of updates of the tiny models, on prompts given as token ids; settings change `config`."""
    from rlhf.modeling.context import start_stage
    from rlhf.policy.context import Prompts
    from rlhf.rl.context import make_context
    from rlhf.rl.models import load_models

    run = tiny_run("learner")

    def make(config: RLConfig, ids: list[list[int]] | None = None, method: str = "ppo", **settings: Any) -> Any:
        config = RLConfig.model_validate(config.model_dump() | settings)
        stage = start_stage(config, run.setup, run.start / "policy")
        ids = ids or [[6], [6, 7]]
        conversations = [[{"role": "user", "content": " ".join(map(str, row))}] for row in ids]
        models = load_models(stage, run.start, run.reward_models, has_critic=ROLLOUT_METHODS[method].has_critic)
        return make_context(stage, models, Prompts(conversations, ids), method=method)

    return make


@pytest.fixture
def spoil_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second policy that is loaded is the reference, and is another than the SFT policy."""
    from rlhf.policy import models

    load, calls = models.load_policy, []

    def load_and_spoil_the_second(folder: Path, compute: Any) -> Any:
        model = load(folder, compute)
        calls.append(model)
        if len(calls) == 2:
            with torch.no_grad():
                model.lm_head.weight.mul_(1.5)
        return model

    monkeypatch.setattr(models, "load_policy", load_and_spoil_the_second)
