"""The host of a SQLite store: two hosts that write one file over a network damage it, and SQLite cannot tell."""

import json
import logging
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rlhf.errors import InputError
from rlhf.files.atomic import write_file

logger = logging.getLogger(__name__)
_SHARED = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "ceph", "glusterfs", "beegfs", "afs", "ocfs2", "gfs2"),
    *("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.juicefs", "wekafs"),
)
"""Kinds of file systems that several hosts have mounted at a time."""


class OtherHostError(InputError):
    """A SQLite store on a shared disk that belongs to another host."""


def check_host(database: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Note the host that works with a SQLite file, and refuse another one where both may do so at a time.

    A project that was moved or copied to this host's own disk is this host's from now on, which is said once.

    Args:
        database: the file; it may not be there yet.
        mounts: Linux's list of what is mounted.

    Raises:
        OtherHostError: the file is on a shared disk, and another host works with it.
    """
    note = database.with_suffix(".host")
    known = _read(note)
    here = _this_host()
    if known is not None and _is_same(known, here):
        return
    if known is not None:
        other = known.get("name", "another host")
        if file_system(database.parent, mounts) in _SHARED:
            raise OtherHostError(
                f"{database} is on a shared disk and is the store of the host {other}, and SQLite is damaged where two "
                f"hosts write one file; start `rlhf up` on {other}, or with --database on PostgreSQL, and set "
                f"MLFLOW_TRACKING_URI and PREFECT_API_URL here; where {other} is gone for good, remove {note}"
            )
        logger.warning(
            "%s was the store of the host %s and is this host's now; of two copies neither sees the runs of the other",
            database,
            other,
        )
    database.parent.mkdir(parents=True, exist_ok=True)
    write_file(note, json.dumps(here).encode())


def file_system(folder: Path, mounts: Path) -> str:
    """The kind of file system that a folder is on; empty where the system does not say.

    Args:
        folder: there or not.
        mounts: Linux's list of them, `/proc/self/mountinfo`.
    """
    if not mounts.is_file():
        return ""
    path, kinds = folder.resolve(), dict[Path, str]()
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").split("\n"):
        place, separator, kind = line.partition(" - ")
        if separator:
            kinds[Path(place.split()[4].replace("\\040", " "))] = kind.split()[0]
    return next((kinds[parent] for parent in (path, *path.parents) if parent in kinds), "")


@cache
def _this_host() -> dict[str, str]:
    sources = {"machine": Path("/etc/machine-id"), "boot": Path("/proc/sys/kernel/random/boot_id")}
    parts = {part: file.read_text().strip() if file.is_file() else "" for part, file in sources.items()}
    return {"name": platform.node(), **parts}


def _is_same(known: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """Whether both are one host. A container and its host have the boot in common; copies of a machine, its id."""
    booted_once = bool(here["boot"]) and known.get("boot") == here["boot"]
    return booted_once or all(known.get(part) == here[part] for part in ("name", "machine"))


def _read(note: Path) -> dict[str, str] | None:
    """What a note says; None where there is none that can be read."""
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None
