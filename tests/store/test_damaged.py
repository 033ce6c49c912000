"""A valid database with damaged values: every door gives right results or one sentence, never an exception, never other numbers.

Each value of each table is replaced by what it cannot be.  `find` is the judge of what a database may hold; where it finds fault,
a door refuses in one sentence or gives what it gave before the damage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import shutil
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyglove as pg
import pytest

import nas
from nas.cli.app import run
from nas.errors import NasError
from nas.evaluate.predicted import unpack
from nas.store import ArchMeasurement, NewTrial, Report, Store, open_store
from nas.store.damage import RULES, find
from nas.store.schema import metadata
from nas.study.measuring import fit

OBJECTIVES = ["max quality", "min cost"]
SPACE = nas.Space(
    pg.Dict(
        width=pg.oneof([16, 32, 64]),
        kind=pg.oneof([pg.Dict(name="a", rate=pg.floatv(0.0, 1.0)), pg.Dict(name="b"), None]),
        bias=pg.oneof([True, False, 2]),
    ),
    name="toy",
)
TABLES = sorted(metadata.tables)


def evaluate(arch: nas.Arch) -> dict[str, float]:
    width = float(arch.choices["width"])
    if arch.choices["bias"] == 2 and width == 64:
        raise RuntimeError("no such layer")
    return {"quality": width / 64 + 0.01 * len(arch.choices), "cost": width, "load": 0.5}


def measured(*_: Any) -> float:
    return 1.0


def study(name: str, store: Path, **options: Any) -> nas.Study:
    options = {"trials": 12, "algorithm": nas.RandomSearch(), **options}
    return nas.Study(
        name,
        space=SPACE,
        objectives=OBJECTIVES,
        evaluators=[evaluate],
        constraints=["cost <= 40"],
        store=store,
        **options,
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with something in every column of every table."""
    path = tmp_path_factory.mktemp("sound") / "nas.db"
    for one in (study("main", path), study("heir", path, algorithm=nas.Transfer("random", ["main"]), trials=3)):
        with contextlib.closing(one):
            one.run(workers=0, progress=False)
    with open_store(path) as store:
        record = store.open_study("main")
        rng = random.Random(1)
        known, fresh = record.keys(), []
        while len(fresh) < 3:
            arch = SPACE.sample(rng)
            if arch.key not in known:
                known.add(arch.key)
                fresh.append(NewTrial(arch.key, arch.row(), 7))
        record.add(fresh)
        (claim,) = record.claim("somewhere/1/2#0", 1, 1e9)
        record.measure(claim.number, "quality", 0.1, 1)
        record.measure(claim.number, "quality", 0.2, 2)
        record.annotate({"a": [1, {"b": None}]}, 1)
        record.annotate({"of the study": "text"})
        board = nas.Custom("board", measured)
        store.hardware.add_device(board.key, board.describe())
        archs = {arch.key: arch for arch in (SPACE.sample(rng) for _ in range(40))}
        rows = [
            ArchMeasurement(
                key, arch.row(), 1.0 + float(arch.choices["width"]), details={"load": 0.5}, environment={"cpu": "x"}
            )
            for key, arch in archs.items()
        ]
        store.hardware.add_measurements(board.key, SPACE.fingerprint, rows)
        fit(SPACE, store.hardware, board, "ridge")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ' NOT NULL', '') WHERE type = 'table'")
    connection.close()
    return path


# -- doors -----------------------------------------------------------------------------------------------------------------


def _frame(frame: Any) -> Any:
    return [(int(number), {name: _plain(value) for name, value in row.items()}) for number, row in frame.iterrows()]


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def _history(store: Store) -> Any:
    found = store.open_study("main").history()
    return (
        found.numbers.tolist(),
        found.keys,
        list(found.rows),
        [found.rows[at] for at in range(len(found))],
        found.states,
        found.values.tolist(),
        [_plain(one) for one in found.violations.tolist()],
        found.pending,
        found.schemas,
    )


def _predicted(store: Store) -> Any:
    one = unpack(store.hardware.predictor("board", SPACE.fingerprint), SPACE)
    return [column.tolist() for column in one.predict([SPACE.smallest, SPACE.largest])]


def _trials(store: Store) -> Any:
    record = store.open_study("main")
    return [record.trial(number) for number in range(sum(record.counts().values()))]


def _many(store: Store) -> Any:
    """A history read by columns, as that of a large study is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.store.history._MANY", 0)
        return _history(store)


READING: dict[str, Callable[[Store], Any]] = {
    "names": lambda store: store.names(),
    "studies": lambda store: store.studies(),
    "history": _history,
    "history by columns": _many,
    "front": lambda store: _frame(store.open_study("main").front()),
    "front of a filter": lambda store: _frame(store.open_study("main").front("cost < 100 and width >= 16")),
    "front of a condition": lambda store: _frame(store.open_study("heir").front("bias == True or width == 32")),
    "trials": lambda store: _frame(store.open_study("main").trials()),
    "columns": lambda store: _frame(
        store.open_study("main").trials(columns=["width", "kind", "bias", "number", "quality"])
    ),
    "few": lambda store: _frame(store.open_study("main").trials("number == 1")),
    "curve": lambda store: store.open_study("main").curve().to_dict(),
    "trial": _trials,
    "notes": lambda store: (store.open_study("main").all_notes(), store.open_study("main").notes(1)),
    "settings": lambda store: (store.open_study("heir").settings, store.open_study("main").schema),
    "devices": lambda store: store.hardware.devices(),
    "measurements": lambda store: store.hardware.measurements("board", SPACE.fingerprint),
    "predictors": lambda store: store.hardware.predictors(),
    "predicted": _predicted,
}


def _command(*words: str) -> Callable[[Path], Any]:
    def door(path: Path) -> Any:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*words, "--store", str(path)])
        if code:
            assert code == 2
            assert err.getvalue().count("\n") == 1, err.getvalue()
            raise NasError(err.getvalue().strip())
        return out.getvalue().replace(str(path), "nas.db")

    return door


def _written(*words: str, name: str) -> Callable[[Path], Any]:
    def door(path: Path) -> Any:
        _command(*words, str(path.with_name(name)))(path)
        written = path.with_name(name)
        return written.read_bytes() if written.suffix == ".csv" else None

    return door


def _copied(path: Path) -> Any:
    with open_store(path, create=False, read_only=True) as source, open_store(path.with_name("copy.db")) as target:
        return source.copy_to(target).rows


def _resumed(path: Path) -> Any:
    with contextlib.closing(study("main", path, trials=15)) as again:
        asked = [(one.number, one.arch.choices) for one in again.ask(1)]
        return asked, [again.arch(number).choices for number in range(12)], _frame(again.front()), again.best()["cost"]


def _inherited(path: Path) -> Any:
    with contextlib.closing(study("heir", path, algorithm=nas.Transfer("random", ["main"]), trials=4)) as heir:
        return [(one.number, one.arch.choices) for one in heir.ask(1)]


def _taken(path: Path) -> Any:
    with open_store(path) as store:
        record = store.open_study("main")
        expired = record.requeue_expired(now=2e9)
        claims = record.claim("me", 5)
        told = [Report(one.number, "me", one.attempt, "COMPLETED", {"quality": 0.1, "cost": 1.0}) for one in claims]
        return expired, [(one.number, one.row) for one in claims], [receipt.state for receipt in record.report(told)]


OPENING: dict[str, Callable[[Path], Any]] = {
    "nas studies": _command("studies"),
    "nas show": _command("show", "main", "--all"),
    "nas show json": _command("show", "main", "--format", "json"),
    "nas front": _command("front", "main"),
    "nas front csv": _written("front", "main", "-o", name="front.csv"),
    "nas devices": _command("devices", "--format", "json"),
    "nas predictor show": _command("predictor", "show"),
    "nas db current": _command("db", "current"),
    "copy": _copied,
    "claim and report": _taken,
    "resume": _resumed,
    "transfer": _inherited,
}
SLOW: dict[str, Callable[[Path], Any]] = {
    "nas front html": _written("front", "main", "-o", name="front.html"),
    "nas export-optuna": _written("export-optuna", "main", "--quiet", name="optuna.db"),
}


# -- damage ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """One value of one row that is replaced."""

    table: str
    column: str
    row: int
    value: Any

    def __str__(self) -> str:
        return f"{self.table}.{self.column}[{self.row}] = {repr(self.value)[:60]}"


NOT_UTF8 = object()  # text whose bytes are none
WRONG = [
    None,
    b"\xff\xfe",
    NOT_UTF8,
    "text",
    "1_000",
    "12abc",
    "nan",
    "",
    5,
    -3,
    2.5,
    float("inf"),
    10**18,
    "\x1b[2J",
    "[1",
    "{}",
    "[]",
]
WRONG += [
    "null",
    "NaN",
    '{"a": 1}',
    "[" * 100_000,
    "[NaN]",
    "[1,2,3,4]",
    "[9,0,null,0]",
    "[0,0,0.5,true]",
    "[0,0,-7,0]",
    "[0;0",
]


def mutated(value: Any) -> Iterator[Any]:
    """JSON values that differ from this one in one place."""
    for other in (None, "x", -1, float("nan"), [], {}, 10**30):
        if other != value:
            yield other
    if isinstance(value, dict):
        for key, item in value.items():
            yield {name: one for name, one in value.items() if name != key}
            for other in mutated(item):
                yield {**value, key: other}
    if isinstance(value, list):
        for at, item in enumerate(value[:3]):
            yield value[:at] + value[at + 1 :]
            for other in mutated(item):
                yield [*value[:at], other, *value[at + 1 :]]


def damages(path: Path) -> list[Damage]:
    """Every replacement of the first and another value of every column."""
    found = []
    with sqlite3.connect(path) as connection:
        for table in TABLES:
            for column in metadata.tables[table].columns.keys():  # noqa: SIM118  (of SQLAlchemy)
                values = [value for (value,) in connection.execute(f'SELECT "{column}" FROM "{table}"')]
                for row in sorted({0, len(values) // 2, len(values) - 1}):
                    found += [
                        Damage(table, column, row, wrong)
                        for wrong in WRONG
                        if wrong is NOT_UTF8 or wrong != values[row]
                    ]
                if isinstance(values[0], str) and values[0].startswith(("[", "{")):
                    texts = {json.dumps(other) for other in mutated(json.loads(values[0]))}
                    found += [Damage(table, column, 0, text) for text in sorted(texts - {values[0]})]
    connection.close()
    return found


def apply(damage: Damage, path: Path) -> bool:
    """Damage the database; False where a constraint of it does not let that happen."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        keys = [column.name for column in metadata.tables[damage.table].primary_key.columns]
        names = ", ".join(f'"{key}"' for key in keys)
        row = connection.execute(f'SELECT {names} FROM "{damage.table}" LIMIT 1 OFFSET {damage.row}').fetchone()
        where = " AND ".join(f'"{key}" = ?' for key in keys)
        given = "CAST(X'61FF' AS TEXT)" if damage.value is NOT_UTF8 else "?"
        values = row if damage.value is NOT_UTF8 else (damage.value, *row)
        try:
            with connection:
                connection.execute(f'UPDATE "{damage.table}" SET "{damage.column}" = {given} WHERE {where}', values)
        except (sqlite3.IntegrityError, OverflowError):
            return False
    return True


def opened(door: Callable[[Any], Any], path: Path, folder: Path) -> Any:
    """What a door gives for a database of its own, so that one which writes does not change another's."""
    own = folder / "door.db"
    for left in folder.iterdir():
        left.unlink()
    shutil.copyfile(path, own)
    return door(own)


def judge(name: str, door: Callable[[], Any], before: Any, valid: bool) -> str | None:
    """What is wrong with what a door does; None if nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            after = door()
    except NasError as error:
        text = str(error)
        return None if "\n" not in text and len(text) < 3_000 else f"{name}: no sentence: {text[:200]}"
    except Exception as error:
        return f"{name}: {type(error).__name__}: {str(error)[:200]}"
    same = valid or repr(after) == repr(before)
    if name == "trial" and not same:  # of what is no objective nobody can say that it is missing
        same = repr([_without(one, "load") for one in after]) == repr([_without(one, "load") for one in before])
    return None if same else f"{name}: gives {repr(after)[:300]} where it gave {repr(before)[:300]}"


def _without(record: Any, metric: str) -> Any:
    names = [name for name in record.measurements if name != metric]
    return dataclasses.replace(record, measurements={name: record.measurements[name] for name in names})


@pytest.fixture(scope="module")
def baseline(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("baseline")
    with open_store(sound, read_only=True) as store:
        before = {name: door(store) for name, door in READING.items()}
    return before | {name: opened(door, sound, folder) for name, door in {**OPENING, **SLOW}.items()}


def check(damage: Damage, sound: Path, baseline: dict[str, Any], folder: Path, doors: dict[str, Any]) -> list[str]:
    path = folder / "damaged.db"
    shutil.copyfile(sound, path)
    if not apply(damage, path):
        return []
    own = folder / "own"
    own.mkdir(exist_ok=True)
    faults = []
    try:
        with open_store(path, create=False, read_only=True) as store:
            with store._database.read() as sql:
                valid = False
                with contextlib.suppress(Exception), store._database.backend.lenient(sql._connection):
                    valid = find(sql) is None
            faults += [
                judge(name, lambda door=door: door(store), baseline[name], valid) for name, door in READING.items()
            ]
    except NasError:
        pass
    for name, door in doors.items():
        faults.append(judge(name, lambda door=door: opened(door, path, own), baseline[name], valid))
    return [f"{damage}: {fault}" for fault in faults if fault is not None]


def test_the_rules_know_every_column() -> None:
    for name, table in metadata.tables.items():
        assert list(RULES[name]) == table.columns.keys()


def test_a_sound_database_is_found_sound(sound: Path) -> None:
    with open_store(sound, read_only=True) as store:
        assert store._database.reading(find) is None


def test_damaged_values_are_refused_or_change_nothing(sound: Path, baseline: dict[str, Any], tmp_path: Path) -> None:
    every = damages(sound)
    some = random.Random(5).sample(every, 60)
    faults = [fault for damage in some for fault in check(damage, sound, baseline, tmp_path, {})]
    few = random.Random(6).sample(every, 8)
    faults += [fault for damage in few for fault in check(damage, sound, baseline, tmp_path, OPENING)]
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_so_are_all_of_them(table: str, sound: Path, baseline: dict[str, Any], tmp_path: Path) -> None:
    every = [damage for damage in damages(sound) if damage.table == table]
    if len(every) > 160:  # mutations of JSON are many and alike
        every = random.Random(1).sample(every, 160)
    faults = []
    for count, damage in enumerate(every):
        doors = {**OPENING, **(SLOW if count % 40 == 0 else {})} if count % 8 == 0 else {}
        faults += check(damage, sound, baseline, tmp_path, doors)
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:60])
