"""Studies as Optuna keeps them, for optuna-dashboard and for Optuna's own plots.

Optuna writes each trial in transactions of its own, about 25 ms of processor time a trial: minutes for ten thousand.
"""

from __future__ import annotations

import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.checking import checked
from nas.errors import StoreError
from nas.store import StudyRecord, TrialRecord
from nas.store.database import VERSION_TABLE, at_home

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_COMPLETE = "supernas:complete"  # of a study: whether all trials were written
_PENDING = {"WAITING": TrialState.WAITING, "RUNNING": TrialState.RUNNING}


@dataclass(frozen=True)
class Exported:
    """Where a study was written, and how many trials it has there."""

    name: str
    database: str
    trials: int

    def __str__(self) -> str:
        return f"wrote {self.trials} trials to study {self.name!r} in {self.database}"


@checked(StoreError)
def export_study(
    record: StudyRecord, url: str, name: str | None = None, progress: Callable[[int, int], None] | None = None
) -> Exported:
    """Write a study to a database of Optuna's.

    Decisions are parameters by their names, only those that are active; numbers of trials, states, directions and times are the
    same.  What else was measured, the arch's key, and why a trial failed are user attributes (`metric:seed` for a metric that is
    called as one of ours).  An infeasible trial is COMPLETE
    with its violations as constraints if all its objectives were measured, else FAIL.  What a killed export left is written
    again.

    Args:
        record: the study.
        url: `sqlite:///optuna.db`, any URL that Optuna takes, or a path.
        name: of the study there; as it is called here unless given.
        progress: told how many trials of how many are written.

    Raises:
        StoreError: there is a study of that name, or the database is another program's, one of ours, or cannot be written.
    """
    name = record.name if name is None else name
    shown = _without_password(_located(url))
    with _explained(shown):
        _check_target(_located(url), shown)
        storage = _open(_located(url))
        try:
            study = _begin(record, storage, name, shown)
            total = sum(record.counts().values())
            write = _Writer(record)
            for number in range(total):
                study.add_trial(write.trial(record.trial(number)))
                if progress is not None:
                    progress(number + 1, total)
            study.set_user_attr(_COMPLETE, True)
        finally:
            storage.remove_session()
            storage.engine.dispose()
    return Exported(name, shown, total)


def _begin(record: StudyRecord, storage: RDBStorage, name: str, shown: str) -> optuna.Study:
    """The study that is written to: a new one, in place of what an export left that did not end."""
    if name in optuna.get_all_study_names(storage):
        there = optuna.load_study(study_name=name, storage=storage)
        if there.user_attrs.get(_COMPLETE) is not False:
            raise StoreError(f"{shown} has a study {name!r} already; choose another name with --name")
        optuna.delete_study(study_name=name, storage=storage)
    goals = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    study = optuna.create_study(
        study_name=name, storage=storage, directions=[goals[metric.goal] for metric in record.objectives]
    )
    study.set_user_attr(_COMPLETE, False)
    study.set_user_attr("supernas:study", record.name)
    study.set_user_attr("supernas:space", f"{record.schema['name']} version {record.schema['version']}")
    study.set_user_attr("supernas:constraints", [str(constraint) for constraint in record.constraints])
    study.set_metric_names([metric.label for metric in record.objectives])
    return study


class _Writer:
    """Makes Optuna's trials of ours."""

    def __init__(self, record: StudyRecord) -> None:
        self._objectives, self._constraints = record.objectives, record.constraints
        self._distributions, self._names = _parameters([*record.history().schemas.values(), record.schema])

    def trial(self, stored: TrialRecord) -> FrozenTrial:
        """One trial; Optuna gives it the next number."""
        params = {name: self._names.get(name, {}).get(_typed(label), label) for name, label in stored.choices.items()}
        values = [stored.measurements[metric.name] for metric in self._objectives if metric.name in stored.measurements]
        whole = len(values) == len(self._objectives) and stored.state in ("COMPLETED", "INFEASIBLE")
        first = self._objectives[0].name
        trial = create_trial(
            state=_PENDING.get(stored.state, TrialState.COMPLETE if whole else TrialState.FAIL),
            values=values if whole else None,
            params=params,
            distributions={choice: self._distributions[choice] for choice in params},
            user_attrs=self._attributes(stored),
            intermediate_values=dict(stored.curves.get(first, [])),
            constraints=self._violations(stored) if whole else None,
        )
        trial.datetime_start = None if stored.state == "WAITING" else _time(stored.started or stored.created)
        trial.datetime_complete = _time(stored.finished)
        return trial

    def _attributes(self, stored: TrialRecord) -> dict[str, Any]:
        objectives = {metric.name for metric in self._objectives}
        measured = {name: value for name, value in stored.measurements.items() if name not in objectives}
        about = {
            "arch": stored.key,
            "state": stored.state,
            "reason": stored.reason,
            "worker": stored.worker,
            "attempt": stored.attempt,
            "seed": stored.seed,
            "duration_s": stored.duration_s,
        }
        known = {name: value for name, value in about.items() if value is not None}
        return known | {f"metric:{name}" if name in about else name: value for name, value in measured.items()}

    def _violations(self, stored: TrialRecord) -> dict[str, float]:
        """Each constraint's violation; what an evaluator alone found infeasible has one without a name."""
        found = {
            str(constraint): constraint.violation(stored.measurements[constraint.metric])
            for constraint in self._constraints
            if constraint.metric in stored.measurements
        }
        if stored.state == "INFEASIBLE" and not any(found.values()):
            found["infeasible"] = stored.violation or 1.0
        return found


def _parameters(
    schemas: list[Mapping[str, Any]],
) -> tuple[dict[str, BaseDistribution], dict[str, dict[Any, Any]]]:
    """Distribution of each decision over all versions of the space, and names for labels that Python takes for each other."""
    distributions: dict[str, BaseDistribution] = {}
    labels: dict[str, dict[Any, Any]] = {}
    for decision in (decision for schema in schemas for decision in schema["decisions"]):
        name, known = decision["name"], distributions.get(decision["name"])
        if "candidates" in decision:
            labels.setdefault(name, {}).update({_typed(label): label for label in decision["candidates"]})
        else:
            low, high = float(decision["min"]), float(decision["max"])
            if isinstance(known, FloatDistribution):
                low, high = min(low, known.low), max(high, known.high)
            distributions[name] = FloatDistribution(low, high, log=decision["scale"] == "log" and low > 0)
        if name in labels and name in distributions:
            raise StoreError(
                f"decision {name!r} is a float in one version of the space and a choice in another, which Optuna cannot hold"
            )
    for name, found in labels.items():
        if len(set(found.values())) < len(found):  # 1 and True
            found.update({key: repr(label) for key, label in found.items()})
        distributions[name] = CategoricalDistribution(tuple(found.values()))
    return distributions, labels


def _typed(label: Any) -> tuple[str, Any]:
    return type(label).__name__, label


def _time(seconds: float | None) -> datetime | None:
    """Local time without a zone, as Optuna keeps it."""
    return None if seconds is None else datetime.fromtimestamp(seconds)


# -- the database ----------------------------------------------------------------------------------------------------------


def _located(url: str) -> str:
    return url if "://" in url else f"sqlite:///{at_home(url)}"


def file_of(url: str) -> Path | None:
    """The file of a database of SQLite's; None of another."""
    name = _located(url).removeprefix("sqlite:///")
    return None if name == _located(url) or name.startswith(":") else Path(name)


def _without_password(url: str) -> str:
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def _check_target(url: str, shown: str) -> None:
    """Refuse to make Optuna's tables beside others, above all beside those that the study comes from."""
    path = file_of(url)
    if path is not None and not path.exists():
        return
    engine = sa.create_engine(url)
    try:
        tables = sa.inspect(engine).get_table_names()
    finally:
        engine.dispose()
    if VERSION_TABLE in tables or (tables and "version_info" not in tables):
        whose = "of supernas" if VERSION_TABLE in tables else "of another program"
        raise StoreError(f"{shown} is a database {whose}, not of Optuna's; give a new file, or a database of its own")


def _open(url: str) -> RDBStorage:
    path = url.removeprefix("sqlite:///")
    if path == url:
        return optuna.storages.RDBStorage(url)

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(path, check_same_thread=False)
        connection.execute("PRAGMA synchronous=OFF")  # an export that power failure cuts off is made again
        return connection

    return optuna.storages.RDBStorage(url, engine_kwargs={"creator": connect})


@contextmanager
def _explained(shown: str) -> Iterator[None]:
    """Errors of the database as one sentence, and nothing of what Optuna says of its own interfaces."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except StoreError:
        raise
    except Exception as error:
        said = str(getattr(error, "orig", None) or error).strip().splitlines()
        why = _without_password(said[0]) if said else type(error).__name__
        raise StoreError(f"{shown} cannot be written as a database of Optuna's: {why}") from error
    finally:
        optuna.logging.set_verbosity(level)
