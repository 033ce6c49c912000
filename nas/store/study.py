"""One study in the database: what is written to it and what is read from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

from nas.checking import Natural, checked
from nas.errors import StoreError
from nas.metrics import Metric
from nas.store import history, looking, notes
from nas.store.columns import schemas
from nas.store.database import Database
from nas.store.filters import Table
from nas.store.ledger import Ledger
from nas.store.looking import Ended, Lease, Page, Position, Reasons, Standing
from nas.store.records import (
    Added,
    ArchRow,
    Claim,
    History,
    ImportedTrial,
    NewTrial,
    Receipt,
    Report,
    State,
    StudyInfo,
    TrialRecord,
)
from nas.store.wave import Wave, refuse_leased


class StudyRecord:
    """A handle on one study of a store; made by `Store.create_study` and `Store.open_study`.

    It may be used from any thread.  Several handles, in several processes, may write the same study.

    Args:
        database: where it is.
        study: what it was created with.
    """

    def __init__(self, database: Database, study: StudyInfo) -> None:
        self.id = study.id
        self.name = study.name
        self.created = study.created
        self.objectives = study.objectives
        self.constraints = study.constraints
        self.settings = study.settings
        self._database = database
        self._ledger = Ledger(database, study)

    @property
    def schema(self) -> dict[str, Any]:
        """Schema of the space that the rows of this handle's new trials are of."""
        return self._ledger.study.schema

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
        return self._ledger.write(
            lambda wave: wave.add(rows, worker, lease_s), look=lambda wave: wave.look(keys=[one.key for one in rows])
        )

    def enter(
        self,
        trial: NewTrial,
        *,
        worker: str,
        lease_s: float = 60,
        most: int | None = None,
        notes_on_it: Mapping[str, Any] | None = None,
    ) -> Added | None:
        """`add` of one trial with its notes, as one step among processes that share a limit.

        Args:
            trial: of the space of this handle; a known arch is answered with its trial.
            worker: to which it is leased.
            lease_s: seconds of the lease.
            most: trials that the study may have; None when there is no limit.
            notes_on_it: left on the trial if it is new.

        Returns:
            where the arch is, or None: it is new, and the study has `most` trials.

        Raises:
            StoreError: the row does not fit the space, a note is not JSON, or the database cannot be written.
        """
        texts = notes.encoded(notes_on_it or {})

        def enter(wave: Wave) -> Added | None:
            if most is not None and wave.head.next_number >= most:
                return wave.known(trial.key, worker)
            (added,) = wave.add([trial], worker, lease_s)
            if not added.existing:
                notes.put(wave.sql, self.id, added.number, texts)
            return added

        return self._ledger.write(enter)

    @checked(StoreError)
    def annotate(self, values: Mapping[str, Any], number: Natural | None = None) -> None:
        """Leave notes, JSON values by name, on a trial, or on the study itself; those of the same name are replaced.

        Raises:
            StoreError: there is no such trial, or a value is not JSON.
        """
        texts = notes.encoded(values)

        def put(wave: Wave) -> None:
            if number is not None and not 0 <= number < wave.head.next_number:
                raise StoreError(f"study {self.name!r} has no trial {number!r} to leave notes on")
            notes.put(wave.sql, self.id, notes.STUDY if number is None else number, texts)

        self._ledger.write(put)

    @checked(StoreError)
    def claim(self, worker: str, n: Natural, lease_s: float = 60, lost_below: Natural | None = None) -> list[Claim]:
        """Up to `n` WAITING trials, lowest numbers first; they become RUNNING and no other worker gets them.

        Args:
            worker: that gets them.
            n: at most so many.
            lease_s: for how many seconds.
            lost_below: only those that fewer workers vanished with (`requeue_expired`); None takes any.
        """
        return self._ledger.claim(worker, n, lease_s, lost_below)

    def heartbeat(self, worker: str, lease_s: float = 60) -> int:
        """Extend every lease of `worker` to `lease_s` from now; how many it holds."""
        return self._ledger.write(lambda wave: wave.heartbeat(worker, lease_s))

    def report(self, reports: Sequence[Report]) -> list[Receipt]:
        """How trials ended, in one transaction; a receipt for each, in order.

        Reporting the same result again changes nothing and is accepted.  A report by a worker whose lease went to somebody
        else is refused in its receipt and does not hinder the others.

        Raises:
            StoreError: a finished trial is reported by its own worker with another result (nothing is recorded then).
        """
        return self._ledger.write(lambda wave: wave.report(reports), look=lambda wave: wave.look(reports))

    def wave(
        self,
        reports: Sequence[Report],
        new_trials: Sequence[NewTrial],
        worker: str | None = None,
        lease_s: float = 60,
        *,
        most: int | None = None,
    ) -> tuple[list[Receipt], list[Added]]:
        """`report` then `add` in one transaction: what a driver does when evaluations come back.

        Args:
            reports: how trials ended.
            new_trials: archs to add.
            worker: to which they are leased.
            lease_s: seconds of the lease.
            most: trials that the study may have: the first arch that would be one more, and those after it, get no answer.
        """
        return self._ledger.write(
            lambda wave: (wave.report(reports), wave.add(new_trials, worker, lease_s, most)),
            look=lambda wave: wave.look(reports, [one.key for one in new_trials]),
        )

    @checked(StoreError)
    def measure(
        self, number: Natural, name: str, value: float, step: int, held_by: tuple[str, int] | None = None
    ) -> None:
        """An intermediate value of a RUNNING trial; the same step again replaces it.

        A step that was not there before is progress: the workers that were lost until then no longer count (`requeue_expired`).

        Args:
            number: of the trial.
            name: of the metric.
            value: of it at this step.
            step: 0 and more.
            held_by: the worker and the attempt that must hold its lease; None asks nobody.

        Raises:
            StoreError: the trial is not RUNNING, somebody else holds it, or `value` is not a number.
        """
        self._ledger.write(lambda wave: wave.measure(number, name, value, step, held_by))

    def release(self, worker: str) -> int:
        """Give the RUNNING trials of `worker` back to WAITING, as it stops; how many."""
        return self._ledger.write(lambda wave: wave.release(worker))

    def requeue_expired(
        self, now: float | None = None, dead: Callable[[str], bool] | None = None, max_attempts: int = 3
    ) -> int:
        """Take trials from workers that vanished: RUNNING → WAITING, or FAILED once `max_attempts` were lost without progress.

        Args:
            now: seconds since the epoch; leases that end before it have expired.
            dead: says of a worker that it is gone although its lease still runs.
            max_attempts: workers a trial may cost between two intermediate values.

        Returns:
            how many trials were taken.
        """
        return self._ledger.requeue(now, dead, max_attempts)

    @checked(StoreError)
    def retry(self, numbers: Sequence[Natural], why: str = "", dead: Callable[[str], bool] | None = None) -> list[int]:
        """FAILED trials become WAITING, to be evaluated again; how each ended stays in its note `tries`, oldest try first.

        Args:
            numbers: of FAILED trials.
            why: noted with the try that ends here.
            dead: says of a worker that it is gone although its lease still runs.

        Returns:
            the numbers, sorted.

        Raises:
            StoreError: one is not FAILED, or not there, or a worker holds a lease on a trial of the study.
        """

        def again(wave: Wave) -> list[int]:
            refuse_leased(wave.sql, self.id, self.name, dead)
            return wave.retry(numbers, why)

        return self._ledger.write(again) if numbers else []

    def import_trials(self, trials: Iterable[ImportedTrial]) -> list[Added]:
        """Store trials that were evaluated elsewhere, as finished, in one transaction; known archs are left as they are.

        Give some ten thousand at a time: other writers wait meanwhile.
        """
        some = list(trials)
        return self._ledger.write(lambda wave: wave.import_trials(some))

    def update_space(self, schema: dict[str, Any], key_of: Callable[[ArchRow], str] | None = None) -> None:
        """Register a changed space: the rows that follow are of this one.  Trials keep the space they were added with.

        Args:
            schema: what `Space.schema()` gives.
            key_of: given, the rows of the space so far mean the same archs in this one: its trials become trials of this space,
                under the keys that `key_of` gives for their rows.
        """
        self._ledger.update_space(schema, key_of)

    # -- reading -----------------------------------------------------------------------------------------------------

    @checked(StoreError)
    def history(self, after: Natural = 0, *, pending: bool = True) -> History:
        """Finished trials in the order in which they finished, and the pending ones.

        Args:
            after: `History.last` of an earlier call, to get only what is new since.
            pending: without it those that wait or run are left out.
        """
        names = [metric.name for metric in self.objectives]
        return self._database.reading(lambda sql: history.history(sql, self.id, names, after, pending=pending))

    @checked(StoreError)
    def front(self, where: str | None = None, objectives: Sequence[Metric] | None = None) -> pd.DataFrame:
        """The Pareto front of the COMPLETED trials, best first in the first objective.

        Without arguments it is read from the front that is kept, whatever the number of trials; with them it is computed
        from columns.

        Args:
            where: a filter (`nas.store.filters`), as in `"latency_ms <= 2 and params < 50_000"`.
            objectives: other metrics, or goals, than the study's.

        Returns:
            index: trial number; columns: the objectives, the other metrics, and `choices` (label by decision name).

        Raises:
            FilterError: the filter does not parse, or names a column that is not there.
            StoreError: an objective was never measured.
        """
        from nas.store import frames  # pandas is imported when a table is asked for

        return self._database.reading(lambda sql: frames.front(sql, self.id, self.objectives, where, objectives))

    @checked(StoreError)
    def trials(
        self, where: str | None = None, columns: Sequence[str] | None = None, limit: Natural | None = None
    ) -> pd.DataFrame:
        """Trials in every state, by number.

        Args:
            where: a filter (`nas.store.filters`).
            columns: metrics, columns of trials, decisions, or `choices`; None = all but single decisions.
            limit: the first so many.

        Raises:
            FilterError: the filter does not parse, or a column is not there.
        """
        from nas.store import frames  # pandas is imported when a table is asked for

        return self._database.reading(
            lambda sql: frames.trials(sql, self.id, self.objectives, where=where, wanted=columns, limit=limit)
        )

    def table(self, names: Sequence[str], where: str) -> Table:
        """Columns of the trials that satisfy `where`, by number, as `Filter.mask` reads them.

        Raises:
            FilterError: the filter does not parse, or names a column that is not there.
        """
        from nas.store import frames  # pandas is imported when a table is asked for

        return self._database.reading(lambda sql: frames.table(sql, self.id, names, where))

    def curve(self) -> pd.DataFrame:
        """Objective values of the COMPLETED trials in the order of finishing: (index `finish_seq`)."""
        from nas.store import frames  # pandas is imported when a table is asked for

        return self._database.reading(lambda sql: frames.curve(sql, self.id, self.objectives))

    def position(self) -> Position:
        """How far the study is; costs the same whatever its size, to be asked again and again."""
        return self._database.reading(lambda sql: looking.position(sql, self.id))

    def standing(self, worker: str) -> Standing:
        """How far the study is, and what is leased to a worker: what is asked before trials are handed out."""
        return self._database.reading(lambda sql: looking.standing(sql, self.id, worker))

    def ended(self, after: int, most: int = 1000) -> list[Ended]:
        """The first trials that finished behind the place `after` in the order of finishing."""
        return self._database.reading(lambda sql: looking.ended(sql, self.id, after, most))

    def leases(self) -> list[Lease]:
        """Who evaluates which trial at present."""
        return self._database.reading(lambda sql: looking.leases(sql, self.id))

    def reasons(self, most: int = 50) -> list[Reasons]:
        """Why trials failed or are infeasible, the most frequent reason first, of the 2,000 most frequent texts."""
        return self._database.reading(lambda sql: looking.reasons(sql, self.id, most))

    def recent_times(self) -> list[float]:
        """When the last 200 trials finished, in seconds since the epoch, oldest first."""
        return self._database.reading(lambda sql: looking.times(sql, self.id))

    def metric_names(self) -> list[str]:
        """Names of what was measured, or is declared to be, in the order in which it was first."""
        return self._database.reading(lambda sql: looking.metric_names(sql, self.id))

    def check_names(self, names: Sequence[str]) -> None:
        """Whether there are columns of these names: metrics, columns of trials, decisions; no trial is read.

        Raises:
            FilterError: one is not there.
        """
        self._database.reading(lambda sql: looking.check_names(sql, self.id, names))

    @checked(StoreError)
    def page(
        self,
        where: str | None = None,
        *,
        by: str = "number",
        descending: bool = False,
        start: Natural = 0,
        count: Natural = 100,
    ) -> Page:
        """Some trials of those that satisfy a filter, sorted by a column; equal ones by number, those without a value last.

        Args:
            where: a filter (`nas.store.filters`).
            by: a metric, a column of trials, or a decision.
            descending: the largest first.
            start: how many to pass over.
            count: at most so many.

        Raises:
            FilterError: the filter does not parse, or a column is not there.
        """
        return self._database.reading(
            lambda sql: looking.page(
                sql, self.id, self.objectives, where=where, by=by, descending=descending, start=start, count=count
            )
        )

    @checked(StoreError)
    def sample(self, columns: Sequence[str], where: str | None = None, most: Natural = 4000) -> Page:
        """Of the trials that satisfy a filter at most so many, evenly over their numbers.

        Raises:
            FilterError: the filter does not parse, or a column is not there.
        """
        return self._database.reading(
            lambda sql: looking.sample(sql, self.id, self.objectives, columns, where=where, most=most)
        )

    @checked(StoreError)
    def trial(self, number: Natural) -> TrialRecord:
        """Everything about one trial.

        Raises:
            StoreError: there is no such trial.
        """
        found = self._database.reading(lambda sql: history.record(sql, self.id, self.objectives, number=number))
        size = 0 if found else sum(self.counts().values())
        if found is None:
            have = f"its trials are 0 to {size - 1}" if size else "it has no trials yet"
            raise StoreError(f"study {self.name!r} has no trial {number!r}; {have}")
        return found

    def lookup(self, key: str) -> TrialRecord | None:
        """The trial of the arch with this key, if there is one."""
        return self._database.reading(lambda sql: history.record(sql, self.id, self.objectives, key=key))

    @checked(StoreError)
    def notes(self, number: Natural | None = None) -> dict[str, Any]:
        """The notes on a trial, or on the study itself, by name."""
        return self._database.reading(lambda sql: notes.read(sql, self.id, notes.STUDY if number is None else number))

    def all_notes(self) -> dict[int, dict[str, Any]]:
        """The notes on every trial that has some, by its number; those on the study itself at -1."""
        return self._database.reading(lambda sql: notes.read_all(sql, self.id))

    def keys(self) -> set[str]:
        """Keys of the archs of all trials."""
        return self._database.reading(lambda sql: history.keys(sql, self.id))

    def counts(self) -> dict[State, int]:
        """Trials by state."""
        return self._database.reading(lambda sql: history.counts(sql, self.id)[0])

    def schema_of(self, space_id: int) -> dict[str, Any]:
        """The schema of the space that a claim's row is of."""
        if space_id == self._ledger.study.space_id:
            return self.schema
        return self._database.reading(lambda sql: schemas(sql, self.id)[space_id])
