"""What a library or the system raises in the middle of a command, as one message: what, where, and what to do.

Libraries that were not imported cannot have raised anything, so they are looked up and not imported here. What is of
none of these kinds is a defect of this project, and is called one. Either way the traceback is kept in a file, and not
thrown at the person.
"""

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import yaml

from rlhf.errors import InputError, RLHFError, one_line
from rlhf.files.disk import full_disk, is_full
from rlhf.paths import local_folder, root

_LONGEST = 600
_AGAIN = "then give the command again"
_BY_NUMBER = {
    errno.EACCES: "may not be read or written by this user; change its owner or mode (`ls -ld` shows them)",
    errno.EPERM: "may not be changed by this user; change its owner or mode (`ls -ld` and `lsattr` show them)",
    errno.EROFS: "is on a disk that cannot be written; mount it writable, or set RLHF_ROOT to a project elsewhere",
    errno.EISDIR: "is a folder where a file is expected; give a file, or move the folder away",
    errno.ENOTDIR: "is a file, or lies below one, where a folder is expected; move the file away, or give another path",
    errno.ENAMETOOLONG: "is too long a name for this disk; give a shorter one",
    errno.ELOOP: "is a link that leads to itself; remove it (`ls -l` shows where it leads)",
    errno.ENOENT: "is not there, or is a link that leads nowhere; look whether it was moved or removed meanwhile",
    errno.EEXIST: "is there already; move it away",
    errno.EIO: "cannot be read or written: the disk reports an error; look at the system's log",
    errno.EMFILE: "cannot be opened: too many files are open; raise the limit with `ulimit -n`",
    errno.EADDRINUSE: "an address is taken by another program; stop it, or choose another port",
}
# Library, class, what its word is for, and what to do. The first that fits counts.
_LIBRARIES = (
    ("torch", "OutOfMemoryError", "memory of the device", "lower batch_size or micro_batch_size, or the model"),
    ("safetensors", "SafetensorError", "a file of weights", "download or copy the model again"),
    ("jinja2", "TemplateError", "the chat template", "mend chat_template of the tokenizer in the model's folder"),
    ("dvc.exceptions", "DvcException", "DVC", "look with `rlhf data status`"),
    ("dvc_data.hashfile.cache", "DiskError", "DVC's state", "remove .dvc/tmp, which is made anew"),
    ("dvc_objects.errors", "ObjectDBError", "DVC's cache", "look with `rlhf data status`"),
    ("dvc_objects.errors", "ObjectFormatError", "DVC's cache", "bring the data again with `rlhf data pull`"),
    ("scmrepo.exceptions", "SCMError", "the git repository", "look with `git status` and `git fsck`"),
    ("mlflow.exceptions", "MlflowException", "the MLflow store", "look whether it runs (`rlhf ui` says where)"),
    ("sqlalchemy.exc", "SQLAlchemyError", "a database", "look whether its server runs and its file may be written"),
    ("psycopg", "Error", "PostgreSQL", "look whether it runs, and lets this user in"),
    ("prefect.exceptions", "PrefectException", "Prefect", "look whether its server runs (`rlhf ui` says where)"),
    ("pyarrow", "ArrowException", "a Parquet or CSV file", "write the file again, or give it as JSON Lines"),
    ("datasets.exceptions", "DatasetsError", "a data set of the hub", "look whether the id and the split are right"),
    ("huggingface_hub.errors", "HfHubHTTPError", "the Hugging Face hub", "try again, or give a folder"),
    ("httpx", "HTTPError", "a server", "look whether it runs and can be reached"),
    ("httpx2", "HTTPError", "a server", "look whether it runs and can be reached"),
    ("requests", "RequestException", "a server", "look whether it runs and can be reached"),
    ("filelock", "Timeout", "a lock", "wait until the other command has ended"),
)


class LibraryError(InputError):
    """Something that a library or the system did not do, and what a person can do about it."""


@contextmanager
def explained() -> Iterator[None]:
    """Within the block, what a library or the system raises becomes a LibraryError. All else goes on as it is.

    Raises:
        LibraryError: the original error is its cause.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, RLHFError) and not is_full(error):
            raise
        message = explain(error)
        if message is None:
            raise
        keep_traceback(error)
        raise LibraryError(message) from error


def describe_failure(error: Exception) -> tuple[str, int]:
    """What a person is told of an error, whatever it is, and the exit code.

    Of what is no error of this project's own the traceback is kept in a file.
    """
    full = full_disk(error)
    if isinstance(error, RLHFError) and not is_full(error):
        return f"{error}; also, {full}" if full else str(error), error.exit_code
    message = full or explain(error)
    if message is None:
        return report_defect(error), RLHFError.exit_code
    keep_traceback(error)
    return message, InputError.exit_code


def explain(error: BaseException) -> str | None:
    """What happened, where, and what to do; None where it is an error of this project's own."""
    if is_full(error):
        return full_disk(error)
    if isinstance(error, OSError) and type(error).__module__ == "builtins":
        return _of_system(error)
    if isinstance(error, MemoryError):
        return "memory ran out; close other programs, or lower batch_size or micro_batch_size"
    if isinstance(error, subprocess.CalledProcessError):
        return _of_program(error)
    if isinstance(error, UnicodeError):
        return _of_text(error)
    if isinstance(error, sqlite3.Error):
        return f"a SQLite file failed ({one_line(error)}); look whether those in {root()} may be written and are whole"
    if isinstance(error, yaml.YAMLError):
        return f"a YAML file cannot be read ({one_line(error)}); mend it, {_AGAIN}"
    for module, name, what, mend in _LIBRARIES:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return f"{what} failed ({name}: {one_line(error)[:_LONGEST]}); {mend}, {_AGAIN}"
    return _of_system(error) if isinstance(error, OSError) else None


def report_defect(error: BaseException) -> str:
    """The message about an error that nobody foresaw, with the file that holds its traceback."""
    kept = keep_traceback(error)
    return (
        f"this is a defect of rlhf, and not of what you gave: {type(error).__name__}: {one_line(error)[:_LONGEST]}; "
        f"please report it, with {f'the file {kept}' if kept else 'what you did'}"
    )


def keep_traceback(error: BaseException) -> Path | None:
    """Write an error's traceback to a file below the project, or where that cannot be, in the system's own place.

    Returns:
        The file; None where it can be written nowhere, since the error at hand is the one to be told.
    """
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"
    text = "".join(traceback.format_exception(error)).encode(errors="backslashreplace")
    for folder in (local_folder("errors"), Path(tempfile.gettempdir()) / f"rlhf-errors-{os.getuid()}"):
        file = folder / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_bytes(text)
        except OSError:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        else:
            return file
    return None


def _of_system(error: OSError) -> str:
    name = error.filename2 or error.filename
    if isinstance(error, FileNotFoundError) and isinstance(name, str) and os.sep not in name and _is_start(error):
        return f"the program {name} is not there; install it, or put its folder on PATH, {_AGAIN}"
    where = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else "something of this command"
    told = _BY_NUMBER.get(error.errno or 0)
    if told is None:
        return f"{where}: the system refuses ({one_line(error)}); look at it, {_AGAIN}"
    return f"{where}: {told}, {_AGAIN}"


def _is_start(error: BaseException) -> bool:
    """Whether it was raised as a program was to be started, and not as a file was to be opened."""
    return any(frame.filename == subprocess.__file__ for frame in traceback.extract_tb(error.__traceback__))


def _of_program(error: subprocess.CalledProcessError) -> str:
    command = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd))
    said = error.stderr or error.stdout or b""
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    last = (text.strip().splitlines() or ["nothing"])[-1]
    return f"`{command}` ended with exit code {error.returncode} and said: {last[:_LONGEST]}; mend that, {_AGAIN}"


def _of_text(error: UnicodeError) -> str | None:
    """A name that is no text can be read, but not written into what is kept of a run."""
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        start, end = max(0, error.start - 60), error.end + 60
        shown = error.object[start:end].encode(errors="backslashreplace").decode()
        return f"a file name is not UTF-8: ...{shown}...; rename that file (`ls -b` shows it), {_AGAIN}"
    if isinstance(error, UnicodeDecodeError):
        return f"a text is not UTF-8 (byte {error.start}: {error.reason}); save the file as UTF-8, {_AGAIN}"
    return None
