"""The policy and the frozen models beside it, each with weights of its own."""

from pathlib import Path
from typing import Any

import torch

from rlhf.config.policy import PolicyConfig
from rlhf.modeling.context import StageContext
from rlhf.modeling.lora import add_adapters, leave_inputs, merged
from rlhf.modeling.models import freeze, load_policy, load_reward_model
from rlhf.policy.context import PolicyModels
from rlhf.rewards.sources import load_sources


def load_policy_models(context: StageContext[PolicyConfig], start: Path, reward_models: Path) -> PolicyModels:
    """Load the policy, with adapters where `config.lora` asks for them, its reference and the reward models.

    Args:
        context: of the stage.
        start: holds `policy/`, the SFT policy.
        reward_models: holds `reward_model/` and `selection_reward_model/`.

    Raises:
        ModelError: a model cannot be loaded.
        ConfigError: a reward source is not there.
    """
    config, compute = context.config, context.compute
    policy = load_policy(start / "policy", compute)
    if config.lora is not None:
        torch.manual_seed(context.seed("adapters"))
        policy = add_adapters(policy, config.lora, "CAUSAL_LM")
        leave_inputs(policy)

    def load(name: str) -> Any:
        return freeze(load_reward_model(reward_models / name, compute), compute)

    return PolicyModels(
        policy=policy,
        ref_policy=freeze(load_policy(start / "policy", compute), compute),
        sources=load_sources(context, load),
        selection_reward_model=load("selection_reward_model"),
        export_policy=lambda: merged(policy),
    )
