"""What a program is given beside each example."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyglove as pg

from nas.errors import EvaluationError, StoreError
from nas.measurements import name_fault, number
from nas.pyglove.trials import LINK, METADATA, NOT_FINITE, STEP, from_json, named, to_json, trial_of, values_by_step
from nas.store import Report, State, StudyRecord

if TYPE_CHECKING:
    from nas.pyglove.policy import Stopping

_OPEN = ("WAITING", "RUNNING")


class NasFeedback(pg.tuning.Feedback):  # type: ignore[misc]  # pyglove has no types for us
    """The trial of an example, in the database: what is written is there at once, for co-workers and after a crash.

    Args:
        record: the study.
        number: of the trial; `id` is one more.
        attempt: of the lease.
        worker: who holds it.
        dna: of the example.
        metrics: to optimise.
        stopping: the early-stopping policy.
    """

    def __init__(
        self,
        record: StudyRecord,
        number: int,
        *,
        attempt: int,
        worker: str,
        dna: pg.DNA,
        metrics: list[str],
        stopping: Stopping | None,
    ) -> None:
        super().__init__(metrics)
        self._record, self._number, self._attempt, self._worker = record, number, attempt, worker
        self._dna, self._stopping = dna, stopping

    @property
    def id(self) -> int:
        """Number of the trial, counted from 1 as PyGlove does."""
        return self._number + 1

    @property
    def dna(self) -> pg.DNA:
        """DNA of the example, with the marks of its algorithm."""
        return self._dna

    @property
    def status(self) -> str:
        """PENDING or COMPLETED, as the database has it now."""
        return str(self.get_trial().status)

    @property
    def checkpoint_to_warm_start_from(self) -> str | None:
        """Where the last measurement of this trial left its checkpoint: what a restarted worker goes on from."""
        steps = named(self._record.notes(self._number), STEP)
        paths = [steps[step].get("checkpoint_path") for step in sorted(steps, key=int)]
        return next((path for path in reversed(paths) if path is not None), None)

    def get_trial(self) -> pg.tuning.Trial:
        """The trial as the database has it now."""
        return trial_of(self._record.trial(self._number), self._record.notes(self._number), self._dna)

    # -- notes -------------------------------------------------------------------------------------------------------------

    def set_metadata(self, key: str, value: Any, per_trial: bool = True) -> None:
        """Leave a value for co-workers and for later.

        Raises:
            StoreError: it could only be stored as executable code.
        """
        json = to_json(value, f"metadata {key!r}")
        self._record.annotate({METADATA + key: json}, self._number if per_trial else None)

    def get_metadata(self, key: str, per_trial: bool = True) -> Any:
        """What any worker left under this key; None if nothing."""
        found = self._record.notes(self._number if per_trial else None)
        return from_json(found[METADATA + key], f"metadata {key!r}") if METADATA + key in found else None

    def add_link(self, name: str, url: str) -> None:
        """A related link."""
        self._record.annotate({LINK + name: str(url)}, self._number)

    # -- results -----------------------------------------------------------------------------------------------------------

    def add_measurement(
        self,
        reward: Any = None,
        metrics: Mapping[str, Any] | None = None,
        step: int = 0,
        checkpoint_path: str | None = None,
        elapse_secs: float | None = None,
    ) -> None:
        """Add a measurement of the current trial, as PyGlove documents it.

        Raises:
            EvaluationError: a value is no number, or a name cannot name a metric; nothing was added.  NaN and infinities are
                taken, and make the trial fail when it is done.
        """
        given = {name: _real(name, value) for name, value in (metrics or {}).items()}
        if isinstance(reward, (list, tuple)):
            reward = [_real("reward", value) for value in reward]
        elif reward is not None:
            reward = _real("reward", reward)
        super().add_measurement(reward, given, step, checkpoint_path, elapse_secs)

    def _add_measurement(
        self,
        reward: float | None,
        metrics: Mapping[str, float],
        step: int,
        checkpoint_path: str | None,
        elapse_secs: float,
    ) -> None:
        self._check_mine()
        values = dict(metrics)
        said: dict[str, Any] = {"elapse_secs": elapse_secs}
        if reward is not None and "reward" in self._metrics_to_optimize:
            values["reward"] = reward
        elif reward is not None:
            said["reward"] = reward  # PyGlove repeats a single metric under this name
        for kind in NOT_FINITE:
            said[kind] = [name for name, value in values.items() if str(value) == kind]
        if checkpoint_path is not None:
            said["checkpoint_path"] = str(checkpoint_path)
        for name, value in values.items():
            if math.isfinite(value):
                self._measure(name, value, step)
        if not math.isfinite(said.get("reward", 0.0)):
            del said["reward"]
        self._record.annotate({f"{STEP}{step}": said}, self._number)

    def _measure(self, name: str, value: float, step: int) -> None:
        try:
            self._record.measure(self._number, name, value, step)
        except StoreError:
            self._check_mine()  # a co-worker may have ended the trial since it was checked: a race, not a fault
            raise

    def done(self, metadata: dict[str, Any] | None = None, related_links: dict[str, str] | None = None) -> None:
        """End the trial with the measurement of the largest step; a trial that has ended stays as it is.

        A value that is not a number makes it a failed trial, of which the algorithm hears nothing.

        Raises:
            ValueError: nothing was measured.
            pg.tuning.RaceConditionError: another worker has taken the trial over.
        """
        stored = self._record.trial(self._number)
        if stored.state not in _OPEN:
            return
        steps = values_by_step(stored, self._record.notes(self._number))
        if not steps:
            raise ValueError(f"trial {self.id} has no measurement; call add_measurement before done")
        for key, value in (metadata or {}).items():
            self.set_metadata(key, value)
        for name, url in (related_links or {}).items():
            self.add_link(name, url)
        self._report("COMPLETED", steps[max(steps)])

    def skip(self, reason: str | None = None) -> None:
        """End the trial as infeasible; the algorithm hears nothing of it."""
        if self._record.trial(self._number).state in _OPEN:
            self._report("INFEASIBLE", {}, reason or "skipped by the program")

    def should_stop_early(self) -> bool:
        """What the policy says of the measurements so far; False without one."""
        if self._stopping is None:
            return False
        trial = self.get_trial()
        return bool(trial.measurements) and self._stopping.should_stop(trial)

    def end_loop(self) -> None:
        """No worker of this sampling gets another example."""
        self._record.annotate({"active": False})

    def _report(self, state: State, values: Mapping[str, float], reason: str | None = None) -> None:
        took = time.time() - self._sample_time
        report = Report(self._number, self._worker, self._attempt, state, values, reason, duration_s=took)
        if self._stopping is not None:
            self._stopping.known(self._number)
        (receipt,) = self._record.report([report])
        if not receipt.accepted and receipt.state in _OPEN:
            raise pg.tuning.RaceConditionError(f"the result of trial {self.id} was not taken: {receipt.why}")

    def _check_mine(self) -> None:
        """Raises RaceConditionError when the trial has ended, or another worker has it."""
        trial = self._record.trial(self._number)
        if trial.state not in _OPEN:
            raise pg.tuning.RaceConditionError(f"trial {self.id} is {trial.state}; measurements cannot be added to it")
        if (trial.worker, trial.attempt) != (self._worker, self._attempt):
            raise pg.tuning.RaceConditionError(f"trial {self.id} was taken over by worker {trial.worker!r}")


def _real(name: str, value: Any) -> float:
    """A value of a program's as a number, finite or not."""
    fault = name_fault(name)
    if fault is not None:
        raise EvaluationError(fault)
    try:
        return number(value)
    except ValueError as error:
        found = value.item() if getattr(value, "shape", None) == () else value
        if isinstance(found, numbers.Real) and not math.isfinite(found):
            return float(found)
        raise EvaluationError(f"metric {name!r} is {error}") from None
