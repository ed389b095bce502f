"""Low-rank adapters (2106.09685), by peft."""

import copy
from typing import Any

from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model

from rlhf.config import LoraConfig


def peft_config(config: LoraConfig, task_type: str) -> Any:
    """Peft's configuration: adapters on every linear layer but the head."""
    return PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type=task_type,
    )


def add_adapters(model: Any, config: LoraConfig, task_type: str) -> Any:
    """The model with fresh adapters, which change nothing yet; only they are trained."""
    return get_peft_model(model, peft_config(config, task_type))


def merged(model: Any) -> Any:
    """A plain model with the adapters' product added to its weights; a model without adapters as it is."""
    return copy.deepcopy(model).merge_and_unload() if isinstance(model, PeftModel) else model
