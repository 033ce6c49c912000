"""The results database: studies by name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as p

from nas.checking import Positive, checked
from nas.errors import StoreError, StudyExists, brief, suggest
from nas.metrics import Constraint, Metric, unit_of
from nas.store import history
from nas.store import statements as s
from nas.store.copying import Copied, Progress, copy
from nas.store.damage import Suspect, of_row, parsed, refuse_strays
from nas.store.database import Database, locate
from nas.store.hardware import HardwareRecord
from nas.store.levels import renamed, whole_of
from nas.store.objectives import change, encoded
from nas.store.records import StudyInfo, StudySummary
from nas.store.schema import HEAD, spaces, studies
from nas.store.settle import study_name_fault
from nas.store.spaces import register
from nas.store.sql import Row, Statement, Transaction
from nas.store.study import StudyRecord
from nas.store.wave import refuse_leased

_STUDY = Statement(
    sa.select(*s.STUDY_COLUMNS, spaces.c.schema)
    .join_from(studies, spaces, spaces.c.id == studies.c.space_id, isouter=True)
    .where(studies.c.name == p("label")),
    "label",
)
_STUDIES = Statement(
    sa.select(studies.c.id, studies.c.name, studies.c.created, studies.c.objectives, spaces.c.schema)
    .join_from(studies, spaces, spaces.c.id == studies.c.space_id, isouter=True)
    .order_by(studies.c.created, studies.c.id)
)


@checked(StoreError)
def open_store(
    url: str | Path,
    *,
    create: bool = True,
    read_only: bool = False,
    any_revision: bool = False,
    patience_s: Positive | None = None,
) -> Store:
    """Open the results database at a path (`results.db`) or URL (`sqlite:///results.db`, `postgresql://user@host/database`).

    Args:
        url: where it is.
        create: make it when it is missing.
        read_only: never write; implies that nothing is made.
        any_revision: open an older or newer database too, to ask `current()` or to `upgrade()` it.
        patience_s: seconds for which work is tried again when the connection is lost; 120 unless given.

    Raises:
        StoreError: it is missing, not a database, somebody else's, older or newer than this code, locked or unreadable; or its
            server does not answer, or refuses the user.
    """
    backend = locate(url)
    making = create and not read_only
    if not making and not backend.exists():
        raise StoreError(f"database {backend.shown} does not exist; check the path, or run a study with it first")
    database = Database(backend, read_only=read_only, patience_s=patience_s)
    try:
        if making and database.revision() is None:
            database.upgrade()
        if not any_revision:
            database.check()
    except BaseException:
        database.close()
        raise
    return Store(database)


class Store:
    """Durable studies.  Use `open_store`; close it, or use it in a `with` statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self._database.shown})"

    @property
    def place(self) -> str:
        """Where it is: the absolute path of the file, or the address without the password."""
        return self._database.backend.place

    def close(self) -> None:
        """Close every connection; the store and its studies cannot be used any more."""
        self._database.close()

    def current(self) -> tuple[str | None, str]:
        """Revision of the database's tables (None: it has none) and the newest one that this code knows."""
        return self._database.revision(), HEAD

    def check(self) -> None:
        """Whether this code can work with the tables, which another program may have changed since.

        Raises:
            StoreError: they are empty, older, newer or somebody else's.
        """
        self._database.check()

    def upgrade(self) -> None:
        """Bring the tables to the newest revision.

        Raises:
            StoreError: they are newer than this code.
        """
        self._database.upgrade()

    def copy_to(self, target: Store, progress: Progress | None = None) -> Copied:
        """Copy everything that is here into an empty database, of the same kind or the other; see `nas.store.copying.copy`.

        Raises:
            StoreError: the target is not empty, or what was written is not what was read; it is left as it was.
        """
        return copy(self._database, target._database, progress or (lambda *_: None))

    @checked(StoreError)
    def create_study(
        self,
        name: str,
        *,
        space_schema: Mapping[str, Any],
        objectives: Sequence[Metric],
        constraints: Sequence[Constraint] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> StudyRecord:
        """A new study.

        Args:
            name: unique in this database.
            space_schema: `Space.schema()`.
            objectives: one or more; the first one sorts the front.
            constraints: what a COMPLETED trial must meet.
            settings: anything JSON that describes how it is run.

        Raises:
            StoreError: there is a study of that name, or no objective, or a metric's name is a column of trials.
        """
        _check_study(name, objectives)
        record = [
            encoded(objectives),
            json.dumps([[c.metric, c.op, c.bound] for c in constraints]),
            _dumps(settings or {}),
        ]
        now = time.time()

        def create(sql: Transaction) -> None:
            known = sql.one(s.FIND_STUDY, (name,))
            if known is not None and sql.again and known[1] == now:
                return  # by the first try, whose answer was lost
            if known is not None:
                raise StudyExists(
                    f"study {name!r} already exists in database {self._database.shown}; open it, or choose another name"
                )
            space_id = register(sql, space_schema)
            sql.run(s.ADD_STUDY, (name, now, space_id, *record))
            found = sql.one(s.FIND_STUDY, (name,))
            assert found is not None
            sql.run(s.ADD_STUDY_SPACE, (found[0], space_id))
            # Known from the start, so that a filter may name them before anything was measured.
            units = {c.metric: unit_of(c.metric) for c in constraints} | {m.name: m.unit for m in objectives}
            names = dict.fromkeys([m.name for m in objectives] + [c.metric for c in constraints])
            sql.many(s.ADD_METRIC, [(found[0], metric, units[metric]) for metric in names])

        self._database.writing(create, alone=True)
        return self.open_study(name)

    @checked(StoreError)
    def open_study(self, name: str) -> StudyRecord:
        """The study of that name.

        Raises:
            StoreError: there is none; the names that there are are listed.
        """
        return StudyRecord(self._database, self._database.reading(lambda sql: self._info(sql, name)))

    def mark(self, name: str) -> tuple[Any, ...] | None:
        """What is the same as long as a handle on the study of that name is good; None where there is none.

        It costs one row, so that whoever answers many questions keeps a handle and asks for this.
        """
        return self._database.reading(lambda sql: sql.one(s.STUDY_MARK, (name,)))

    def _info(self, sql: Transaction, name: str) -> StudyInfo:
        row, names = sql.one(_STUDY, (name,)), _names(sql)
        if row is None:
            raise StoreError(self._unknown(name, names))
        of_row("studies", "id created objectives constraints settings space_id schema", row, name)
        study, created, objectives, constraints, settings, space_id, schema = row
        return StudyInfo(
            id=study,
            created=created,
            name=name,
            objectives=tuple(Metric(**fields) for fields in json.loads(objectives)),
            constraints=tuple(Constraint(*fields) for fields in json.loads(constraints)),
            settings=json.loads(settings),
            space_id=space_id,
            schema=parsed("spaces", "schema", schema, name),
        )

    @property
    def hardware(self) -> HardwareRecord:
        """Devices, what was measured on them, and their predictors."""
        return HardwareRecord(self._database)

    def names(self) -> list[str]:
        """Names of the studies, sorted."""
        return self._database.reading(lambda sql: sorted(_names(sql)))

    def studies(self) -> list[StudySummary]:
        """Every study, oldest first."""

        def read(sql: Transaction) -> list[StudySummary]:
            levels = whole_of(sql)
            return [_summary(sql, row, levels.get(row[1])) for row in sql.all(_STUDIES)]

        return self._database.reading(read)

    def levels(self, name: str) -> list[str]:
        """Studies of the low evaluations of the study of that name (`nas.MultiFidelity`), renamed and deleted with it."""
        return [level for level, whole in self._database.reading(whole_of).items() if whole == name]

    def level_of(self, name: str) -> str | None:
        """The study whose low evaluations the study of that name holds; None if it is a study of its own."""
        return self._database.reading(whole_of).get(name)

    @checked(StoreError)
    def delete_study(self, name: str, dead: Callable[[str], bool] | None = None) -> None:
        """Delete a study with all that is stored of it, in one transaction; what other studies learnt from it is theirs.

        The studies of its low evaluations are deleted with it.  Handles on it, here and in other processes, refuse to write from
        then on.

        Args:
            name: of the study.
            dead: given, a study that runs is refused; it says of a worker that it is gone although its lease still runs.

        Raises:
            StoreError: there is none of that name, it holds another's low evaluations, or a worker holds a lease on a trial.
        """

        def delete(sql: Transaction) -> None:
            for info in self._idle(sql, name, dead or (lambda _: True), "is deleted with it"):
                for statement, own in s.DELETE_STUDY:
                    sql.run(statement, (info.id,) if own else ())

        self._database.writing(delete, alone=True)

    @checked(StoreError)
    def rename_study(self, name: str, new: str, dead: Callable[[str], bool] | None = None) -> None:
        """Give a study another name, and the studies of its low evaluations theirs; all that is stored of it stays.

        Args:
            name: of the study.
            new: a name that no study has.
            dead: says of a worker that it is gone although its lease still runs.

        Raises:
            StoreError: there is no such study, it holds another's low evaluations, a new name is none or another study's, or a
                worker holds a lease on a trial.
        """
        _check_name(new)

        def rename(sql: Transaction) -> None:
            if sql.again and sql.one(s.FIND_STUDY, (name,)) is None and sql.one(s.FIND_STUDY, (new,)) is not None:
                return  # by the first try, whose answer was lost
            for info in self._idle(sql, name, dead, "is renamed with it"):
                becomes = new if info.name == name else renamed(info.name, new)
                _check_name(becomes)
                if sql.one(s.FIND_STUDY, (becomes,)) is not None:
                    its = "" if becomes == new else f", which the low evaluations of {name!r} would be called"
                    raise StoreError(
                        f"database {self._database.shown} has a study {becomes!r} already{its}; choose another name for {name!r}"
                    )
                sql.run(s.RENAME_STUDY, (becomes, info.id, info.created))

        self._database.writing(rename, alone=True)

    @checked(StoreError)
    def change_objectives(
        self, name: str, objectives: Sequence[Metric], dead: Callable[[str], bool] | None = None
    ) -> StudyRecord:
        """Give a study other objectives: its front is taken anew from what its trials measured; the trials stay as they are.

        The studies of its low evaluations are given the same.

        Args:
            name: of the study.
            objectives: one or more; the first one sorts the front.
            dead: says of a worker that it is gone although its lease still runs.

        Raises:
            StoreError: there is no such study, it holds another's low evaluations, a COMPLETED trial has no value of an
                objective, or a worker holds a lease on a trial.
        """
        _check_study(name, objectives)

        def work(sql: Transaction) -> None:
            for info in self._idle(sql, name, dead, "has its objectives"):
                change(sql, info, objectives)

        self._database.writing(work, alone=True)
        return self.open_study(name)

    def heirs(self, name: str) -> list[str]:
        """Studies that began with trials of the study of that name, or are declared to; they keep what they took."""

        def read(sql: Transaction) -> list[str]:
            return [heir for heir, text in sql.all(s.SETTINGS) if heir != name and _names_source(text, name, heir)]

        return self._database.reading(read)

    def _idle(self, sql: Transaction, name: str, dead: Callable[[str], bool] | None, follows: str) -> list[StudyInfo]:
        """The study and those of its low evaluations, locked, on which nobody works.

        Args:
            sql: the transaction.
            name: of the study.
            dead: says of a worker that it is gone.
            follows: what becomes of a study of low evaluations when its study is changed.

        Raises:
            StoreError: there is none, it holds another's low evaluations, or somebody works.
        """
        info, levels = self._info(sql, name), whole_of(sql)
        if name in levels:
            raise StoreError(
                f"study {name!r} holds the low evaluations of study {levels[name]!r} and {follows}; name {levels[name]!r} instead"
            )
        family = [info, *(self._info(sql, level) for level, whole in levels.items() if whole == name)]
        for one in family:
            sql.one(s.LOCK_STUDY, (one.id,))
            refuse_leased(sql, one.id, one.name, dead)
        return family

    def _unknown(self, name: str, names: Sequence[str]) -> str:
        shown = ", ".join(brief(known, 100) for known in names[:10]) + (", …" if len(names) > 10 else "")
        have = f"it holds {shown}" if names else "it holds no study yet"
        return f"database {self._database.shown} has no study {name!r}{suggest(name, names)}; {have}"


def _names(sql: Transaction) -> list[str]:
    rows = sql.all(s.STUDY_NAMES)
    for row in rows:
        of_row("studies", "name", row)
    return [name for (name,) in rows]


def _summary(sql: Transaction, row: Row, level_of: str | None) -> StudySummary:
    study, name, created, objectives, schema = row
    of_row("studies", "id name created objectives", row[:4], name)
    space = parsed("spaces", "schema", schema, name)["name"]
    metrics = tuple(Metric(**fields) for fields in json.loads(objectives))
    front = [parsed("front", "finals", text, name, number) for number, text in sql.all(s.FRONT_FINALS, (study,))]
    refuse_strays(sql, s.STRAY_FRONT)
    if sql.one(s.FRONT_AGREEING, (study,)) != (len(front),):
        raise Suspect("a row of the front is not that of its trial")
    by_state, _ = history.counts(sql, study)
    best: dict[str, float] = {}
    if front:  # the best value of an objective is on the front
        best = {m.name: min(finals[m.name] * m.sign for finals in front) * m.sign for m in metrics}
    return StudySummary(name, created, space, metrics, by_state, len(front), best, level_of)


def _names_source(settings: str, name: str, heir: str) -> bool:
    """Whether the settings of study `heir` name the study `name` as one that it learns from."""
    of_row("studies", "settings", (settings,), heir)
    known = json.loads(settings)
    taken = any(isinstance(one, dict) and one.get("study") == name for one in known.get("sources", ()))
    algorithm = known.get("algorithm")
    declared = algorithm.get("from_") if isinstance(algorithm, dict) else None
    return taken or (isinstance(declared, list) and name in declared)


def _check_name(name: str) -> None:
    fault = study_name_fault(name)
    if fault is not None:
        raise StoreError(fault)


def _check_study(name: str, objectives: Sequence[Metric]) -> None:
    if not isinstance(name, str) or not name.strip():
        raise StoreError(f"study name {name!r} is empty; give it a name to find it by")
    if not objectives:
        raise StoreError(f"study {name!r} has no objective; give one, as in 'max accuracy'")
    names = [metric.name for metric in objectives]
    for metric in names:
        if names.count(metric) > 1:
            raise StoreError(f"study {name!r}: objective {metric!r} is given twice")


def _dumps(settings: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(settings))
    except (TypeError, ValueError) as error:
        raise StoreError(f"settings of a study must be JSON: {error}") from error
