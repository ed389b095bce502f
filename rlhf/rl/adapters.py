"""One frozen backbone in four roles: policy, value and reward models are adapters over it, the reference is it alone.

The backbone is the SFT policy, so with every adapter off it is the reference, whatever the adapters have learned.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from rlhf.config.model import LoraConfig, Setup
from rlhf.errors import ModelError
from rlhf.modeling.device import derive_seed
from rlhf.modeling.lora import ADAPTER, add_products, leave_inputs, peft_config
from rlhf.modeling.models import freeze, load_policy
from rlhf.rl.value_model import ValueModel, output_size, start_head


class SharedBackbone:
    """The SFT policy with a named adapter per role. The caller says which adapter is on."""

    def __init__(self, model: Any) -> None:
        self.peft = model
        self._layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
        self._active: str | None = "policy"

    @property
    def causal_lm(self) -> Any:
        """The language model, its layers wrapped."""
        return self.peft.get_base_model()

    def activate(self, adapter: str | None) -> None:
        """Switch one adapter on and the others off; None switches all off."""
        if adapter == self._active:
            return
        for layer in self._layers:
            if adapter is None:
                layer.enable_adapters(False)
            else:
                layer.set_adapter(adapter)
                layer.enable_adapters(True)
        self._active = adapter

    def start_over(self) -> None:
        """After an adapter was added: the policy's alone is on."""
        self.activate(None)
        self.activate("policy")

    def parameters_of(self, adapter: str) -> dict[str, nn.Parameter]:
        """The weights of one adapter by name."""
        return {name: p for name, p in self.peft.named_parameters() if f".{adapter}." in name}


@dataclass(frozen=True)
class Role:
    """A part of the backbone, called with one adapter on (None: with none)."""

    backbone: SharedBackbone
    adapter: str | None
    part: Any

    def __call__(self, **inputs: Any) -> Any:
        """Call the part."""
        return self.switched_on()(**inputs)

    def switched_on(self) -> Any:
        """The part, with the role's adapter on."""
        self.backbone.activate(self.adapter)
        return self.part

    @property
    def config(self) -> Any:
        """The backbone's configuration."""
        return self.part.config

    def get_output_embeddings(self) -> Any:
        """The head that makes logits of hidden states."""
        return self.part.get_output_embeddings()


@dataclass(frozen=True)
class AdapterRewardModel:
    """A reward model that is an adapter; `rlhf.modeling.models.score` takes it as any other."""

    base_model: Role
    score: nn.Linear
    config: Any


def load_backbone(folder: Path, config: LoraConfig, setup: Setup) -> SharedBackbone:
    """The SFT policy, frozen, with a fresh adapter for the policy, which changes nothing yet."""
    model = freeze(load_policy(folder, setup.compute), setup.compute)
    torch.manual_seed(derive_seed(setup.seed, "adapters"))
    model = get_peft_model(model, peft_config(config, "CAUSAL_LM", model), adapter_name="policy")
    leave_inputs(model)
    return SharedBackbone(model)


def add_reward_model(backbone: SharedBackbone, folder: Path, name: str) -> AdapterRewardModel:
    """Put a reward model's adapter on the backbone, frozen.

    Args:
        backbone: the SFT policy that the adapter was trained over.
        folder: the reward model's folder.
        name: of the adapter on the backbone.

    Raises:
        ModelError: the reward model was not trained as an adapter, or over another architecture.
    """
    weights, head = _read_adapter(folder)
    _add_adapter(backbone, folder, name, weights)
    score = nn.Linear(head.shape[1], 1, bias=False)
    score.weight.data.copy_(head)
    saved = json.loads((folder / "config.json").read_text())
    config = SimpleNamespace(
        score_offset=saved.get("score_offset", 0.0), max_position_embeddings=saved.get("max_position_embeddings")
    )
    device = next(backbone.peft.parameters()).device
    role = Role(backbone, name, backbone.causal_lm.base_model)
    return AdapterRewardModel(role, score.to(device).requires_grad_(False), config)


def add_zero_value_model(backbone: SharedBackbone, config: LoraConfig, setup: Setup) -> ValueModel:
    """A value model that says 0 to everything, with a fresh adapter."""
    torch.manual_seed(derive_seed(setup.seed, "value-adapter"))
    backbone.peft.add_adapter("value", peft_config(config, "CAUSAL_LM", backbone.causal_lm))
    backbone.start_over()
    role = Role(backbone, "value", backbone.causal_lm.base_model)
    return ValueModel(role, output_size(backbone.causal_lm)).to(setup.compute.device)


def add_value_model(backbone: SharedBackbone, folder: Path, reward_model: AdapterRewardModel) -> ValueModel:
    """A value model that starts as the reward model in `folder`, with an adapter and a head of its own."""
    weights, _ = _read_adapter(folder)
    _add_adapter(backbone, folder, "value", weights)
    hidden_size = reward_model.score.in_features
    model = ValueModel(Role(backbone, "value", backbone.causal_lm.base_model), hidden_size)
    start_head(model.head, reward_model)
    return model.to(reward_model.score.weight.device)


def merged_policy(backbone: SharedBackbone, folder: Path, setup: Setup) -> Any:
    """A plain fp32 policy: the SFT weights as they were saved plus the policy adapter's product."""
    return add_products(load_policy(folder, setup.compute), backbone.causal_lm, "policy")


def _read_adapter(folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    """The low-rank weights by peft's names, and the scoring head [1, H]."""
    path = folder / ADAPTER / "adapter_model.safetensors"
    if not path.exists():
        raise ModelError(
            f"{folder}: this reward model was not trained as an adapter, so it cannot share a backbone; set "
            f"reward_model.lora and train it again, or set rl.sharing to none"
        )
    tensors = load_file(path)
    heads = [tensors.pop(name) for name in list(tensors) if name.endswith("score.weight")]
    return tensors, heads[0]


def _add_adapter(backbone: SharedBackbone, folder: Path, name: str, weights: dict[str, Tensor]) -> None:
    saved = PeftConfig.from_pretrained(str(folder / ADAPTER))
    saved.task_type, saved.modules_to_save, saved.inference_mode = "CAUSAL_LM", None, False
    saved.lora_dropout = 0.0  # it was for training: a score is the same whenever it is asked for
    backbone.peft.add_adapter(name, saved)
    outcome = set_peft_model_state_dict(backbone.peft, weights, adapter_name=name)
    missing = [key for key in outcome.missing_keys if f".{name}." in key]
    if missing or outcome.unexpected_keys:
        raise ModelError(
            f"{folder / ADAPTER}: the adapter does not fit the SFT policy ({(missing + outcome.unexpected_keys)[0]}); "
            f"it was trained over another model"
        )
    backbone.start_over()
