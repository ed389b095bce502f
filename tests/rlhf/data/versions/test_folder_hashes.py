import hashlib
from pathlib import Path

from rlhf.files.hashing import dvc_md5, sha256


def _added(root: Path, name: str) -> str:
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        (stage,) = repo.add(str(root / name))
    md5: str = stage.outs[0].hash_info.value
    return md5


def test_the_hash_of_a_folder_is_the_one_of_dvc_add(repository: Path) -> None:
    files = {
        "b.jsonl": b"line\r\n",
        "a.jsonl": b"",
        "Z.md": "Größe\n".encode(),
        "sub/ü.txt": b"\x00\xff",
        "sub/.hidden": b"x",
        "sub/deep/x": b"y",
    }
    for name, content in files.items():
        path = repository / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (repository / "data" / "empty").mkdir()
    assert dvc_md5(repository / "data") == _added(repository, "data")


def test_the_hash_of_a_file_is_the_one_of_dvc_add(repository: Path) -> None:
    (repository / "pairs.jsonl").write_bytes(b"line\r\n" * 100_000)
    assert dvc_md5(repository / "pairs.jsonl") == _added(repository, "pairs.jsonl")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
