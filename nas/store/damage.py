"""What a database may hold, in one place, and where it holds something else.

SQLite keeps text in a column of numbers, files are edited and disks fail, and a shared database has other writers.  Readers
check what they rely on as cheaply as they can: single rows by the rules here (`check`), columns as a whole (`Suspect`).  Where
that fails, or the reading does, `find` searches all tables for the value that is to blame and names it: table, study, trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from nas.errors import DatabaseError, MetricError, brief
from nas.measurements import name_fault
from nas.metrics import Constraint, Metric
from nas.store.records import FINISHED, STATES
from nas.store.schema import FINAL, metadata
from nas.store.sql import Row, Statement, Transaction

#: What reading a damaged value may raise.
SUSPICIOUS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
_MANY = 10_000
_ADVICE = "supernas did not write that: restore a copy of the database"

#: What is wrong with a value, as "expected …" says it; None if nothing is.
Rule = Callable[[Any], str | None]


class Suspect(Exception):
    """Columns that do not fit together; `find` says which value is to blame."""


def sentence(table: str, what: str, study: object = None, trial: object = None) -> str:
    """`table 'trials', study 'grid', trial 3: …`"""
    where = f"table {table!r}"
    where += "" if study is None else f", study {brief(repr(study), 80)}"
    where += "" if trial is None else f", trial {brief(repr(trial), 40)}"
    return f"{where}: {what}; {_ADVICE}"


def check(table: str, values: Mapping[str, Any], study: object = None, trial: object = None) -> None:
    """Whether the columns of a row hold what they may.

    Args:
        table: whose row it is.
        values: by column.
        study: name, for the message.
        trial: number, for the message.

    Raises:
        StoreError: one does not.
    """
    for column, value in values.items():
        fault = RULES[table][column](value)
        if fault is not None:
            raise DatabaseError(sentence(table, _said(column, value, fault), study, trial))


def refuse_strays(sql: Transaction, *strays: Statement) -> None:
    """Whether rows refer to what is there.

    Args:
        sql: the snapshot.
        strays: of `statements`, each of which counts rows that do not.

    Raises:
        Suspect: one does not.
    """
    answers = [sql.soon(statement) for statement in strays]
    if any(answer() != [(0,)] for answer in answers):
        raise Suspect("a row refers to what is not there")


def _said(column: str, value: object, fault: str) -> str:
    return f"{column} is {brief(repr(value), 60)}, expected {fault}"


# -- single values ---------------------------------------------------------------------------------------------------------


def _whole(low: int = 0, *, null: bool = False) -> Rule:
    expected = f"a whole number of {low} or more{' or nothing' if null else ''}"

    def rule(value: Any) -> str | None:
        good = (null and value is None) or (type(value) is int and low <= value < 2**63)
        return None if good else expected

    return rule


def _number(low: float = -math.inf, *, null: bool = False, finite: bool = True) -> Rule:
    expected = f"a{' finite' * finite} number{f' of {low:g} or more' if low > -math.inf else ''}{' or nothing' * null}"

    def rule(value: Any) -> str | None:
        if null and value is None:
            return None
        good = type(value) in (int, float) and value >= low and (not finite or abs(value) < math.inf)
        return None if good else expected

    return rule


def _text(*, null: bool = False, among: tuple[str, ...] = (), empty: bool = False) -> Rule:
    expected = f"one of {', '.join(among)}" if among else f"text{' or nothing' * null}"

    def rule(value: Any) -> str | None:
        if null and value is None:
            return None
        if not isinstance(value, str) or (among and value not in among) or not (value or empty):
            return expected
        return None if value.isascii() or not _surrogates(value) else f"{expected} in UTF-8"

    return rule


def _surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _bytes(value: Any) -> str | None:
    return None if isinstance(value, bytes | memoryview) else "bytes"


def _json(rule: Rule) -> Rule:
    def whole(text: Any) -> str | None:
        if not isinstance(text, str):
            return "JSON text"
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return "JSON"
        return rule(value)

    return whole


def _metric_name(value: Any) -> str | None:
    return "a name of a metric" if not isinstance(value, str) or name_fault(value, stored=True) else None


def _objectives(value: Any) -> str | None:
    try:
        made = [Metric(**fields) for fields in value]
        good = made and all(isinstance(one.unit, str) and not name_fault(one.name, stored=True) for one in made)
    except (TypeError, MetricError):
        good = False
    return None if good else "a list of metrics, each with name, goal and unit"


def _constraints(value: Any) -> str | None:
    try:
        made = [Constraint(*fields) for fields in value]
        good = all(
            not name_fault(one.metric, stored=True)
            and one.op in ("<=", ">=", "<", ">")
            and _number()(one.bound) is None
            for one in made
        )
    except TypeError:
        good = False
    return None if good else "a list of constraints, each of metric, operator and bound"


def _settings(value: Any) -> str | None:
    good = (
        isinstance(value, dict)
        and isinstance(value.get("evaluators", []), list)
        and isinstance(value.get("sources", []), list)
        and isinstance(value.get("job"), str | None)
    )
    return None if good else "an object of settings"


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def _decision(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    if (labels := entry.get("candidates")) is not None:
        return isinstance(labels, list) and bool(labels) and all(map(_scalar, labels))
    low, high = entry.get("min", -math.inf), entry.get("max", math.inf)
    scale = entry.get("scale")
    return (
        _number(finite=False)(low) is None
        and _number(low, finite=False)(high) is None
        and isinstance(scale, str | None)
    )


def schema_fault(value: Any) -> str | None:
    """What a space's schema must be, if it is not; see `Space.schema`."""
    good = (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("fingerprint"), str)
        and type(value.get("version")) is int
        and isinstance(value.get("decisions"), list)
        and bool(value["decisions"])
        and all(map(_decision, value["decisions"]))
    )
    return None if good else "a space's schema: name, version, fingerprint and decisions"


def _row(value: Any) -> str | None:
    good = isinstance(value, list) and all(one is None or _number()(one) is None for one in value)
    return None if good else "a list of numbers and nulls"


def _finals(value: Any) -> str | None:
    good = isinstance(value, dict) and all(_number(finite=False)(one) is None for one in value.values())
    return None if good else "numbers by metric"


def _of(kind: Rule, expected: str) -> Rule:
    return lambda value: (
        None if isinstance(value, dict) and all(kind(one) is None for one in value.values()) else expected
    )


def _any(_: Any) -> str | None:
    return None


_id, _count, _time = _whole(), _whole(), _number(0.0)
_errors = _json(
    _of(lambda value: None if type(value) in (int, float) else "", "numbers by name")
)  # a correlation may be NaN
_numbers_by_name = _json(_of(_number(finite=False), "numbers by name"))
_object = _json(_of(_any, "an object"))

RULES: dict[str, dict[str, Rule]] = {
    "spaces": {
        "id": _id,
        "fingerprint": _text(),
        "name": _text(empty=True),
        "version": _whole(-(2**62)),
        "schema": _json(schema_fault),
    },
    "studies": {
        "id": _id,
        "name": _text(),
        "created": _time,
        "space_id": _id,
        "objectives": _json(_objectives),
        "constraints": _json(_constraints),
        "settings": _json(_settings),
        **dict.fromkeys(("next_number", "finished", "completed", "infeasible", "failed", "front_version"), _count),
    },
    "study_spaces": {"study_id": _id, "space_id": _id},
    "trials": {
        "study_id": _id,
        "number": _whole(),
        "space_id": _id,
        "key": _text(),
        "arch": _json(_row),
        "state": _text(among=STATES),
        "worker": _text(null=True, empty=True),
        "attempt": _count,
        "lost": _count,
        "lease_until": _number(0.0, null=True),
        "seed": _whole(-(2**63), null=True),
        "created": _time,
        "started": _number(0.0, null=True),
        "finished": _number(0.0, null=True),
        "finish_seq": _whole(1, null=True),
        "duration_s": _number(0.0, null=True),
        "violation": _number(0.0, null=True, finite=False),
        "reason": _text(null=True, empty=True),
    },
    "metrics": {"id": _id, "study_id": _id, "name": _metric_name, "unit": _text(empty=True)},
    "measurements": {"metric_id": _id, "step": _whole(FINAL), "number": _whole(), "value": _number(finite=False)},
    "front": {"study_id": _id, "number": _whole(), "space_id": _id, "arch": _json(_row), "finals": _json(_finals)},
    "devices": {"id": _id, "name": _text(), "description": _object, "created": _time},
    "device_measurements": {
        "id": _id,
        "device_id": _id,
        "fingerprint": _text(),
        "key": _text(),
        "arch": _json(_row),
        "median_ms": lambda value: None if _number(0.0)(value) is None and value > 0 else "a positive number",
        "noisy": lambda value: None if type(value) is int and value in (0, 1) else "0 or 1",
        "details": _numbers_by_name,
        "environment": _object,
        "created": _time,
    },
    "predictors": {
        "id": _id,
        "device_id": _id,
        "fingerprint": _text(),
        "space": _text(empty=True),
        "kind": _text(),
        "errors": _errors,
        "state": _object,
        "arrays": _bytes,
        "created": _time,
    },
    "notes": {"study_id": _id, "number": _whole(-1), "name": _text(empty=True), "value": _json(_any)},
}


# -- archs -----------------------------------------------------------------------------------------------------------------


_KINDS = frozenset({type(None), int, float})


class ArchRule:
    """What the stored archs of one space may be: an index or null a choice, a number within its range or null a float."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.width = len(schema["decisions"])
        self._holds = [_holder(entry) for entry in schema["decisions"]]

    def fits(self, row: Any) -> bool:
        """Whether the row may be one of the space."""
        return (
            type(row) is list
            and len(row) == self.width
            and _KINDS.issuperset(map(type, row))
            and all(holds(number) for holds, number in zip(self._holds, row, strict=True))
        )

    def parse(self, text: Any, table: str, study: object, trial: object) -> list[float | None]:
        """The row.

        Raises:
            StoreError: it cannot be one of the space.
        """
        try:
            row = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            row = None
        if not self.fits(row):
            raise DatabaseError(sentence(table, _said("arch", text, "an arch of its space"), study, trial))
        return row  # type: ignore[no-any-return]


def _holder(entry: Mapping[str, Any]) -> Callable[[float | None], bool]:
    if (labels := entry.get("candidates")) is not None:
        known = frozenset([*range(len(labels)), None])
        return known.__contains__
    low, high = entry.get("min", -math.inf), entry.get("max", math.inf)
    return lambda number: number is None or low <= number <= high


# -- all of it -------------------------------------------------------------------------------------------------------------


class _Table:
    def __init__(self, table: sa.Table) -> None:
        self.name = table.name
        self.columns = [column.name for column in table.columns]
        self.rows = Statement(sa.select(*table.columns))


_TABLES = {table.name: _Table(table) for table in metadata.sorted_tables}


def find(sql: Transaction) -> str | None:
    """The first value that is not what it must be, and what it must be; None when there is none.  Reads everything."""
    try:
        return next(_Search(sql).faults(), None)
    except SUSPICIOUS as error:
        return f"a table cannot be read ({brief(error)}); {_ADVICE}"


class _Search:
    def __init__(self, sql: Transaction) -> None:
        self._sql = sql
        self._studies: dict[Any, str] = {}
        self._metrics: dict[Any, tuple[Any, str]] = {}

    def faults(self) -> Iterator[str]:
        """Values that break a rule, then those that do not fit together."""
        for name in _TABLES:
            for row in self._rows(name):
                self._learn(name, row)
                for column, rule in RULES[name].items():
                    fault = rule(row[column])
                    if fault is not None:
                        yield self._sentence(name, row, _said(column, row[column], fault))
        yield from self._relations()

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        table = _TABLES[name]
        for batch in self._sql.batches(table.rows, (), _MANY):
            for row in batch:
                yield dict(zip(table.columns, row, strict=True))

    def _learn(self, name: str, row: Mapping[str, Any]) -> None:
        if name == "studies":
            self._studies[row["id"]] = row["name"]
        if name == "metrics":
            self._metrics[row["id"]] = (row["study_id"], row["name"])

    def _sentence(self, name: str, row: Mapping[str, Any], what: str) -> str:
        identity = row.get("study_id", row["id"] if name == "studies" else None)
        if name == "measurements":
            identity = self._metrics.get(row["metric_id"], (None, ""))[0]
        return sentence(name, what, self._studies.get(identity, identity), row.get("number"))

    def _relations(self) -> Iterator[str]:
        spaces = {}
        for row in self._rows("spaces"):
            schema = spaces[row["id"]] = json.loads(row["schema"])
            for column in ("fingerprint", "name", "version"):
                if schema[column] != row[column]:
                    yield self._sentence(
                        "spaces", row, _said(column, row[column], f"{schema[column]!r}, as in its schema")
                    )
        rules = {identity: ArchRule(schema) for identity, schema in spaces.items()}
        known = {
            ("spaces", "space_id"): spaces,
            ("studies", "study_id"): self._studies,
            ("metrics", "metric_id"): self._metrics,
        }
        known["devices", "device_id"] = dict.fromkeys(row["id"] for row in self._rows("devices"))
        sizes = {row["id"]: row["next_number"] for row in self._rows("studies")}
        for name, table in _TABLES.items():
            references = [(column, ids, of) for (of, column), ids in known.items() if column in table.columns]
            for row in self._rows(name):
                for column, ids, of in references:
                    if row[column] not in ids:
                        yield self._sentence(name, row, _said(column, row[column], f"one of table {of!r}"))
                if "number" in row:
                    study = self._metrics[row["metric_id"]][0] if name == "measurements" else row["study_id"]
                    if row["number"] >= sizes[study]:
                        yield self._sentence(name, row, _said("number", row["number"], f"a trial below {sizes[study]}"))
                if name in ("trials", "front") and not rules[row["space_id"]].fits(json.loads(row["arch"])):
                    yield self._sentence(name, row, _said("arch", row["arch"], "an arch of its space"))
        yield from self._of_studies()

    def _of_studies(self) -> Iterator[str]:
        own = {(row["study_id"], row["space_id"]) for row in self._rows("study_spaces")}
        trials: dict[Any, dict[int, dict[str, Any]]] = {}
        for row in self._rows("trials"):
            trials.setdefault(row["study_id"], {})[row["number"]] = row
            if (row["study_id"], row["space_id"]) not in own:
                yield self._sentence("trials", row, _said("space_id", row["space_id"], "a space of the study"))
            if (row["state"] in FINISHED) != (row["finish_seq"] is not None):
                yield self._sentence(
                    "trials", row, _said("finish_seq", row["finish_seq"], f"that of a {row['state']} trial")
                )
        measured: dict[Any, set[int]] = {}
        for row in self._rows("measurements"):
            if row["step"] == FINAL:
                measured.setdefault(row["metric_id"], set()).add(row["number"])
        named = {of: identity for identity, of in self._metrics.items()}
        for study in self._rows("studies"):
            mine = trials.get(study["id"], {})
            yield from self._counters(study, mine)
            for metric in json.loads(study["objectives"]):
                there = measured.get(named.get((study["id"], metric["name"])), set())
                for number, row in mine.items():
                    if row["state"] == "COMPLETED" and number not in there:
                        yield self._sentence(
                            "measurements", row, f"objective {metric['name']!r} of a COMPLETED trial is missing"
                        )
        for row in self._rows("front"):
            trial = trials[row["study_id"]].get(row["number"])
            same = trial and all(trial[column] == row[column] for column in ("space_id", "arch"))
            if not same or trial is None or trial["state"] != "COMPLETED":
                yield self._sentence("front", row, "the row is not that of its trial")
            wanted = {metric["name"] for metric in self._objectives(row["study_id"])}
            if not wanted <= set(json.loads(row["finals"])):
                yield self._sentence("front", row, _said("finals", row["finals"], "every objective"))

    def _objectives(self, study: Any) -> list[dict[str, Any]]:
        found = next(row for row in self._rows("studies") if row["id"] == study)
        return list(json.loads(found["objectives"]))

    def _counters(self, study: Mapping[str, Any], mine: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
        if (study["id"], study["space_id"]) not in {(r["study_id"], r["space_id"]) for r in self._rows("study_spaces")}:
            yield self._sentence("studies", study, _said("space_id", study["space_id"], "a space of the study"))
        states = [row["state"] for row in mine.values()]
        counted = {
            "next_number": len(mine),
            "finished": sum(state in FINISHED for state in states),
            **{state.lower(): states.count(state) for state in FINISHED},
        }
        for column, count in counted.items():
            if study[column] != count:
                yield self._sentence("studies", study, _said(column, study[column], f"{count}, as there are trials"))
        places = sorted(row["finish_seq"] for row in mine.values() if row["finish_seq"] is not None)
        if places != list(range(1, len(places) + 1)):
            yield self._sentence("trials", {"study_id": study["id"]}, "finish_seq does not count 1, 2, 3…")


def explain(error: BaseException, found: str | None, shown: str) -> DatabaseError | None:
    """The sentence for a failed reading; None when the database holds what it must and the fault is elsewhere."""
    if found is not None:
        return DatabaseError(f"database {shown}, {found}")
    if isinstance(error, Suspect):
        return DatabaseError(f"database {shown} does not fit together: {error}; {_ADVICE}")
    return None


def parsed(table: str, column: str, text: Any, study: object = None, trial: object = None) -> Any:
    """The JSON of a column.

    Raises:
        StoreError: it is none, or of another shape than the column's.
    """
    check(table, {column: text}, study, trial)
    return json.loads(text)


def of_row(table: str, columns: str, row: Row, study: object = None, trial: object = None) -> None:
    """`check` of a row whose columns are named in one text; those of other tables are passed over."""
    values = zip(columns.split(), row, strict=True)
    check(table, {column: value for column, value in values if column in RULES[table]}, study, trial)
