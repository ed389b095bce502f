"""The models of a run, by how much of them is shared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from rlhf.config.model import ComputeConfig
from rlhf.config.rl import RLConfig
from rlhf.config.supervised import member_name
from rlhf.modeling.context import StageContext
from rlhf.modeling.cpu.memory import trim_heap
from rlhf.modeling.models import load_policy, load_reward_model
from rlhf.policy.context import PolicyModels
from rlhf.policy.models import load_policy_models
from rlhf.policy.sharding import make_mesh, shard, shard_parts, shard_unit
from rlhf.rewards.sources import Source, load_sources
from rlhf.rl.adapters import Role, add_reward_model, add_value_model, add_zero_value_model, load_backbone, merged_policy
from rlhf.rl.value_model import TrunkValueHead, ValueModel, output_size, start_value_model

Parameters = dict[str, nn.Parameter]


@dataclass(frozen=True, kw_only=True)
class Models(PolicyModels):
    """The models of a run. Policy and value model learn, the others are frozen.

    Attributes:
        value_model: with a backbone of its own, or a head on the policy's; None where the method has no critic.
        policy_parameters: what of the policy learns, by name.
        value_parameters: what of the value model learns, by name; empty without one.
    """

    value_model: ValueModel | TrunkValueHead | None
    policy_parameters: Parameters
    value_parameters: Parameters


def load_models(
    context: StageContext[RLConfig], start: Path, reward_models: Path, *, has_critic: bool = True
) -> Models:
    """Load policy, reference, value model and reward models, and share what `config.sharing` says.

    With `compute.sharding` each process keeps its part of them.

    Args:
        context: of the stage.
        start: holds `policy/`, the SFT policy.
        reward_models: holds `reward_model/` and `selection_reward_model/`.
        has_critic: whether there is a value model.

    Raises:
        ModelError: a model cannot be loaded, or cannot be shared or sharded.
        ConfigError: a reward source is not there, or processes do not lie as `compute.sharding` wants them.
    """
    load = _load_adapters if context.config.sharing == "adapters" else _load_apart
    models = load(context, start, reward_models, make_mesh(context.compute), has_critic=has_critic)
    trim_heap()
    return models


def _load_apart(
    context: StageContext[RLConfig], start: Path, reward_models: Path, mesh: DeviceMesh | None, *, has_critic: bool
) -> Models:
    config, compute = context.config, context.compute
    models = load_policy_models(context, start, reward_models, mesh)
    value_model: ValueModel | TrunkValueHead | None
    if not has_critic:
        value_model = None
    elif config.sharing == "trunk":
        value_model = shard_unit(TrunkValueHead(models.policy).to(compute.device), mesh)
    else:
        like_policy = next((source for source in models.sources if _is_like(source, models.ref_policy)), None)
        value_model = shard(_start_apart(like_policy, compute, start / "policy", reward_models), mesh)
    return Models(
        **vars(models),
        value_model=value_model,
        policy_parameters=_trained(models.policy),
        value_parameters={} if value_model is None else _trained(value_model),
    )


def _is_like(source: Source, policy: Any) -> bool:
    """Whether a source is a reward model that reads the policy's tokens with a backbone of the policy's shape."""
    if source.model is None or source.tokenizer is not None:
        return False
    backbones = (source.model.base_model, policy.base_model)
    shapes, policy_shapes = ({name: p.shape for name, p in backbone.named_parameters()} for backbone in backbones)
    return shapes == policy_shapes


def _start_apart(source: Source | None, compute: ComputeConfig, start: Path, reward_models: Path) -> ValueModel:
    """A value model of its own: a copy of a source's reward model, or the SFT policy's backbone under a zero head."""
    if source is None:
        policy = load_policy(start, compute)
        return ValueModel(policy.base_model, output_size(policy)).to(compute.device)
    folder = source.config.path or reward_models / member_name(source.config.member)
    return start_value_model(load_reward_model(folder, compute, source.config.revision))


def _load_adapters(
    context: StageContext[RLConfig], start: Path, reward_models: Path, mesh: DeviceMesh | None, *, has_critic: bool
) -> Models:
    config, setup = context.config, context.setup
    assert config.lora is not None, "the configuration asks for it"
    start = start / "policy"
    backbone = load_backbone(start, config.lora, setup)
    sources = load_sources(context, lambda name: add_reward_model(backbone, reward_models / name, name))
    trained = next((source for source in sources if source.config.kind == "trained"), None)
    value_model: ValueModel | None = None
    if has_critic:
        value_model = (
            add_value_model(backbone, reward_models / member_name(trained.config.member), trained.model)
            if trained
            else add_zero_value_model(backbone, config.lora, setup)
        )
    selection = add_reward_model(backbone, reward_models / "selection_reward_model", "selection_reward_model")
    shard_parts(backbone.causal_lm, mesh)
    value_parameters: Parameters = {}
    if value_model is not None:
        shard_unit(value_model, mesh)
        of_head = {f"head.{name}": parameter for name, parameter in value_model.head.named_parameters()}
        value_parameters = backbone.parameters_of("value") | of_head
    return Models(
        policy=Role(backbone, "policy", backbone.causal_lm),
        ref_policy=Role(backbone, None, backbone.causal_lm),
        sources=sources,
        selection_reward_model=selection,
        export_policy=lambda: merged_policy(backbone, start, setup),
        value_model=value_model,
        policy_parameters=backbone.parameters_of("policy"),
        value_parameters=value_parameters,
    )


def _trained(model: nn.Module) -> Parameters:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
