"""Files of weights that are not what they should be, by their headers alone."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rlhf.errors import ModelError
from rlhf.modeling.files import local_files
from rlhf.modeling.headers import read_weights

WEIGHTS = {
    "a": torch.zeros(3, 5),
    "b": torch.zeros(2, dtype=torch.bfloat16),
    "c": torch.zeros(0, 4),
    "d": torch.tensor(1, dtype=torch.uint8),
}


def read(folder):
    return read_weights(local_files(folder))


def test_what_safetensors_reads_is_what_is_read(tmp_path):
    save_file(WEIGHTS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read(tmp_path)
    loaded = load_file(tmp_path / "model.safetensors")
    assert {name: weight.shape for name, weight in found.items()} == {
        name: tuple(t.shape) for name, t in loaded.items()
    }
    assert {name: weight.dtype for name, weight in found.items()} == {"a": "F32", "b": "BF16", "c": "F32", "d": "U8"}
    content = (tmp_path / "model.safetensors").read_bytes()
    assert content[found["d"].begin :][: found["d"].length] == b"\x01"


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 50, -1, 0.5])
def test_a_file_that_was_cut_off(tmp_path, kept):
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: int(kept * len(content)) if kept == 0.5 else kept])
    with pytest.raises(ModelError, match=r"model\.safetensors (was cut off|is no sound safetensors file).* again"):
        read(tmp_path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_byte_of_the_header_changed(tmp_path, data):
    """Either it is refused, or safetensors too takes it, and for the same."""
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    length = int.from_bytes(content[:8], "little")
    content[data.draw(st.integers(0, 7 + length))] = data.draw(st.integers(0, 255))
    (tmp_path / "model.safetensors").write_bytes(content)
    try:
        found = read(tmp_path)
    except ModelError:
        return
    loaded = load_file(tmp_path / "model.safetensors")
    assert {name: weight.shape for name, weight in found.items()} == {
        name: tuple(t.shape) for name, t in loaded.items()
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 7\n",
            "is a pointer of Git LFS.*git lfs pull",
        ),
        (b"<!DOCTYPE html><html>Sign in</html>", "no sound safetensors file: its 35 bytes begin with"),
        (b"PK\x03\x04" + b"\x00" * 100, "no sound safetensors file"),
        (b"\x02" + b"\x00" * 7 + b"{}trailing", "it has 18 bytes, and its header speaks of 10"),
        (b"\x05" + b"\x00" * 7 + b"{nope", "its header cannot be read"),
    ],
)
def test_what_is_no_safetensors_file(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read(tmp_path)


@pytest.fixture
def parts(tmp_path):
    """Weights in two files, and their index."""
    save_file({"a": WEIGHTS["a"]}, tmp_path / "model-1.safetensors")
    save_file({"b": WEIGHTS["b"]}, tmp_path / "model-2.safetensors")
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return tmp_path


def write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_parts_and_index(parts):
    assert {name: weight.file for name, weight in read(parts).items()} == {
        "a": "model-1.safetensors",
        "b": "model-2.safetensors",
    }


def test_a_part_that_is_missing(parts):
    (parts / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"index\.json names model-2\.safetensors, which is not there"):
        read(parts)


def test_a_part_of_another_model(parts):
    save_file({"x": WEIGHTS["b"]}, parts / "model-2.safetensors")
    with pytest.raises(ModelError, match=r"says that b is in model-2\.safetensors, and it is not"):
        read(parts)


def test_a_weight_in_two_parts(parts):
    shutil.copyfile(parts / "model-1.safetensors", parts / "model-2.safetensors")
    with pytest.raises(ModelError, match=r"a is in model-1\.safetensors and in model-2\.safetensors"):
        read(parts)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_that_is_none(parts, content):
    (parts / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index\.json is not an index of weights"):
        read(parts)


def test_an_index_that_is_a_pointer(parts):
    (parts / "model.safetensors.index.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="pointer of Git LFS"):
        read(parts)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "is an adapter .* merge it into its base"),
        (["adapter_config.json", "model.safetensors"], "the weights of a model and an adapter"),
        (["pytorch_model.bin"], r"only pickled weights are there \(pytorch_model.bin\)"),
        (["consolidated.safetensors"], "neither model.safetensors nor .*, only consolidated.safetensors"),
        (["config.json"], "there are no weights"),
    ],
)
def test_other_things_than_the_weights_of_a_model(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=message):
        read(tmp_path)
