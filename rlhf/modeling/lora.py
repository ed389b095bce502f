"""Low-rank adapters (2106.09685), by peft."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.pytorch_utils import Conv1D

from rlhf.config.model import LoraConfig

ADAPTER = "adapter"
"""The folder within a reward model's that holds it as an adapter over the SFT policy."""


def peft_config(config: LoraConfig, task_type: str, model: Any) -> Any:
    """Peft's configuration for a model: adapters on every linear layer but the head."""
    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type=task_type,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2's layers
    )


def add_adapters(model: Any, config: LoraConfig, task_type: str) -> Any:
    """The model with fresh adapters, which change nothing yet; only they are trained."""
    return get_peft_model(model, peft_config(config, task_type, model))


def leave_inputs(model: Any) -> None:
    """Adapters take their input as it is, where peft would make an fp32 copy that `autocast` then makes bf16 again."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def merged(model: Any) -> Any:
    """A plain model with the adapters' product added to its weights; a model without adapters as it is."""
    return copy.deepcopy(model).merge_and_unload() if isinstance(model, PeftModel) else model


def add_products(plain: Any, model: Any, adapter: str) -> Any:
    """Add the products of a model's adapter to the weights of a plain one, and return it."""
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, BaseTunerLayer):
                weight = plain.get_submodule(name).weight
                weight += layer.get_delta_weight(adapter).to(weight.device)
    return plain


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapters and a head that was trained with them, without what they were trained over (safetensors)."""
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # peft's template of a card
    settings = folder / "adapter_config.json"
    # Peft notes the folder of this machine that the model was loaded from.
    without_path = json.loads(settings.read_text()) | {"base_model_name_or_path": None}
    settings.write_text(json.dumps(without_path, indent=2, sort_keys=True) + "\n")
