"""Checkpoints of an attempt, copied to where another host finds them (`cluster.checkpoint_uri`)."""

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rlhf.errors import ArtifactMismatchError, ConfigError, one_line
from rlhf.files.mirror import Listing, Mirror, list_files

logger = logging.getLogger("rlhf.checkpoints")
LOOK_SECONDS = 10.0
_NO_CHECKPOINTS = ("candidates/", "generations/")
_STEP = re.compile(r"(?:^|/)[a-z]+[_-](\d+)/")


def check_address(address: str | None) -> None:
    """Refuse an address that checkpoints cannot be written to, before anything is computed.

    Raises:
        ConfigError: says what the storage said.
    """
    if address is None:
        return
    try:
        Mirror(address).check()
    except Exception as error:  # each kind of storage has errors of its own
        raise ConfigError(
            f"cluster.checkpoint_uri is {address}, where nothing can be written ({one_line(error)}); look at the "
            "address and the credentials in the environment, or clear it"
        ) from error


def address_of(uri: str | None, folder: Path) -> str | None:
    """The address of the copy of a stage's checkpoints; None where none is asked for.

    Args:
        uri: for the checkpoints of all stages.
        folder: the stage's working folder, whose name is that of its fingerprint.
    """
    return None if uri is None else f"{uri.rstrip('/')}/{folder.name}"


@contextmanager
def mirrored(checkpoints: Path, address: str | None, may_copy: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Bring checkpoints that another host has left, and copy new ones while the block lasts.

    A copy that fails is told of, and holds nothing up.

    Args:
        checkpoints: of the stage's attempts on this host.
        address: of the copy; None for none.
        may_copy: raises where another attempt has taken over, whose copy it is then.
    """
    if address is None:
        yield
        return
    mirror = Mirror(address)
    _bring(mirror, checkpoints, address)
    ended = threading.Event()
    copy = partial(_copy, mirror, checkpoints, address, may_copy)
    copies = threading.Thread(target=_copy_until, args=(ended, checkpoints, copy), daemon=True)
    copies.start()
    try:
        yield
    finally:
        ended.set()
        copies.join()


def remove_copy(address: str | None) -> None:
    """Remove a copy that nobody needs any more, since the stage is done."""
    if address is not None:
        with _told("remove", address):
            Mirror(address).remove()


def _bring(mirror: Mirror, checkpoints: Path, address: str) -> None:
    try:
        names = mirror.names()
        here = list_files(checkpoints).stamps if checkpoints.is_dir() else {}
        if names and (not here or last_step(names) > last_step(here)):
            mirror.fetch(checkpoints)
            logger.info("checkpoints were brought from %s", address)
    except ArtifactMismatchError as error:
        logger.warning("the checkpoints at %s are not used: %s", address, error)


def last_step(names: Iterable[str]) -> int:
    """The highest step that a checkpoint is of; -1 without one."""
    steps = (_STEP.search(name) for name in names if not name.startswith(_NO_CHECKPOINTS))
    return max((int(step[1]) for step in steps if step), default=-1)


def _copy_until(ended: threading.Event, checkpoints: Path, copy: Callable[[Listing], bool]) -> None:
    last = Listing({})
    while True:
        over = ended.wait(LOOK_SECONDS)
        listing = list_files(checkpoints)
        if listing != last and copy(listing):
            last = listing
        if over:
            return


def _copy(mirror: Mirror, checkpoints: Path, address: str, may_copy: Callable[[], None], listing: Listing) -> bool:
    with _told("copy", address):
        may_copy()
        return mirror.push(checkpoints, listing)
    return False


@contextmanager
def _told(what: str, address: str) -> Iterator[None]:
    """Each kind of storage has errors of its own, and training goes on after any of them."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # see above
        logger.warning("could not %s the checkpoints at %s: %s", what, address, one_line(error))
