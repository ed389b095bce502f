"""NaN and infinity in every type of number, against torch."""

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rlhf.errors import ModelError
from rlhf.modeling import finiteness
from rlhf.modeling.files import local_files
from rlhf.modeling.finiteness import refuse_not_finite
from rlhf.modeling.headers import read_weights

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def check(folder):
    refuse_not_finite(folder, "model", read_weights(local_files(folder)))


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(min_size=8, max_size=64))
def test_as_many_as_torch_counts_in_any_bits(tmp_path, dtype, content):
    numbers = torch.frombuffer(bytearray(content[: len(content) // 8 * 8]), dtype=dtype).clone()
    save_file(
        {"first": torch.ones(3), "weight": numbers, "whole": torch.full((4,), -1)}, tmp_path / "model.safetensors"
    )
    expected = int((~torch.isfinite(numbers.double())).sum())
    if expected == 0:
        check(tmp_path)
    else:
        with pytest.raises(
            ModelError,
            match=re.escape(
                f"model/model.safetensors: numbers of these weights are NaN or infinite: weight ({expected})"
            ),
        ):
            check(tmp_path)


def test_a_weight_of_several_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(finiteness, "_NUMBERS_AT_ONCE", 7)
    weight = torch.zeros(10, 10)
    weight[9, 9] = weight[0, 6] = weight[0, 7] = torch.nan
    save_file({"weight": weight}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"weight \(3\)"):
        check(tmp_path)


def test_many_weights_are_counted_and_the_first_named(tmp_path):
    save_file({f"w{i}": torch.full((2,), torch.inf) for i in range(9)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"w0 \(2\), .*w4 \(2\) and 4 more weights"):
        check(tmp_path)
