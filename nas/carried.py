"""Files that a pickle refers to by path and hash, and where they are on a machine that does not have that path.

Whoever pickles collects what is referred to; whoever unpickles on another machine asks `find` where the files are there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from nas import files, sealed
from nas.errors import RunnerError

_KEPT_S = 24 * 3600.0  # copies that nobody has used for so long are removed


@dataclass(frozen=True)
class File:
    """One file of a folder."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Folder:
    """Files that belong together, `digest` being the hash that they are known by."""

    path: str
    digest: str
    files: tuple[File, ...]

    @property
    def is_here(self) -> bool:
        """Whether this machine has them at their path, with their sizes; whoever reads them compares the hash."""
        return all(_size(Path(self.path) / file.name) == file.size for file in self.files)


Read = Callable[[int, int, int], bytes]
"""Bytes of a folder's file: its index, the offset, how many."""

CHUNK = 4 * 2**20

_collecting: ContextVar[dict[tuple[str, str], Folder] | None] = ContextVar("collecting", default=None)
_copies: dict[tuple[str, str], str] = {}


@contextlib.contextmanager
def collecting() -> Iterator[dict[tuple[str, str], Folder]]:
    """Inside the block, what is pickled notes here which folders it refers to."""
    found: dict[tuple[str, str], Folder] = {}
    token = _collecting.set(found)
    try:
        yield found
    finally:
        _collecting.reset(token)


def refer(path: str, digest: str, describe: Callable[[], Folder]) -> None:
    """Note that a pickle in the making refers to a folder; `describe` is called where somebody collects."""
    found = _collecting.get()
    if found is not None and (path, digest) not in found:
        found[path, digest] = describe()


def find(path: str, digest: str) -> str:
    """Where the folder that another machine calls `path` is on this one."""
    return _copies.get((path, digest), path)


def fetch(folder: Folder, read: Read) -> Path:
    """Have a copy of `folder` on this machine, made by whichever of its processes comes first, and `find` it from now on.

    Args:
        folder: what to copy.
        read: gives the bytes; called by one process of a machine only.

    Raises:
        RunnerError: the copy cannot be written, or is not what `folder` says.
    """
    kept = _home()
    place = kept / folder.digest
    try:
        with (kept / f"{folder.digest}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_copy(folder, place):
                _prune(kept)
                _write(folder, place, read)
            os.utime(place)
    except (OSError, sealed.Damaged) as error:
        said = getattr(error, "strerror", None) or error
        raise RunnerError(
            f"'{folder.path}' is not on {os.uname().nodename} and cannot be copied to '{kept}' ({said}); "
            "make room there, or let TMPDIR name another folder"
        ) from error
    _copies[folder.path, folder.digest] = str(place)
    return place


def _home() -> Path:
    folder = Path(tempfile.gettempdir()) / f"supernas-{os.getuid()}" / "carried"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RunnerError(f"'{folder}' belongs to another user; remove it, or let TMPDIR name a folder of yours")
    return folder


def _is_copy(folder: Folder, place: Path) -> bool:
    return all(_size(place / file.name) == file.size for file in folder.files)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _write(folder: Folder, place: Path, read: Read) -> None:
    """The copy, in a folder of its own until it is whole and what it should be."""
    with files.replacing(place) as new:
        new.mkdir()
        for index, file in enumerate(folder.files):
            digest = hashlib.sha256()
            with sealed.inside(new, file.name).open("wb") as out:
                for chunk in _chunks(index, file.size, read):
                    out.write(chunk)
                    digest.update(chunk)
            if digest.hexdigest() != file.sha256:
                raise RunnerError(
                    f"'{Path(folder.path) / file.name}' arrived on {os.uname().nodename} with another hash than it was sent "
                    "with; was it changed meanwhile? start again"
                )


def _chunks(index: int, size: int, read: Read) -> Iterable[bytes]:
    for offset in range(0, size, CHUNK):
        yield read(index, offset, min(CHUNK, size - offset))


def _prune(kept: Path) -> None:
    """Remove copies that were not used lately; a process that has mapped one keeps it until it ends."""
    for place in kept.iterdir():
        if place.is_dir() and not place.name.startswith(".") and time.time() - place.stat().st_mtime > _KEPT_S:
            for file in place.iterdir():
                file.unlink(missing_ok=True)
            place.rmdir()
