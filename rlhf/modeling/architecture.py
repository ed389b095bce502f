"""Whether a model's weights are those that its config.json asks for, as transformers itself would load them.

Names change between what is in the files and what a model has: prefixes, tied weights, old names, experts that are
merged. Only the library knows how, so it does the loading, of weights without data.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from rlhf.errors import ModelError, one_line
from rlhf.modeling.files import readable
from rlhf.modeling.headers import GENERATION_CONFIG, Role, Weight

AUTO_CLASSES = {"policy": AutoModelForCausalLM, "reward_model": AutoModelForSequenceClassification}
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_WHOLE = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_HOW_TO_COMPUTE = ("_attn_implementation", "_experts_implementation", "transformers_weights")
_NUM_NAMED = 4
_NUMBERED = re.compile(r"(?P<of>.+)\.(?P<number>\d+)\.(?P<part>.+)")


def check_architecture(folder: Path, name: str, weights: Mapping[str, Weight], role: Role) -> list[str]:
    """Refuse a model whose weights are not those of its config.json.

    Args:
        folder: where config.json is.
        name: what messages call the model.
        weights: what the headers of its files say.
        role: what it is to be.

    Returns:
        What is in the files and will not be read, in sentences.

    Raises:
        ModelError: it cannot take that role; or weights are missing, of another shape, or not of its architecture.
    """
    config = _read_config(folder, name)
    _refuse_without_score(config, name)
    refuse_more_layers_than_weights(config, weights, name)
    state = {weight: _without_data(of) for weight, of in weights.items() if of.dtype in _DTYPES}
    with readable(f"{name}: no model can be made of its config.json"), quiet_transformers(), torch.device("meta"):
        model_class = type(AUTO_CLASSES[role].from_config(config))
    with readable(f"{name}: its weights and settings do not fit its config.json"), quiet_transformers():
        try:
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except RuntimeError as error:
            # Weights that are merged where they are loaded, such as those of experts, do not go together.
            raise ModelError(
                f"{name}: its weights cannot be put together as config.json asks for{_odd(weights)}; download or save "
                f"the model again, or give the config.json of these weights ({one_line(error)})"
            ) from error
        if model.can_generate() and (folder / GENERATION_CONFIG).exists():
            GenerationConfig.from_pretrained(str(folder))
    _refuse_integers(model, info, weights, name)
    notes = check_loaded(model, info, name, role)
    if role == "reward_model":
        refuse_labels(config, name)
    return notes


def _refuse_without_score(config: Any, name: str) -> None:
    """Reward models and value models are made of the policy; better said now than once the policy was fine-tuned."""
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"{name}: transformers has no sequence classifier of a {config.model_type}, so no reward model can be made "
            f"of it; give a model of another family"
        )


def check_loaded(model: Any, info: Mapping[str, Any], name: str, role: Role) -> list[str]:
    """Refuse a model that was not loaded whole: transformers fills what is missing with random numbers.

    Args:
        model: as `from_pretrained` made it.
        info: what it says with `output_loading_info`.
        name: what messages call the model.
        role: what it is to be.

    Returns:
        What was in the files and was not read, in sentences.

    Raises:
        ModelError: weights are missing, of another shape, or left over from another architecture.
    """
    if role == "reward_model" and not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise ModelError(
            f"{name}: a {type(model).__name__} does not score with a linear head named `score` on the last token, as "
            f"reward models here do; give one that is made of a causal language model"
        )
    missing, extra = _in_order(info["missing_keys"]), _in_order(info["unexpected_keys"])
    if role == "reward_model" and missing == ["score.weight"]:
        raise ModelError(
            f"{name}: the weights of the head that scores (score.weight) are missing, so this is a language model, or "
            f"a reward model of another make; give a sequence classifier with one label"
        )
    if missing:
        raise ModelError(
            f"{name}: {_named(missing)} that config.json asks for {'are' if len(missing) > 1 else 'is'} in none of the "
            f"files{_but_found(extra)}; download or save the model again, or give the config.json of these weights"
        )
    if info["mismatched_keys"]:
        named = [
            f"{weight} is {tuple(found)} and should be {tuple(expected)}"
            for weight, found, expected in sorted(info["mismatched_keys"])
        ]
        more = f", and {len(named) - _NUM_NAMED} more" if len(named) > _NUM_NAMED else ""
        raise ModelError(
            f"{name}: weights have other shapes than config.json asks for: {'; '.join(named[:_NUM_NAMED])}{more}; give "
            f"the config.json that belongs to these weights, or download the model again"
        )
    return _left_over(model, extra, name)


def refuse_labels(config: Any, name: str) -> None:
    """Refuse a classifier with several labels.

    Raises:
        ModelError: it has more than one.
    """
    if config.num_labels != 1:
        raise ModelError(
            f"{name}: a reward model has one label, this one has {config.num_labels} by its config.json; give another"
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block transformers shows neither its load report nor a bar: the project's own messages say it."""
    verbosity, has_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bar:
            transformers_logging.enable_progress_bar()


def load_config(source: str, name: str, revision: str | None = None) -> Any:
    """A model's config.json, without how and from where the model is to be computed.

    A kernel of the hub, which it can name for the attention, would be code from there.

    Args:
        source: folder or hub id.
        name: what messages call the model.
        revision: of the hub id.

    Raises:
        ModelError: there is none, or transformers cannot read it.
    """
    with readable(f"{name}: its config.json cannot be used"), quiet_transformers():
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        for setting in _HOW_TO_COMPUTE:
            if getattr(config, setting, None) is not None:
                setattr(config, setting, None)
    return config


def _read_config(folder: Path, name: str) -> Any:
    config = load_config(str(folder), name)
    quantization = getattr(config, "quantization_config", None)
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        raise ModelError(
            f"{name}: its weights are quantized (quantization_config in config.json, method {method}), and this "
            f"pipeline trains and compares whole ones; give the model as it was before quantization"
        )
    return config


def refuse_more_layers_than_weights(config: Any, weights: Mapping[str, Weight], name: str) -> None:
    """Refuse to make a model of as many layers as memory does not hold.

    Raises:
        ModelError: config.json asks for more layers than the files have weights.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > len(weights):
        raise ModelError(
            f"{name}: config.json asks for {layers:,} layers, and its files have {len(weights):,} weights; give the "
            f"config.json that belongs to these weights, or download the model again"
        )


def _refuse_integers(model: Any, info: Mapping[str, Any], weights: Mapping[str, Weight], name: str) -> None:
    """Integers in the place of real numbers, or missing beside packed ones, mean that a quantizer saved the files."""
    parameters = {parameter for parameter, _ in model.named_parameters()}
    odd = {weight: of.dtype for weight, of in weights.items() if not of.dtype.startswith(_WHOLE)}
    if odd.keys() & parameters or (odd and info["missing_keys"]):
        weight = min(odd.keys() & parameters, default=min(odd))
        raise ModelError(
            f"{name}: its weights are quantized or packed ({weight} is of type {odd[weight]}), and this pipeline "
            f"trains and compares whole ones; give the model as it was before quantization"
        )


def _without_data(weight: Weight) -> torch.Tensor:
    return torch.empty(weight.shape, dtype=_DTYPES[weight.dtype], device="meta")


def _left_over(model: Any, extra: Sequence[str], name: str) -> list[str]:
    """Weights of the files that the model has no place for: another head is said, a layer is refused."""
    inner = [weight for weight in extra if _is_of_backbone(model, weight)]
    if inner:
        raise ModelError(
            f"{name}: its files have {_named(inner)} that config.json has no place for, so the model would not be the "
            f"one that was saved; give the config.json that belongs to these weights, or download the model again"
        )
    if not extra:
        return []
    return [f"{name}: {_named(extra)} of its files {'are' if len(extra) > 1 else 'is'} not used"]


def _is_of_backbone(model: Any, weight: str) -> bool:
    prefix = f"{model.base_model_prefix}."
    modules = {module for module, _ in model.base_model.named_children()}
    return weight.startswith(prefix) or weight.partition(".")[0] in modules


def _but_found(extra: Sequence[str]) -> str:
    return f", which have {_named(extra)} that it does not ask for" if extra else ""


def _named(names: Sequence[str]) -> str:
    """How many, and the first of them."""
    listed = ", ".join(names[:_NUM_NAMED])
    more = f", and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return f"{len(names):,} weight{'s' if len(names) > 1 else ''} ({listed}{more})"


def _odd(weights: Iterable[str]) -> str:
    """Names that would be there if what is numbered were alike: where experts 0 and 2 have a weight, 1 has it too."""
    parts: dict[str, dict[str, set[str]]] = {}
    for name in weights:
        if match := _NUMBERED.fullmatch(name):
            parts.setdefault(match["of"], {}).setdefault(match["number"], set()).add(match["part"])
    missing = _in_order(
        f"{of}.{number}.{part}"
        for of, numbered in parts.items()
        for number, there in numbered.items()
        for part in set().union(*numbered.values()) - there
    )
    return f"; {_named(missing)} may be missing" if missing else ""


def _in_order(names: Iterable[str]) -> list[str]:
    """Layer 2 before layer 10."""
    return sorted(names, key=lambda name: [(len(part), part) for part in re.split(r"(\d+)", name)])
