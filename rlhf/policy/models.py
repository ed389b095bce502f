"""The policy and the frozen models beside it, each with weights of its own."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.distributed.device_mesh import DeviceMesh

from rlhf.config.model import ComputeConfig
from rlhf.config.policy import PolicyConfig
from rlhf.modeling.context import StageContext
from rlhf.modeling.lora import add_adapters, add_products, leave_inputs, merged
from rlhf.modeling.models import freeze, load_policy, load_reward_model
from rlhf.policy.context import PolicyModels
from rlhf.policy.sharding import shard
from rlhf.rewards.sources import load_sources


def load_policy_models(
    context: StageContext[PolicyConfig], start: Path, reward_models: Path, mesh: DeviceMesh | None = None
) -> PolicyModels:
    """Load the policy, with adapters where `config.lora` asks for them, its reference and the reward models.

    Args:
        context: of the stage.
        start: holds `policy/`, the SFT policy.
        reward_models: holds `reward_model/` and `selection_reward_model/`.
        mesh: over which the models are sharded.

    Raises:
        ModelError: a model cannot be loaded, or not be sharded.
        ConfigError: a reward source is not there.
    """
    config, compute = context.config, context.compute
    policy = load_policy(start / "policy", compute)
    if config.lora is not None:
        torch.manual_seed(context.seed("adapters"))
        policy = add_adapters(policy, config.lora, "CAUSAL_LM")
        leave_inputs(policy)

    shard(policy, mesh)
    ref_policy = shard(freeze(load_policy(start / "policy", compute), compute), mesh)

    def load(name: str) -> Any:
        return freeze(load_reward_model(reward_models / name, compute), compute)

    sources, selection_reward_model = load_sources(context, load), load("selection_reward_model")
    for reward_model in (*(source.model for source in sources), selection_reward_model):
        if reward_model is not None:
            shard(reward_model.base_model, mesh)  # which is what scoring calls, and the head
    export = merged if mesh is None else partial(_plain_copy, folder=start / "policy", compute=compute)
    return PolicyModels(
        policy=policy,
        ref_policy=ref_policy,
        sources=sources,
        selection_reward_model=selection_reward_model,
        export_policy=lambda: export(policy),
    )


@torch.no_grad()
def _plain_copy(policy: Any, folder: Path, compute: ComputeConfig) -> Any:
    """A copy, on the CPU, of a policy that is whole for now; it was loaded from `folder`, and may have adapters."""
    plain = load_policy(folder, compute.model_copy(update={"device": "cpu"}))
    if isinstance(policy, PeftModel):
        return add_products(plain, policy.get_base_model(), "default")
    for name, parameter in plain.named_parameters():
        parameter.copy_(policy.get_parameter(name))
    return plain
