"""Early-stopping policies that see the trials of every process."""

from __future__ import annotations

import pyglove as pg

from nas.errors import StudyError
from nas.pyglove.sampling import Sampling
from nas.pyglove.trials import trial_of
from nas.store import StudyRecord


class Stopping:
    """A policy and what it was told.

    A policy counts a trial when it is asked about it.  Trials of other processes, and of earlier runs, are given to its `recover`
    once they have finished, so that ranks are among all.

    Args:
        policy: of the program.
        spec: of its space.
        sampling: tells which trials have finished.
        record: has them.
    """

    def __init__(
        self, policy: pg.tuning.EarlyStoppingPolicy, spec: pg.DNASpec, sampling: Sampling, record: StudyRecord
    ) -> None:
        if policy.dna_spec is None:
            policy.setup(spec)
        elif pg.ne(policy.dna_spec, spec):
            raise StudyError("the early-stopping policy was set up for another space; make a new one")
        self._policy, self._sampling, self._record, self._spec = policy, sampling, record, spec
        self._told: set[int] = set()

    def known(self, number: int) -> None:
        """Says that the policy was asked about this trial as it went."""
        self._told.add(number)

    def begun(self, trial: pg.tuning.Trial) -> None:
        """Gives the policy what was measured of a trial before its worker was lost."""
        if trial.measurements:
            self._policy.recover([trial])

    def should_stop(self, trial: pg.tuning.Trial) -> bool:
        """Whether the policy gives the trial up."""
        news, self._sampling.news = self._sampling.news, []
        new = [number for number in news if number not in self._told and number != trial.id - 1]
        self._told.update(new)
        if new:
            self._policy.recover([self._stored(number) for number in new])
        return bool(self._policy.should_stop_early(trial))

    def _stored(self, number: int) -> pg.tuning.Trial:
        """A finished trial."""
        return trial_of(self._record.trial(number), self._record.notes(number))
