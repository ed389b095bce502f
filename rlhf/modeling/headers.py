"""Names, types and shapes of a model's weights, from the headers of its safetensors files; their data is not read.

Source:
    The format: 8 bytes of length, a header in JSON, then the data. https://github.com/huggingface/safetensors
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from rlhf.errors import ModelError
from rlhf.modeling.files import ModelFiles

Role = Literal["policy", "reward_model"]
"""What a model is to be: a language model, or a sequence classifier with one label."""

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
GENERATION_CONFIG = "generation_config.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_LONGEST_HEADER = 100_000_000
_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class Weight:
    """One tensor of a file.

    Attributes:
        file: its name.
        dtype: as safetensors writes it, such as BF16.
        shape: its dimensions.
        begin: byte of the file at which its data begins.
        length: bytes of its data.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    length: int


def read_weights(files: ModelFiles) -> dict[str, Weight]:
    """The weights that loading would read, by name.

    Raises:
        ModelError: there are none, they are an adapter's, or a file is not what it should be.
    """
    _refuse_adapter(files)
    if SINGLE in files.sizes:
        return _read_header(files, SINGLE)
    if INDEX not in files.sizes:
        raise ModelError(f"{files.name}: {_no_weights(files)}")
    parts = _read_index(files)
    weights: dict[str, Weight] = {}
    for file in sorted(set(parts.values())):
        if file not in files.sizes:
            raise ModelError(f"{files.name}: {INDEX} names {file}, which is not there; download it again")
        header = _read_header(files, file)
        twice = sorted(weights.keys() & header.keys())
        if twice:
            raise ModelError(
                f"{files.name}: {twice[0]} is in {weights[twice[0]].file} and in {file}; which one is meant cannot be "
                f"told, so download or save the model again"
            )
        weights |= header
    for name, file in parts.items():
        if name not in weights or weights[name].file != file:
            raise ModelError(
                f"{files.name}: {INDEX} says that {name} is in {file}, and it is not; the files are not of one model, "
                f"so download them again"
            )
    return weights


def are_there(files: ModelFiles) -> bool:
    """Whether all files with weights are there, so that none has to be fetched from the hub."""
    if SINGLE in files.sizes or INDEX not in files.sizes:
        return SINGLE in files.sizes
    return files.sizes.keys() >= set(_read_index(files).values())


def _refuse_adapter(files: ModelFiles) -> None:
    if ADAPTER not in files.sizes:
        return
    if SINGLE in files.sizes or INDEX in files.sizes:
        raise ModelError(
            f"{files.name} holds the weights of a model and an adapter ({ADAPTER}), and which of the two is meant "
            f"cannot be told; remove the adapter's files, or merge it into the model (peft's merge_and_unload) and "
            f"save that"
        )
    raise ModelError(
        f"{files.name} is an adapter ({ADAPTER}), and not a whole model; merge it into its base (peft's "
        f"merge_and_unload), save that, and give that folder, or give the base itself"
    )


def _no_weights(files: ModelFiles) -> str:
    others = sorted(name for name in files.sizes if name.endswith(".safetensors"))
    pickled = sorted(name for name in files.sizes if name.endswith(_PICKLED))
    if others:
        listed = ", ".join(others[:5])
        return f"there is neither {SINGLE} nor {INDEX}, only {listed}; save the model again with transformers"
    if pickled:
        listed = ", ".join(pickled)
        return f"only pickled weights are there ({listed}), and unpickling runs code; convert them to safetensors"
    return "there are no weights (*.safetensors) in this model folder; give another one"


def _read_index(files: ModelFiles) -> Mapping[str, str]:
    """The file of each weight."""
    content = files.read(INDEX, 0, files.sizes[INDEX])
    files.refuse_pointer(INDEX, content)
    try:
        parts = json.loads(content)["weight_map"]
    except (ValueError, TypeError, KeyError, RecursionError):
        parts = None
    if not isinstance(parts, dict) or not parts or not all(isinstance(file, str) for file in parts.values()):
        raise ModelError(
            f'{files.name}/{INDEX} is not an index of weights: it needs a "weight_map" from the names of weights to '
            f"files; download it again"
        )
    return parts


def _read_header(files: ModelFiles, file: str) -> dict[str, Weight]:
    size = files.sizes[file]
    beginning = files.read(file, 0, min(size, 100_000))
    files.refuse_pointer(file, beginning)
    length = int.from_bytes(beginning[:8], "little")
    if size < 10 or length > _LONGEST_HEADER or beginning[8:9] != b"{":
        raise _broken(files, file, f"its {size:,} bytes begin with {beginning[:16]!r}")
    if 8 + length > size:
        raise _cut_off(files, file, 8 + length)
    header = beginning[8 : 8 + length] if 8 + length <= len(beginning) else files.read(file, 8, length)
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        weights = {name: _weight(file, 8 + length, tensor) for name, tensor in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _broken(files, file, f"its header cannot be read ({type(error).__name__}: {error})") from None
    _check_lengths(files, file, 8 + length, weights)
    return weights


def _weight(file: str, data: int, tensor: Mapping[str, Any]) -> Weight:
    begin, end = tensor["data_offsets"]
    shape = tuple(tensor["shape"])
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"a shape or an offset is {(*shape, begin, end)}")
    if prod(shape) * _BITS[tensor["dtype"]] != (end - begin) * 8:
        raise ValueError(f"{shape} of {tensor['dtype']} does not take {end - begin} bytes")
    return Weight(file, tensor["dtype"], shape, data + begin, end - begin)


def _check_lengths(files: ModelFiles, file: str, data: int, weights: Mapping[str, Weight]) -> None:
    """The data of one weight begins where that of the one before ends, and the last one ends with the file."""
    end = data
    for weight in sorted(weights.values(), key=lambda weight: (weight.begin, weight.length)):
        if weight.begin != end:
            raise _broken(files, file, "its header leaves a gap in the data, or gives a part of it twice")
        end += weight.length
    if end > files.sizes[file]:
        raise _cut_off(files, file, end)
    if end < files.sizes[file]:
        raise _broken(files, file, f"it has {files.sizes[file]:,} bytes, and its header speaks of {end:,}")


def _cut_off(files: ModelFiles, file: str, expected: int) -> ModelError:
    return ModelError(
        f"{files.name}/{file} was cut off: it has {files.sizes[file]:,} bytes, and its header asks for {expected:,}; "
        f"download or copy it again"
    )


def _broken(files: ModelFiles, file: str, why: str) -> ModelError:
    return ModelError(f"{files.name}/{file} is no sound safetensors file: {why}; download or save it again")
