"""Models: build, load, save, and the one function that scores.

Weights are fp32 wherever they are trained or compared; `rlhf.modeling.precision.autocast` makes the products bf16. Only
safetensors are read and written, and code that comes with a model is never run.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from rlhf.config.model import ArchitectureConfig, ComputeConfig, Setup
from rlhf.errors import ConfigError
from rlhf.modeling.architecture import (
    AUTO_CLASSES,
    check_loaded,
    load_config,
    quiet_transformers,
    refuse_labels,
    refuse_more_layers_than_weights,
)
from rlhf.modeling.batches import positions
from rlhf.modeling.checks import check_loaded_finite
from rlhf.modeling.cpu.attention import register_attention, takes_plain_attention
from rlhf.modeling.cpu.layers import use_fused_layers
from rlhf.modeling.cpu.onednn import multiply_by_onednn
from rlhf.modeling.device import derive_seed
from rlhf.modeling.files import local_files, readable
from rlhf.modeling.headers import Role, read_weights
from rlhf.modeling.hub import check_model_folder
from rlhf.modeling.lm_head import compute_head_in_fp32
from rlhf.modeling.needed_positions import prepare_last_block, select_positions
from rlhf.modeling.precision import in_fp32
from rlhf.modeling.special_tokens import num_ids

logger = logging.getLogger(__name__)


def start_policy(setup: Setup, tokenizer: Any) -> Any:
    """The model that supervised fine-tuning starts from, with an embedding for every token of the tokenizer.

    Raises:
        ModelError: the base cannot be loaded.
        ConfigError: the base's context is shorter than `model.max_length`.
    """
    if setup.model.base is None:
        model = _build(setup, tokenizer)
    else:
        model = _load("policy", setup.model.base, setup.compute, revision=setup.model.revision)
        _check_context(model.config, setup)
        if num_ids(tokenizer) > model.get_input_embeddings().num_embeddings:
            torch.manual_seed(derive_seed(setup.seed, "new-embeddings"))
            model.resize_token_embeddings(num_ids(tokenizer))
            multiply_by_onednn(model.get_output_embeddings())  # a new one
    _agree_on_special_tokens(model, tokenizer)
    return compute_head_in_fp32(model, setup.compute)


def load_policy(folder: Path, compute: ComputeConfig) -> Any:
    """A causal language model of an earlier stage, fp32, in evaluation mode, on the configured device."""
    return compute_head_in_fp32(_load("policy", str(folder), compute), compute).to(compute.device).eval()


def load_reward_model(folder: Path | str, compute: ComputeConfig, revision: str | None = None) -> Any:
    """A reward model, fp32, in evaluation mode, on the configured device.

    Args:
        folder: folder or hub id.
        compute: device and precision.
        revision: of the hub id.

    Raises:
        ModelError: it has more than one label, or cannot be loaded.
    """
    model = _load("reward_model", str(folder), compute, revision)
    refuse_labels(model.config, str(folder))
    return model.to(compute.device).eval()


def score(reward_model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Scores [B], fp32: the head's output at the last kept token, less the model's `score_offset`.

    Args:
        reward_model: a sequence classifier with one label.
        input_ids: prompt and response, [B, T], padded on either side.
        attention_mask: True where there is a token, [B, T].
    """
    mask = attention_mask.bool()
    # Padding that comes last is seen by no token, and costs a model nothing but its columns.
    where = {} if mask[:, 0].all() else {"attention_mask": mask, "position_ids": positions(mask)}
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1, keepdim=True)

    def at_the_end(hidden: Tensor) -> Tensor:
        return hidden[torch.arange(mask.shape[0], device=mask.device)[:, None], last]

    with select_positions(reward_model.base_model, at_the_end) as is_selected:
        hidden = reward_model.base_model(input_ids=input_ids, use_cache=False, **where).last_hidden_state
    with in_fp32(mask.device.type):
        scores: Tensor = reward_model.score((hidden if is_selected else at_the_end(hidden)).float()).flatten()
    return scores - float(getattr(reward_model.config, "score_offset", 0.0))


def freeze(model: Any, compute: ComputeConfig) -> Any:
    """Switch gradients off, and keep the weights of products in the precision that they are computed in.

    Under `autocast` a product rounds its weight to bf16 each time; rounded once, the results are the same, half the
    memory is needed, and no time for the rounding. Embeddings, norms, heads and tied weights stay fp32.
    """
    model.requires_grad_(False)
    kept = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    for head in (getattr(model, "score", None), model.get_output_embeddings()):
        kept |= {id(parameter) for parameter in head.parameters()} if head is not None else set()
    products = [m.weight for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D)]
    rounded = {id(weight) for weight in products if compute.dtype == "bf16"} - kept
    for parameter in model.parameters():
        # What was loaded is a view of the mapped file, all of which stays in memory as long as any of it is used.
        parameter.data = parameter.data.bfloat16() if id(parameter) in rounded else parameter.data.clone()
    return model


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write weights (safetensors) and tokenizer to a folder that `from_pretrained` loads."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _build(setup: Setup, tokenizer: Any) -> Any:
    shape = setup.model.architecture or ArchitectureConfig()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=setup.model.max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=register_attention() if _wants_own_attention(setup.compute) else None,
    )
    torch.manual_seed(derive_seed(setup.seed, "initialization"))
    return multiply_by_onednn(LlamaForCausalLM(config))


def _load(role: Role, name: str, compute: ComputeConfig, revision: str | None = None) -> Any:
    """A model whose weights are all there: transformers would fill up with random ones, and say so in a log."""
    check_model_folder(name)
    is_folder = Path(name).is_dir()
    with readable(f"{name}: the model cannot be loaded"), quiet_transformers():
        config = load_config(name, name, revision)
        if is_folder:
            refuse_more_layers_than_weights(config, read_weights(local_files(Path(name))), name)
        model, info = AUTO_CLASSES[role].from_pretrained(
            name,
            config=config,
            revision=revision,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    for note in check_loaded(model, info, name, role):
        logger.warning("%s", note)
    if not is_folder:
        check_loaded_finite(name, revision)
    if _wants_own_attention(compute) and takes_plain_attention(model):
        model.set_attn_implementation(register_attention())
    if compute.fused_layers:
        model = use_fused_layers(model) if compute.dtype == "bf16" else model
        model = prepare_last_block(model, torch.bfloat16 if compute.dtype == "bf16" else torch.float32)
    return multiply_by_onednn(model)


def _wants_own_attention(compute: ComputeConfig) -> bool:
    """Where bf16 meets the CPU: the backward pass of the fused attention is many times slower there."""
    return compute.device == "cpu" and compute.dtype == "bf16" and compute.fused_layers


def _check_context(config: Any, setup: Setup) -> None:
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and setup.model.max_length > longest:
        raise ConfigError(
            f"model.max_length is {setup.model.max_length}, but {setup.model.base} has a context of {longest} "
            f"tokens; lower it"
        )


def _agree_on_special_tokens(model: Any, tokenizer: Any) -> None:
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
