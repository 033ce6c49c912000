"""Writing files: whole or not at all, and never over what somebody else made.

A writer works in a scratch folder beside its target and puts the result in the target's place in one step, so that neither a
kill nor a full disk leaves half a file.  It holds a lock in that folder while it lives: what a killed writer left is a folder
whose lock is free, which the next process that writes beside it removes.

A target that exists is replaced where its content shows that the same writer made it, where it is empty, or where the user
insists (`force`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from nas.errors import NasError

SCRATCH = ".supernas-w-"
"""How the names of scratch folders begin."""

INSIST = "--force (in Python: force=True)"
"""How a sentence names what writes over a file that is there."""

_LOCK = "lock"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_swept: set[str] = set()  # a process looks into a folder once: one with many files takes long to list


# -- whole or not at all


def write(target: str | Path, content: bytes | str, *, durable: bool = False) -> None:
    """Put `content` (text as UTF-8) in the place of `target`; into a pipe or a device it is just written.

    Args:
        target: file; of a symbolic link, what it refers to.
        content: of the file.
        durable: return only when it is on the disk.

    Raises:
        OSError: it cannot be written; the target is unchanged.
    """
    body = content.encode() if isinstance(content, str) else content
    if _is_special(target):
        with open(target, "wb") as stream:
            stream.write(body)
        return
    with replacing(target, durable=durable) as half:
        half.write_bytes(body)


@contextlib.contextmanager
def replacing(target: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """A path to write to, a file or a folder; at the end of the block what is there takes the place of `target`.

    A file takes over the permissions of the one that it replaces.  Of a folder that is replaced nothing stays.

    Args:
        target: in a folder that exists; of a symbolic link, what it refers to.
        durable: leave the block only when all of it is on the disk.

    Raises:
        OSError: it cannot be written; the target is unchanged.
    """
    place = Path(os.path.realpath(target))
    if _is_special(place):
        raise OSError(errno.EINVAL, "a pipe or a device cannot be replaced", str(target))
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    with scratch(place.parent) as room:
        half = room.path / place.name
        yield half
        room.put(half, place, durable=durable)


@contextlib.contextmanager
def explained(target: str | Path, kind: type[NasError]) -> Iterator[None]:
    """Around what writes `target`: an error of the system as one sentence.

    Raises:
        NasError: of that kind.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{str(target)!r} cannot be written: {why(error)}") from error


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def why(error: OSError) -> str:
    """What a sentence says of a failed write: the system's words, and what to do where the disk is full."""
    said = error.strerror or str(error)
    return f"{said}; make room and do it again, nothing is half written" if is_full(error) else said


def is_full(error: OSError) -> bool:
    """Whether there is no room: on the disk, in the user's quota, or in what a process may write."""
    return error.errno in _FULL


# -- scratch folders


class Scratch:
    """A folder to write in, beside what it is for."""

    def __init__(self, path: Path, mode: int) -> None:
        self.path = path
        self._mode = mode  # of a new file here, where others make theirs for the owner alone

    def put(self, half: Path, place: Path, *, durable: bool = False) -> None:
        """Let what was written in `half`, a file or a folder of this one, take the place of what is in `place`."""
        for file in [half] if half.is_file() else sorted(half.rglob("*")):
            if file.is_file():
                old = place if file == half and place.is_file() else None
                file.chmod(stat.S_IMODE(old.stat().st_mode) if old else self._mode)
            if durable:
                sync(file)
        if half.is_dir() and place.exists():
            place.rename(self.path.parent / "old")
        half.replace(place)
        if durable:
            sync(place.parent)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Scratch]:
    """A new folder in `folder`, which is removed with what is left in it at the end.

    Raises:
        OSError: it cannot be made.
    """
    sweep(folder)
    path, lock = _locked(folder)
    with lock:
        try:
            (path / "new").mkdir()
            yield Scratch(path / "new", stat.S_IMODE(os.fstat(lock.fileno()).st_mode))
        finally:
            shutil.rmtree(path, ignore_errors=True)


def _locked(folder: Path) -> tuple[Path, IO[bytes]]:
    while True:
        path = folder / f"{SCRATCH}{os.urandom(6).hex()}"
        path.mkdir(mode=0o700)
        try:
            lock = (path / _LOCK).open("wb")
        except FileNotFoundError:  # somebody swept the empty folder
            continue
        with contextlib.suppress(OSError):  # a file system without locks: nobody else gets one either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if (path / _LOCK).exists():
            return path, lock
        lock.close()  # somebody who swept had the lock first


def sweep(folder: Path) -> None:
    """Remove what killed writers left in `folder`, once in a process; a folder whose writer lives is locked and stays."""
    if str(folder) in _swept:
        return
    _swept.add(str(folder))
    for left in folder.glob(f"{SCRATCH}*"):
        try:
            lock = (left / _LOCK).open("r+b")
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                left.rmdir()  # its writer was killed before it had a lock, or makes another folder
            continue
        except OSError:
            continue
        with lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)


# -- what may be written over


def check(
    target: Path,
    kind: type[NasError],
    is_own: Callable[[Path], bool] = lambda _: False,
    *,
    force: bool = False,
) -> None:
    """Refuse a file that would be written over; call it before any work.

    Args:
        target: file to write.
        kind: of error to raise.
        is_own: whether a file is an earlier output of the same writer.
        force: write over whatever file is there.

    Raises:
        NasError: of that kind; `target` is a folder, in no folder, or a file that the writer did not make.
    """
    if target.is_dir():
        raise kind(f"{str(target)!r} is a folder; give a file to write")
    if not target.parent.is_dir():
        raise kind(f"folder {str(target.parent)!r} does not exist; make it first, or write elsewhere")
    if not force and target.is_file() and target.stat().st_size and not is_own(target):
        raise kind(
            f"{str(target)!r} exists already and is no earlier output of this kind; give another file, or insist with {INSIST}"
        )


def check_ending(target: Path, format: str, endings: Mapping[str, str], kind: type[NasError]) -> None:
    """Refuse a name whose ending says another format than the one to write.

    Args:
        target: file to write.
        format: to write.
        endings: of names, as `.csv`, to the format that each says.
        kind: of error to raise.

    Raises:
        NasError: of that kind.
    """
    said = endings.get(target.suffix.lower(), format)
    if said != format:
        raise kind(
            f"the ending of {str(target)!r} says {said}, and the format is {format}; give one of them, or an ending that says "
            "none"
        )


def check_folder(
    folder: Path,
    kind: type[NasError],
    listed: Callable[[Path], Iterable[str] | None] = lambda _: None,
    *,
    force: bool = False,
) -> None:
    """Refuse a folder that would be written over; call it before any work.

    Args:
        folder: must be empty or not there, unless `force`.
        kind: of error to raise.
        listed: files that an earlier output of the same writer has, by names relative to it; None where it is none.
        force: write over an earlier output of the same writer, if nothing else is in its folder.

    Raises:
        NasError: of that kind; `folder` is a file, or has something in it.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not force:
        insist = f", or insist with {INSIST}" if folder.is_dir() else ""
        raise kind(f"{str(folder)!r} exists already; give a folder that is empty or not there{insist}")
    own = listed(folder)
    held = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_symlink() or not file.is_dir())
    other = held if own is None else sorted(set(held) - set(own))
    if own is None or other:
        raise kind(
            f"{str(folder)!r} is written over only where all of it is an earlier output of this kind, and it holds "
            f"{repr(other[0]) if other else 'folders'}; remove it yourself, or give another folder"
        )


def beside_database(target: Path, database: Path) -> bool:
    """Whether `target` is a SQLite database's file, by whatever name, or one of those that SQLite keeps beside it."""
    named = {f"{path}{end}" for path in (os.path.abspath(database), os.path.realpath(database)) for end in _BESIDE}
    if {os.path.abspath(target), os.path.realpath(target)} & named:
        return True
    return target.exists() and any(os.path.exists(name) and os.path.samefile(target, name) for name in named)


_BESIDE = ("", "-wal", "-shm", "-journal")


def _is_special(target: str | Path) -> bool:
    """A pipe or a device: nothing is there that could be replaced."""
    try:
        mode = os.stat(target).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
