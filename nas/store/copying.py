"""A whole database into another one, of the same kind or the other: all of it or nothing, and compared afterwards."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from nas.errors import NasError, StoreError, glimpse
from nas.store.damage import SUSPICIOUS
from nas.store.database import Database
from nas.store.schema import metadata, metrics, studies
from nas.store.sql import Insert, Row, Statement, Transaction

#: Called with a table's name, the rows done, and the rows in all; a table twice, first copied and then compared.
Progress = Callable[[str, int, int], None]

_BATCH = 10_000
# Whose measurements and of what, by the identity that their rows have.
_MEASURED = Statement(
    sa.select(metrics.c.id, studies.c.name, metrics.c.name).join_from(
        metrics, studies, metrics.c.study_id == studies.c.id
    )
)


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds: rows by table, and a hash over all of them."""

    rows: dict[str, int]
    digest: str

    def __str__(self) -> str:
        parts = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in self.rows.items() if count)
        return f"{parts or 'nothing'} (hash {self.digest[:12]}, the same in both)"


class _Table:
    """A table's rows in the order of its key, and how to insert them."""

    def __init__(self, table: sa.Table) -> None:
        self.name = table.name
        self.bulk = Insert(table, " ".join(column.name for column in table.columns))
        self.rows = Statement(sa.select(*table.columns).order_by(*table.primary_key.columns))
        self.count = Statement(sa.select(sa.func.count()).select_from(table))
        self.counted = [column for column in table.primary_key.columns if column.name == "id"]


_TABLES = [_Table(table) for table in metadata.sorted_tables]  # what is referred to comes first


def copy(source: Database, target: Database, progress: Progress = lambda *_: None) -> Copied:
    """Copy everything: studies, trials, measurements, fronts, notes, devices, predictors; identities are kept.

    The source is read in one snapshot, so that it may be written meanwhile; the target is written in one transaction, and
    read back before that is committed.

    Args:
        source: what to copy.
        target: of the same revision, and empty.
        progress: told now and then.

    Raises:
        StoreError: the target holds something already, a database fails, a measurement of the source is no finite number (an
            earlier version stored infinities), or what was read back differs; the target is then as it was.
    """
    try:
        return _copied(source, target, progress)
    except NasError:
        raise
    except SUSPICIOUS as error:
        damaged = source.damage(error)
        if damaged is None:
            raise
        raise damaged from error


def _copied(source: Database, target: Database, progress: Progress) -> Copied:
    with source.read() as theirs, target.write() as ours:
        for table in _TABLES:
            if _count(ours, table):
                raise StoreError(
                    f"database {target.shown} holds {table.name.replace('_', ' ')} already, and a copy goes into an empty one; "
                    "give another"
                )
        rows = {table.name: _count(theirs, table) for table in _TABLES}
        whole = hashlib.blake2b(digest_size=16)
        for table in _TABLES:
            report = _reporting(progress, table.name, rows[table.name])
            rows_read = report(theirs.stream(table.rows, _BATCH))
            if table.name == "measurements":
                rows_read = _judged(rows_read, {row[0]: row[1:] for row in theirs.all(_MEASURED)})
            read = _digest(_loading(ours, table, rows_read))
            written = _digest(report(ours.stream(table.rows, _BATCH)))
            if read != written or _count(ours, table) != rows[table.name]:
                raise StoreError(
                    f"table {table.name!r} of {target.shown} is not what was read from {source.shown}; nothing was copied, "
                    "check the disks of both"
                )
            whole.update(read)
        for table in _TABLES:
            if table.counted:
                ours.count_on(table.bulk.table)
        ours.grown(0, rows["trials"])
    return Copied(rows, whole.hexdigest())


def _count(sql: Transaction, table: _Table) -> int:
    row = sql.one(table.count)
    assert row is not None
    return int(row[0])


def _loading(sql: Transaction, table: _Table, batches: Iterable[list[Row]]) -> Iterable[list[Row]]:
    for batch in batches:
        sql.load(table.bulk, batch)
        yield batch


def _judged(batches: Iterable[list[Row]], metrics_by_id: Mapping[int, Row]) -> Iterable[list[Row]]:
    """Rows of measurements, as long as each is one."""
    for batch in batches:
        for metric, _, number, value in batch:
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                study, name = metrics_by_id.get(metric, ("?", "?"))
                raise StoreError(
                    f"metric {name!r} of trial {number} of study {study!r} is {glimpse(value)}, which is no finite number; "
                    "nothing was copied, delete that study and copy again"
                )
        yield batch


def _reporting(progress: Progress, name: str, total: int) -> Callable[[Iterable[list[Row]]], Iterable[list[Row]]]:
    def told(batches: Iterable[list[Row]]) -> Iterable[list[Row]]:
        done = 0
        for batch in batches:
            yield batch
            done += len(batch)
            progress(name, done, total)

    return told


def _digest(batches: Iterable[list[Row]]) -> bytes:
    """A hash that is the same wherever the rows are: numbers and text as Python writes them."""
    found = hashlib.blake2b(digest_size=16)
    for batch in batches:
        found.update(repr([tuple(map(_plain, row)) for row in batch]).encode())
    return found.digest()


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value
