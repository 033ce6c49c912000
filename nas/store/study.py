"""One study in the database: what is written to it and what is read from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nas.metrics import Constraint, Metric
from nas.store import reader
from nas.store import statements as s
from nas.store.database import Database
from nas.store.ledger import Ledger
from nas.store.records import Added, Claim, History, ImportedTrial, NewTrial, Receipt, Report
from nas.store.sql import Transaction


class StudyRecord:
    """A handle on one study of a store; made by `Store.create_study` and `Store.open_study`.

    It may be used from any thread.  Several handles, in several processes, may write the same study.

    Attributes:
        id, name: which study.
        objectives, constraints, settings: as it was created.
        schema: of the space that the rows of this handle's new trials belong to.
    """

    def __init__(
        self,
        database: Database,
        study_id: int,
        created: float,
        name: str,
        objectives: Sequence[Metric],
        constraints: Sequence[Constraint],
        settings: dict[str, Any],
        space_id: int,
        schema: dict[str, Any],
    ) -> None:
        self.id = study_id
        self.created = created
        self.name = name
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.settings = settings
        self.schema = schema
        self._database = database
        self._ledger = Ledger(
            database, study_id, created, name, objectives, constraints, space_id, len(schema["decisions"])
        )

    def __repr__(self) -> str:
        return f"StudyRecord({self.name!r} in {self._database.shown})"

    # -- writing -----------------------------------------------------------------------------------------------------

    def add(self, rows: Sequence[NewTrial], *, worker: str | None = None, lease_s: float = 60) -> list[Added]:
        """New trials, numbered in the order given; an arch that the study already has is answered with its trial.

        Args:
            rows: archs of the space of this handle.
            worker: given, the new ones are RUNNING at once, leased to it, attempt 1; otherwise they are WAITING.
            lease_s: seconds of the lease.

        Raises:
            StoreError: a row does not fit the space, or the database cannot be written.
        """
        return self._ledger.add(rows, worker, lease_s)

    def claim(self, worker: str, n: int, lease_s: float = 60) -> list[Claim]:
        """Up to `n` WAITING trials, lowest numbers first; they become RUNNING and no other worker gets them."""
        return self._ledger.claim(worker, n, lease_s)

    def heartbeat(self, worker: str, lease_s: float = 60) -> int:
        """Extend every lease of `worker` to `lease_s` from now; how many it holds."""
        return self._ledger.heartbeat(worker, lease_s)

    def report(self, reports: Sequence[Report]) -> list[Receipt]:
        """How trials ended, in one transaction; a receipt for each, in order.

        Reporting the same result again changes nothing and is accepted.  A report by a worker whose lease went to somebody else is
        refused in its receipt and does not hinder the others.

        Raises:
            StoreError: a finished trial is reported by its own worker with another result (nothing is recorded then).
        """
        return self._ledger.report(reports)

    def wave(
        self, reports: Sequence[Report], new_trials: Sequence[NewTrial], worker: str | None = None, lease_s: float = 60
    ) -> tuple[list[Receipt], list[Added]]:
        """`report` then `add` in one transaction: what a driver does when evaluations come back."""
        return self._ledger.wave(reports, new_trials, worker, lease_s)

    def measure(self, number: int, name: str, value: float, step: int) -> None:
        """An intermediate value of a RUNNING trial; the same step again replaces it.

        Raises:
            StoreError: the trial is not RUNNING, or `value` is not a number.
        """
        self._ledger.measure(number, name, value, step)

    def release(self, worker: str) -> int:
        """Give the RUNNING trials of `worker` back to WAITING, as it stops; how many."""
        return self._ledger.release(worker)

    def requeue_expired(
        self, now: float | None = None, dead: Callable[[str], bool] | None = None, max_attempts: int = 3
    ) -> int:
        """Take trials from workers that vanished: RUNNING → WAITING, or FAILED once `max_attempts` workers were lost on one.

        Args:
            now: seconds since the epoch; leases that end before it have expired.
            dead: says of a worker that it is gone although its lease still runs.
            max_attempts: workers a trial may cost.

        Returns:
            how many trials were taken.
        """
        return self._ledger.requeue(now, dead, max_attempts)

    def import_trials(self, trials: Iterable[ImportedTrial]) -> list[Added]:
        """Store trials that were evaluated elsewhere, as finished, in one transaction; known archs are left as they are.

        Give some ten thousand at a time: other writers wait meanwhile.
        """
        return self._ledger.import_trials(trials)

    def update_space(self, schema: dict[str, Any]) -> None:
        """Register a changed space: the rows that follow are of this one.  Trials keep the space they were added with."""
        with self._database.write() as sql:
            space_id = register_space(sql, schema)
        self._ledger.set_space(space_id, len(schema["decisions"]))
        self.schema = schema

    # -- reading -----------------------------------------------------------------------------------------------------

    def history(self, after: int = 0) -> History:
        """Finished trials in the order in which they finished, and the pending ones.

        Args:
            after: `History.last` of an earlier call, to get only what is new since.
        """
        with self._database.read() as sql:
            return reader.history(sql, self.id, [metric.name for metric in self.objectives], after)

    def front(self) -> pd.DataFrame:
        """The Pareto front."""
        names = [metric.name for metric in self.objectives]
        with self._database.read() as sql:
            numbers, rows, columns = reader.front_columns(sql, self.id, names)
            choices = reader.choices_of(rows, reader.schemas(sql, self.id)) if rows else []
        first = self.objectives[0]
        order = np.argsort(columns[first.name] * first.sign, kind="stable")
        data: dict[str, Any] = {name: values[order] for name, values in columns.items()}
        data["choices"] = pd.Series([choices[i] for i in order], dtype=object).to_numpy()
        return pd.DataFrame(data, index=pd.Index(numbers[order], name="number"))


def register_space(sql: Transaction, schema: dict[str, Any]) -> int:
    """Identity of the space with this schema, which is stored when it is new."""
    which = (schema["fingerprint"], schema["name"], schema["version"])
    found = sql.one(s.FIND_SPACE, which)
    if found is None:
        sql.run(s.ADD_SPACE, (*which, json.dumps(schema, separators=(",", ":"))))
        found = sql.one(s.FIND_SPACE, which)
    assert found is not None
    return int(found[0])
