"""The files of a model, in a folder or on the hub: which there are, how large, and bytes of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import ModelError, RLHFError, one_line

_POINTER = b"version https://git-lfs"
_SETTINGS = (".json", ".jinja", ".model", ".tiktoken", ".txt")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model.

    Attributes:
        name: folder or hub id, as messages name it.
        sizes: bytes of each file, by name. Files in subfolders are not among them.
        read: bytes of a file, from its name, where they begin, and how many are wanted.
    """

    name: str
    sizes: Mapping[str, int]
    read: Callable[[str, int, int], bytes]

    def read_settings(self) -> dict[str, bytes]:
        """The content of what is no weights and decides what is loaded: config, tokenizer, templates.

        Raises:
            ModelError: one is a pointer of Git LFS.
        """
        names = sorted(name for name in self.sizes if name.endswith(_SETTINGS))
        settings = {name: self.read(name, 0, self.sizes[name]) for name in names}
        for name, content in settings.items():
            self.refuse_pointer(name, content)
        return settings

    def refuse_pointer(self, file: str, beginning: bytes) -> None:
        """Refuse a file that says where its content is, and does not have it.

        Raises:
            ModelError: it is one.
        """
        if beginning.startswith(_POINTER):
            raise ModelError(
                f"{self.name}/{file} is a pointer of Git LFS, and not the file that it stands for; run `git lfs pull` "
                f"where it was cloned, or download the file again"
            )


def local_files(folder: Path, name: str | None = None) -> ModelFiles:
    """The files of a folder.

    Args:
        folder: where they are.
        name: what messages call it, where that is not the folder.
    """

    def read(file: str, begin: int, length: int) -> bytes:
        with (folder / file).open("rb") as opened:
            opened.seek(begin)
            return opened.read(length)

    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    return ModelFiles(name or str(folder), sizes, read)


def hub_files(name: str, commit: str) -> ModelFiles:
    """The files of a commit on the hub; of large files only the bytes that are wanted are fetched."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status, list_repo_tree
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # it is in their documentation

    def read(file: str, begin: int, length: int) -> bytes:
        wanted = {"range": f"bytes={begin}-{begin + length - 1}"}
        with get_session().stream(
            "GET", hf_hub_url(name, file, revision=commit), headers=build_hf_headers() | wanted
        ) as answer:
            hf_raise_for_status(answer)
            # Who does not know ranges sends the file from its beginning.
            skipped = 0 if answer.status_code == 206 else begin
            content = b""
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) >= skipped + length:
                    break
        return content[skipped : skipped + length]

    entries = list(list_repo_tree(name, revision=commit))
    return ModelFiles(f"{name} at {commit}", {file.path: file.size for file in entries if hasattr(file, "size")}, read)


@contextmanager
def readable(what: str, advice: str = "download or save the model again, or give another one") -> Iterator[None]:
    """Errors of any library within the block are reported as errors of a model's files.

    What transformers, safetensors, tokenizers and the hub raise over broken files is of every class that there is.

    Args:
        what: that cannot be done, such as `x: the model cannot be loaded`.
        advice: what to do.

    Raises:
        ModelError: a library raised something.
    """
    try:
        yield
    except (RLHFError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"{what}: {type(error).__name__}: {one_line(error)}; {advice}") from error
