"""What `pg.tuning.poll_result` gives: a sampling as the database has it now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyglove as pg

from nas.pyglove.trials import metadata_of, trial_of
from nas.store import StudyRecord


class NasResult(pg.tuning.Result):  # type: ignore[misc]  # pyglove has no types for us
    """Trials, metadata and the best trial of a sampling; read anew at every look.

    Args:
        record: the study.
    """

    def __init__(self, record: StudyRecord) -> None:
        super().__init__()
        self._record = record

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the sampling itself."""
        return metadata_of(self._record.notes())

    @property
    def is_active(self) -> bool:
        """Whether `end_loop` was not called."""
        return self._record.notes().get("active") is not False

    @property
    def last_updated(self) -> datetime | None:
        """When a trial finished last; None before the first one."""
        finished = self._record.history().numbers
        if not len(finished):
            return None
        when = self._record.trial(int(finished[-1])).finished
        return None if when is None else datetime.fromtimestamp(when, UTC)

    @property
    def trials(self) -> list[pg.tuning.Trial]:
        """All trials, by id; about a millisecond each."""
        notes = self._record.all_notes()
        numbers = range(sum(self._record.counts().values()))
        return [trial_of(self._record.trial(number), notes.get(number, {})) for number in numbers]

    @property
    def best_trial(self) -> pg.tuning.Trial | None:
        """The completed trial with the largest first metric; with several metrics, `front` says more."""
        stored = self._record.history()
        done = np.flatnonzero(np.asarray(stored.states) == "COMPLETED")
        if not len(done):
            return None
        number = int(stored.numbers[done[np.argmax(stored.values[done, 0])]])
        return trial_of(self._record.trial(number), self._record.notes(number))

    def front(self) -> pd.DataFrame:
        """The Pareto front of the metrics that are optimised, as `nas front` shows it; its index is `id - 1`."""
        return self._record.front()

    def format(self, compact: bool = False, verbose: bool = True, root_indent: int = 0, **kwargs: Any) -> str:
        """How many trials there are in each state, and the best values."""
        states = {state: count for state, count in self._record.counts().items() if count}
        best = self._record.front()
        values = {metric.name: float(best[metric.name].max()) for metric in self._record.objectives if len(best)}
        said = {"name": self._record.name, "trials": states, "best": values}
        return str(pg.format(said, compact, verbose, root_indent, **kwargs))
