"""Model families that the README names, a few thousand weights each, built from a configuration.

Dropout is on wherever a family has it.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
    Starcoder2Config,
)

from rlhf.modeling.models import save_model

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SHAPE | {"num_key_value_heads": 2, "tie_word_embeddings": False}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
OPT = {"num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 64, "layerdrop": 0.5}

FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": lambda **ids: LlamaConfig(**SHAPE, **ids),
    "llama, grouped heads": lambda **ids: LlamaConfig(**GROUPED, attention_dropout=0.1, **ids),
    "gpt2": lambda **ids: GPT2Config(**GPT, **ids),
    "qwen2, tied": lambda **ids: Qwen2Config(**(GROUPED | {"tie_word_embeddings": True}), **ids),
    "qwen3": lambda **ids: Qwen3Config(**GROUPED, head_dim=8, **ids),
}
"""Those that the tests of fast paths look at one by one."""

OWN_ATTENTION: dict[str, Callable[..., Any]] = {
    "gpt_neo": lambda **ids: GPTNeoConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        attention_dropout=0.1,
        resid_dropout=0.1,
        embed_dropout=0.1,
        **ids,
    ),
    "gptj": lambda **ids: GPTJConfig(**GPT, rotary_dim=4, attn_pdrop=0.1, resid_pdrop=0.1, embd_pdrop=0.1, **ids),
    "falcon": lambda **ids: FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, hidden_dropout=0.1, attention_dropout=0.1, **ids
    ),
    "falcon, alibi": lambda **ids: FalconConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, **ids
    ),
    "bloom": lambda **ids: BloomConfig(
        hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.1, attention_dropout=0.1, **ids
    ),
    "gemma2": lambda **ids: Gemma2Config(**GROUPED, head_dim=8, attn_logit_softcapping=0.5, **ids),
}
"""They make attention and masks of their own, or cap attention's scores: all that is fast here is not for them."""

OTHERS: dict[str, Callable[..., Any]] = {
    "mistral, sliding window": lambda **ids: MistralConfig(**GROUPED, sliding_window=4, **ids),
    "mixtral": lambda **ids: MixtralConfig(
        **GROUPED, num_local_experts=2, num_experts_per_tok=1, router_jitter_noise=0.5, **ids
    ),
    "gemma": lambda **ids: GemmaConfig(**(GROUPED | {"tie_word_embeddings": True}), head_dim=8, **ids),
    "gemma3": lambda **ids: Gemma3TextConfig(
        **GROUPED, head_dim=8, sliding_window=4, layer_types=["sliding_attention", "full_attention"], **ids
    ),
    "phi": lambda **ids: PhiConfig(**GROUPED, resid_pdrop=0.1, embd_pdrop=0.1, attention_dropout=0.1, **ids),
    "phi3": lambda **ids: Phi3Config(**GROUPED, resid_pdrop=0.1, embd_pdrop=0.1, **ids),
    "opt": lambda **ids: OPTConfig(**OPT, hidden_size=32, word_embed_proj_dim=32, attention_dropout=0.1, **ids),
    "opt, narrow head": lambda **ids: OPTConfig(
        **OPT, hidden_size=32, word_embed_proj_dim=16, do_layer_norm_before=False, attention_dropout=0.1, **ids
    ),
    "gpt_neox": lambda **ids: GPTNeoXConfig(**SHAPE, hidden_dropout=0.1, attention_dropout=0.1, **ids),
    "gpt_bigcode": lambda **ids: GPTBigCodeConfig(**GPT, **ids),
    "starcoder2": lambda **ids: Starcoder2Config(
        **GROUPED, residual_dropout=0.1, embedding_dropout=0.1, attention_dropout=0.1, **ids
    ),
}
"""The rest: with the two above, all that goes through the whole pipeline."""

WITHOUT_SCORE: dict[str, Callable[..., Any]] = {
    "cohere": lambda **ids: CohereConfig(**(GROUPED | {"tie_word_embeddings": True}), logit_scale=4.0, **ids),
    "granite": lambda **ids: GraniteConfig(**GROUPED, logits_scaling=0.5, **ids),
}
"""No reward model can be made of them. They scale their logits."""

ALL = FAMILIES | OWN_ATTENTION | OTHERS


def make_family(family: str, tokenizer: Any) -> Any:
    """A policy of a family for a tokenizer, far from uniform, so that a wrong token would show."""
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config((ALL | WITHOUT_SCORE)[family](vocab_size=len(tokenizer), **ids))
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return policy.eval()


def save_base(family: str, tokenizer: Any, folder: Any) -> Any:
    """The same, in a folder."""
    save_model(make_family(family, tokenizer), tokenizer, folder)
    return folder
