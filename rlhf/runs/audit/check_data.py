"""Is data/ what the run has read: by DVC's md5, and where it is not, by file and line."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from rlhf.data.embedded import generated
from rlhf.data.versions.repository import TRACKED, is_md5, md5_in, opened, read_dvc_file
from rlhf.data.versions.stores import parse_manifest
from rlhf.errors import DataError
from rlhf.files.hashing import dvc_md5
from rlhf.paths import root
from rlhf.provenance.record import DataRecord
from rlhf.references import DataSource
from rlhf.runs.audit.findings import Finding, Ledger

Files = dict[str, tuple[str, Path | None]]
"""The files of a version by their path in data/: md5, and where the content is; None where it is gone."""
_CACHE = "DVC's cache"
_SHOWN = 60  # characters of a line


def check_data(ledger: Ledger, data: DataRecord, path: str) -> None:
    """Hold the data where the run has read it against the run's md5, and data/ against data.dvc.

    Args:
        ledger: where it is written down.
        data: what the run has on record.
        path: where it was read; the record of a folder elsewhere holds its name alone.
    """
    folder = root() / path
    if data.embedded is not None and not folder.exists():
        with generated(data.embedded) as made:
            ledger.checked["data"] += 1
            if dvc_md5(made) != data.md5:
                ledger.notes.append(
                    f"the generator of {data.embedded} in this clone makes other data than version {data.md5}; that of "
                    f"the run's commit makes it"
                )
        return
    if not folder.exists():
        ledger.notes.append(f"{path} is not here, so only what DVC's cache holds of version {data.md5} was looked at")
        _check_cached(ledger, data)
        return
    md5 = ledger.md5(folder)
    version = _version_now(folder)
    if md5 != data.md5 and version not in (None, data.md5):
        assert version is not None
        ledger.notes.append(f"{path} is at another version, {version}; the run has read {data.md5}")
        _check_cached(ledger, data)
        _check_folder(
            ledger, DataRecord.model_validate(data.model_dump() | {"md5": version, "embedded": None}), folder, md5
        )
    else:
        _check_folder(ledger, data, folder, md5)


def check_version(ledger: Ledger, source: DataSource) -> None:
    """Check whether a version of the data is here, in its folder or in DVC's cache, and is what its md5 says."""
    folder = root() / source.path
    if folder.exists() and ledger.md5(folder) == source.md5:
        ledger.checked["data"] += 1
        return
    _check_cached(ledger, source)


def _version_now(folder: Path) -> str | None:
    """The version that data.dvc names for data/; None for data elsewhere, and where nothing says it."""
    if not _is_tracked(folder):
        return None
    try:
        return md5_in(read_dvc_file(root()))
    except DataError:
        return None


def _is_tracked(folder: Path) -> bool:
    return folder.resolve() == (root() / TRACKED).resolve()


def _check_folder(ledger: Ledger, data: DataRecord, folder: Path, md5: str) -> None:
    ledger.checked["data"] += 1
    # A .dvcignore changes DVC's hash, so DVC has the last word on a difference.
    if md5 == data.md5 or (data.tracked and _is_tracked(folder) and _hash_by_dvc(ledger) == data.md5):
        return
    with _recorded(ledger, data) as recorded:
        findings = list(_changes(folder, recorded)) if recorded is not None and folder.is_dir() else []
    ledger.findings += findings or [Finding("data", data.path, f"md5 {data.md5}", f"md5 {md5}")]
    if not findings:
        ledger.notes.append(f"version {data.md5} of the data is in no cache here, so what has changed cannot be named")


def _hash_by_dvc(ledger: Ledger) -> str | None:
    try:
        with opened(root(), "DVC cannot read the folder") as repo:
            (out,) = repo.find_outs_by_path(str(root() / TRACKED))
            value: str | None = out.get_hash().value
    except DataError as error:
        ledger.notes.append(f"DVC was not asked for the md5 of data/: {error}")
        return None
    return value


@contextmanager
def _recorded(ledger: Ledger, data: DataRecord) -> Iterator[Files | None]:
    """The files of a version; None where nobody knows them."""
    cached = _cached(ledger, data.md5) if data.tracked else None
    if cached is not None:
        yield cached
    elif data.embedded is not None:
        with generated(data.embedded) as folder:
            made: Files = {name: (dvc_md5(path), path) for name, path in sorted(_files_below(folder).items())}
            yield made if dvc_md5(folder) == data.md5 else None
    else:
        yield None


def _cached(ledger: Ledger, md5: str) -> Files | None:
    """The files that DVC's cache has of a version; None, and a note, where there is no repository to ask."""
    try:
        return _in_cache(ledger, md5)
    except DataError as error:
        ledger.notes.append(f"DVC's cache was not looked into: {error}")
        return None


def _in_cache(ledger: Ledger, md5: str) -> Files | None:
    if not is_md5(md5):
        raise DataError(f"{md5!r} is no md5 of DVC's")
    with opened(root(), "DVC's cache cannot be read") as repo:
        cache = repo.cache.local
        listing = Path(cache.oid_to_path(md5))
        if not listing.is_file():
            return None
        if not md5.endswith(".dir"):
            return {"": (md5, listing)}
        if not ledger.compare("data", _CACHE, f"the list of version {md5}", md5, f"{ledger.md5(listing)}.dir"):
            return None
        try:
            listed = parse_manifest(listing.read_bytes(), f"version {md5}")
        except ValueError as error:
            raise DataError(f"{listing}: the list of the version's files cannot be used ({error})") from None
        paths = {name: (file, Path(cache.oid_to_path(file))) for name, file in listed.items()}
    return {name: (md5, path if path.is_file() else None) for name, (md5, path) in paths.items()}


def _check_cached(ledger: Ledger, data: DataRecord | DataSource) -> None:
    """Every file of a version in DVC's cache has the md5 that it is kept under."""
    files = _cached(ledger, data.md5) if data.tracked else None
    if files is None:
        again = "; its generator makes it again" if data.embedded else ""
        ledger.notes.append(f"version {data.md5} of the data is not in DVC's cache here{again}")
        return
    for name, (md5, path) in files.items():
        actual = ledger.md5(path) if path is not None else None
        ledger.compare("data", _CACHE, f"{name} of version {data.md5}", md5, actual)


def _files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _changes(folder: Path, recorded: Files) -> Iterator[Finding]:
    here = _files_below(folder)
    for name in sorted({*here, *recorded}):
        what = f"{folder.name}/{name}"
        if name not in recorded:
            yield Finding("data", what, "no such file", f"a file of {here[name].stat().st_size} bytes")
        elif name not in here:
            yield Finding("data", what, f"md5 {recorded[name][0]}", "gone")
        elif (actual := dvc_md5(here[name])) != recorded[name][0]:
            md5, original = recorded[name]
            if original is None or not here[name].is_file():
                yield Finding("data", what, f"md5 {md5}", f"md5 {actual}")
            else:
                yield _first_line(what, original, here[name])


def _first_line(what: str, original: Path, path: Path) -> Finding:
    """The first line at which two files differ."""
    with original.open("rb") as then, path.open("rb") as now:
        first, num_before, num_now, num_changed = None, 0, 0, 0
        for number, (old, new) in enumerate(zip_longest(then, now), start=1):
            num_before += old is not None
            num_now += new is not None
            num_changed += old != new
            if old != new and first is None:
                first = (number, old, new)
    assert first is not None, f"{path} has another hash and the same lines"
    number, old, new = first
    start = _parting(old or b"", new or b"")
    more = f" (line {number} is the first of {num_changed} that differ)" if num_changed > 1 else ""
    rows = f"; {num_now} lines, and there were {num_before}" if num_now != num_before else ""
    return Finding("data", f"{what}:{number}", _excerpt(old, start), _excerpt(new, start) + more + rows)


def _parting(old: bytes, new: bytes) -> int:
    """The first place at which two lines differ."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(old), len(new)))


def _excerpt(line: bytes | None, start: int) -> str:
    if line is None:
        return "no such line"
    text = line.rstrip(b"\n").decode(errors="replace")
    begin = max(0, start - _SHOWN // 2)
    cut = text[begin : begin + _SHOWN]
    return f"{'...' if begin else ''}{cut}{'...' if begin + _SHOWN < len(text) else ''}"
