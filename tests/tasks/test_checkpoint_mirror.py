"""Checkpoints that outlive their host: copied while a stage computes, brought by whoever goes on."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.config.loading import load_config
from rlhf.errors import ConfigError
from rlhf.files import checkpoint_mirror
from rlhf.files.checkpoint_mirror import address_of, check_address, mirrored, remove_copy
from rlhf.files.mirror import Mirror, list_files
from tasks.lease import LeaseLostError


@pytest.fixture
def bucket(s3_bucket: str) -> str:
    """A copy's address in a bucket."""
    return f"s3://{s3_bucket}/checkpoints/policy-0123456789abcdef"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"{(tmp_path / 'store').as_uri()}/policy-0123456789abcdef"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_mirror, "LOOK_SECONDS", 0.05)


def write(folder: Path, step: int) -> None:
    """A checkpoint, as the policy's trainer writes it: the two newest stay."""
    final = folder / f"update_{step:06d}"
    (folder / "new.partial").mkdir(parents=True)
    (folder / "new.partial" / "weights").write_text(f"w{step}" * 1000)
    (folder / "new.partial" / "same").write_text("the same in each")
    (folder / "new.partial").rename(final)
    for old in sorted(folder.glob("update_??????"))[:-2]:
        shutil.rmtree(old)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_another_host_goes_on(tmp_path: Path, address: str):
    here, there = tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints"

    def train() -> None:
        with mirrored(here, address):
            for step in range(1, 6):
                write(here, step)
                if step == 3:
                    wait_for(lambda: any("update_000003" in name for name in Mirror(address).names()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    expected = contents(here)
    assert {path.split("/")[0] for path in expected} == {"update_000004", "update_000005"}
    with mirrored(there, address):
        assert contents(there) == expected
    # One file for what is the same in all, and none of what is gone.
    assert len(list((tmp_path / "store").rglob("objects/*"))) == 3
    remove_copy(address)
    assert Mirror(address).names() == []


def test_the_newer_ones_win(tmp_path: Path, address: str):
    for name, step in (("copied", 3), ("older", 2), ("newer", 4)):
        write(tmp_path / name, step)
    assert Mirror(address).push(tmp_path / "copied", list_files(tmp_path / "copied"))
    for name, step in (("older", 3), ("newer", 4)):
        with mirrored(tmp_path / name, address):
            assert [path.name for path in (tmp_path / name).iterdir()] == [f"update_{step:06d}"]
        Mirror(address).push(tmp_path / "copied", list_files(tmp_path / "copied"))


def test_in_s3(tmp_path: Path, bucket: str):
    check_address("s3://bucket/checkpoints")
    with pytest.raises(ConfigError, match="where nothing can be written"):
        check_address("s3://other/checkpoints")
    here, there = tmp_path / "here", tmp_path / "there"
    for step in (1, 2, 3):
        write(here, step)
        assert Mirror(bucket).push(here, list_files(here))
    with mirrored(there, bucket):
        assert contents(there) == contents(here)
    remove_copy(bucket)
    assert Mirror(bucket).names() == []


def test_files_that_change_meanwhile_are_no_copy(tmp_path: Path, address: str):
    write(tmp_path / "here", 1)
    listing = list_files(tmp_path / "here")
    assert Mirror(address).push(tmp_path / "here", listing)
    shutil.rmtree(tmp_path / "here" / "update_000001")
    write(tmp_path / "here", 2)
    assert not Mirror(address).push(tmp_path / "here", listing)
    assert Mirror(address).names() == ["update_000001/same", "update_000001/weights"]


def test_damaged_copies_are_not_used(tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture):
    write(tmp_path / "here", 1)
    Mirror(address).push(tmp_path / "here", list_files(tmp_path / "here"))
    next((tmp_path / "store").rglob("objects/*")).write_text("damaged")
    with caplog.at_level(logging.WARNING, "rlhf"), mirrored(tmp_path / "there", address):
        assert not (tmp_path / "there").exists()
    assert "are not used" in caplog.text


def test_an_attempt_that_lost_its_lease_copies_nothing(tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture):
    def lost() -> None:
        raise LeaseLostError("another attempt")

    write(tmp_path / "here", 1)
    with caplog.at_level(logging.WARNING, "rlhf"), mirrored(tmp_path / "here", address, lost):
        pass
    assert Mirror(address).names() == []
    assert "could not copy the checkpoints" in caplog.text


def test_addresses(tmp_path: Path):
    assert address_of(None, tmp_path) is None
    assert address_of("s3://bucket/folder/", Path("x/policy-01")) == "s3://bucket/folder/policy-01"
    check_address(None)
    check_address((tmp_path / "new").as_uri())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cluster.checkpoint_uri is file:.*where nothing can be written"):
        check_address(f"{(tmp_path / 'file').as_uri()}/below")
    with pytest.raises(ConfigError, match="expected text that matches"):
        load_config(None, {"cluster.checkpoint_uri": "/a/path"})
