"""The commands that keep house: doctor, db."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclopts import App

from nas.cli.root import KEEP, DatabaseArgument, StoreOption, app
from nas.cli.stores import keep, of_any_revision, shown_of, url_of
from nas.cli.tending import delete, rename
from nas.errors import NasError, StoreError

db = App(name="db", help="The database: its schema, and copies.", group=KEEP)
app.command(db)


@app.command(group=KEEP)
def doctor(*, store: StoreOption = None) -> None:
    """Check versions, devices, threads and the database, and say what to mend."""
    from nas.cli.doctor import examine
    from nas.cli.output import print_table

    findings = examine(url_of(store))
    print_table(["what", "found", "advice"], [[f.what, f.found, f.advice] for f in findings])
    if any(finding.bad for finding in findings):
        raise NasError("something needs mending: see the advice above")


@db.command
def upgrade(*, store: StoreOption = None) -> None:
    """Bring the database to the schema of this version."""
    from nas.cli.output import print_text

    with of_any_revision(store) as opened:
        before, head = opened.current()
        opened.upgrade()
    done = "nothing to do" if before == head else f"upgraded from {before or 'none'}"
    print_text(f"{shown_of(store)}: schema {head}, {done}")


@db.command
def current(*, store: StoreOption = None) -> None:
    """Print the database's schema revision and the one this version needs."""
    from nas.cli.output import print_text

    with of_any_revision(store) as opened:
        revision, head = opened.current()
    print_text(f"{shown_of(store)}: schema {revision or 'none'}, this version of supernas needs {head}")


# The spelling before these were commands of their own.
db.command(rename, show=False)
db.command(delete, show=False)


@db.command(name="copy")
def copy_database(source: DatabaseArgument, target: DatabaseArgument, *, quiet: bool = False) -> None:
    """Copy a database into another, empty one, from SQLite to PostgreSQL or back, and compare the two.

    All of it is copied or nothing.  A study that runs meanwhile is copied as it was at the start.

    Args:
        source: path or URL of what to copy.
        target: path or URL; made if it is a file that is not there.
        quiet: no progress.
    """
    from nas.cli.output import copying, print_text
    from nas.store import open_store
    from nas.store.database import shown

    original = keep(open_store(source, create=False, read_only=True))
    with copying(quiet) as progress, _becoming(target) as place, open_store(place) as copy:
        copied = original.copy_to(copy, progress)
    print_text(f"copied {shown(source)} to {shown(target)}: {copied}")


@contextmanager
def _becoming(target: str) -> Iterator[str | Path]:
    """Where to make the database `target`: a new file appears when it is whole.

    Raises:
        StoreError: it cannot be made, or what belongs to a database of that name lies there.
    """
    from nas import files
    from nas.store.database import locate
    from nas.store.sqlite import Sqlite

    backend = locate(target)
    if not isinstance(backend, Sqlite) or backend.exists():
        yield target
        return
    for left in (Path(f"{backend.path}{end}") for end in ("-wal", "-journal")):
        if left.exists():  # SQLite would take it for a part of the new one
            raise StoreError(f"{str(left)!r} is there without its database; move it away, or copy to another place")
    with files.explained(target, StoreError):
        backend.path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(backend.path, durable=True) as half:
            try:
                yield half
            except StoreError as error:
                raise StoreError(str(error).replace(str(half), str(backend.path))) from error
            assert not Path(f"{half}-wal").exists(), "closing it has written everything into the file"
