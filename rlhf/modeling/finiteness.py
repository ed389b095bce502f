"""Whether all numbers of a model's weights are finite, from its files, a part at a time and without torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rlhf.errors import ModelError
from rlhf.modeling.headers import Weight

_NUMBERS_AT_ONCE = 1 << 24
# By type: unsigned integers of its size, and the bits that are all set in NaN and infinity, and in nothing else.
_SET_IF_NOT_FINITE = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),
}


def refuse_not_finite(folder: Path, name: str, weights: Mapping[str, Weight]) -> None:
    """Refuse weights with NaN or infinity in them: no score and no loss that they give means anything.

    Args:
        folder: where the files are.
        name: what messages call it.
        weights: what its headers say.

    Raises:
        ModelError: a number is not finite.
    """
    counts = {weight: count for weight, of in weights.items() if (count := _count_not_finite(folder / of.file, of))}
    if counts:
        named = ", ".join(f"{weight} ({count:,})" for weight, count in list(counts.items())[:5])
        more = f" and {len(counts) - 5:,} more weights" if len(counts) > 5 else ""
        file = weights[next(iter(counts))].file
        raise ModelError(
            f"{name}/{file}: numbers of these weights are NaN or infinite: {named}{more}; the model is broken, so "
            f"download it again or give another one"
        )


def _count_not_finite(path: Path, weight: Weight) -> int:
    if weight.dtype not in _SET_IF_NOT_FINITE:
        return 0
    unsigned, mask = _SET_IF_NOT_FINITE[weight.dtype]
    dtype = np.dtype(unsigned)
    count, total = 0, weight.length // dtype.itemsize
    for begin in range(0, total, _NUMBERS_AT_ONCE):
        number = min(_NUMBERS_AT_ONCE, total - begin)
        bits = np.fromfile(path, dtype, number, offset=weight.begin + begin * dtype.itemsize)
        bits &= dtype.type(mask)
        count += int(np.count_nonzero(bits == mask))
    return count
