"""The commands that keep house: doctor, db."""

from __future__ import annotations

from cyclopts import App

from nas.cli.root import StoreOption, app
from nas.cli.stores import keep, of_any_revision, shown_of, url_of
from nas.errors import NasError

db = App(name="db", help="The database's schema.")
app.command(db)


@app.command
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


@db.command(name="copy")
def copy_database(source: str, target: str, *, quiet: bool = False) -> None:
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

    original, copy = keep(open_store(source, create=False, read_only=True)), keep(open_store(target))
    with copying(quiet) as progress:
        copied = original.copy_to(copy, progress)
    print_text(f"copied {shown(source)} to {shown(target)}: {copied}")
