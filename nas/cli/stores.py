"""The database that a command works with, closed when the command ends, and how a sentence names it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, TypeVar

from nas.errors import JobError, NasError

if TYPE_CHECKING:
    from nas.store import Store
    from nas.study import Study

T = TypeVar("T", "Store", "Study")

DEFAULT_STORE = "nas.db"

# What a command opened, or may have.
_opened: list[Store | Study] = []


def keep(one: T) -> T:
    """Close this one when the command ends, however it does."""
    _opened.append(one)
    return one


def close_all() -> None:
    """The command has ended."""
    while _opened:
        _opened.pop().close()


def url_of(store: str | None) -> str:
    """The database of --store, of the environment, or the one of this folder."""
    return store or os.environ.get("NAS_STORE") or DEFAULT_STORE


def reading(store: str | None) -> Store:
    """The database to read: it must exist."""
    from nas.store import open_store

    return keep(open_store(url_of(store), create=False))


def of_any_revision(store: str | None) -> Store:
    """The database, whatever its schema."""
    from nas.store import open_store

    return open_store(url_of(store), create=False, any_revision=True)


def shown_of(store: str | None) -> str:
    """How a sentence names the database: without its password."""
    from nas.store.database import shown

    return shown(url_of(store))


def store_hint(where: str) -> str:
    """What to add to a command for it to find this database."""
    return "" if where == shown_of(None) else f" --store {quote(where)}"


def check_output(
    target: Path, store: str | None, is_own: Callable[[Path], bool] = lambda _: False, *, force: bool = False
) -> None:
    """Refuse to write over the database, whatever it is called there, and over what the same command did not make.

    Raises:
        NasError: `target` is one of these.
    """
    from nas import files

    refuse_database(target, store)
    files.check(target, NasError, is_own, force=force)


def refuse_database(target: Path, store: str | None) -> None:
    """Refuse to write over the database or one of the files that SQLite keeps beside it, even where the user insists.

    Raises:
        NasError: `target` is one of these.
    """
    from nas import files
    from nas.store.database import locate
    from nas.store.sqlite import Sqlite

    backend = locate(url_of(store))
    if isinstance(backend, Sqlite) and files.beside_database(target, backend.path):
        raise NasError(f"{str(target)!r} belongs to database {backend.shown}; write somewhere else")


def declared(study: str, job: str | None, store: str | None, again: Sequence[str]) -> Study:
    """A study as its job declares it: the job of the command line, else the one that this user ran.

    What the database calls its job is never imported: it may be somebody else's database.

    Args:
        study: name.
        job: of the command line.
        store: of the command line.
        again: words of the command, to be said again with a job.

    Raises:
        JobError: this user did not run that study here, and gave no job.
    """
    from nas.cli import own
    from nas.study.job import load_job

    opened = reading(store)
    record = opened.open_study(study)
    reference = job or own.recall("job", opened.place, study)
    if reference is None:
        raise _ask(study, record.settings.get("job"), [*again, *(["--store", shown_of(store)] if store else [])])
    found = load_job(str(reference))
    found.rename(study, store=opened)
    return found


def _ask(study: str, stored: object, again: Sequence[str]) -> JobError:
    if not isinstance(stored, str):
        return JobError(
            f"study {study!r} was not run from a job file; say which builds it: nas {join(again)} --job JOB.py"
        )
    return JobError(
        f"study {study!r} is not one that you ran here, and the job that its database names is not imported on its word; "
        f"if that is yours: nas {join(again)} --job {quote(stored)}"
    )
