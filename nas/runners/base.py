"""What a runner is: a pool of workers that evaluate archs, and nothing more.

A runner knows no study and no database.  The driver submits tasks and waits for outcomes; whether they were computed in
this process, in local worker processes or on a cluster changes nothing for it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from nas.errors import RunnerError, brief

# Enough work in one message that sending it costs nothing beside it, little enough that a search hears of results soon.
BATCH_SECONDS = 0.03
LARGEST_BATCH = 64
# How often a task is given to a worker; what made the one before die may still be going on, so there is a pause.
ATTEMPTS = 3
# How often when its machine, or the way there, was lost as well: nobody's fault, unless it happens whenever the task is there.
LOSSES = 6
PAUSE_S = 0.2

OutcomeState = Literal["COMPLETED", "INFEASIBLE", "FAILED"]


@dataclass(frozen=True, slots=True)
class Task:
    """One arch to evaluate: its trial's number, its row of numbers in the space (`Arch.row`), and how far.

    `far` is in the unit of the evaluator's fidelity; None is all the way.
    """

    number: int
    row: tuple[float | None, ...]
    far: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a task.

    Args:
        number: of the trial.
        state: INFEASIBLE and FAILED say why in `reason`, which is kept as `nas.errors.brief` shows it.
        measurements: metric name to value; of an INFEASIBLE one, what was measured until then.
        started: seconds since the epoch.
        duration_s: of the evaluation alone.
        worker: where it ran.
    """

    number: int
    state: OutcomeState
    measurements: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    started: float = 0.0
    duration_s: float = 0.0
    worker: str = ""

    def __post_init__(self) -> None:
        # Reasons are sent, stored, counted and printed: whatever gave one, it is bounded from here on.
        object.__setattr__(self, "reason", brief(self.reason))


class Runner(ABC):
    """Workers that turn tasks into outcomes; each task gives exactly one outcome, in any order.

    A runner is used by one thread, inside a `with` block: entering starts the workers, leaving stops them, whatever
    happened.  A worker that dies is replaced and its tasks are given to others, alone and after a pause that grows.  They have
    failed when `ATTEMPTS` workers died with them by themselves, or `LOSSES` in whatever way.
    """

    name: str

    @property
    @abstractmethod
    def capacity(self) -> int:
        """How many tasks are worth having in flight now; grows when evaluations prove short."""

    @abstractmethod
    def start(self) -> None:
        """Start the workers.

        Raises:
            RunnerError: they cannot be started, with what they said.
        """

    @abstractmethod
    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue `tasks`; returns at once."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes that have come; waits at most `timeout` seconds for the first.  May be empty.

        Raises:
            RunnerError: no worker is left and none can be started.
        """

    def progressed(self, number: int) -> None:  # noqa: B027 (most have nothing to forget)
        """A task left something behind that another worker would go on from: deaths until now no longer count."""

    @abstractmethod
    def close(self) -> None:
        """Stop the workers now; what was in flight gives no outcome.  May be called twice."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Pace:
    """How many tasks make one message: as many as `BATCH_SECONDS` of work, judged from the evaluations seen.

    Args:
        fixed: always this many, for measurements of the runner itself.
        workers: so many evaluations are seen before any share a message.  The first to end are the shortest: with many
            workers, judging by them would give tasks in twos to a few workers and none to the rest.
    """

    def __init__(self, fixed: int | None = None, workers: int = 1) -> None:
        if fixed is not None and not 1 <= fixed <= LARGEST_BATCH:
            raise RunnerError(
                f"batch {fixed!r} is not usable; give 1 to {LARGEST_BATCH}, or None to let the runner choose"
            )
        self._fixed = fixed
        self._mean = math.nan
        self._early = workers

    def saw(self, duration_s: float) -> None:
        """Take one evaluation's duration into account (an exponential mean over about twenty)."""
        self._early = max(0, self._early - 1)
        self._mean = duration_s if math.isnan(self._mean) else self._mean + 0.05 * (duration_s - self._mean)

    @property
    def batch(self) -> int:
        """Tasks in a message."""
        if self._fixed is not None:
            return self._fixed
        if self._early or math.isnan(self._mean):
            return 1
        return max(1, min(LARGEST_BATCH, int(BATCH_SECONDS / max(self._mean, 1e-9))))


class Retries:
    """Tasks whose worker died: each waits a little, longer each time, then runs alone; too often, and it has failed."""

    def __init__(self) -> None:
        self._lost: Counter[int] = Counter()  # workers that a task was with, however they were lost
        self._died: Counter[int] = Counter()  # those that died by themselves
        self._waiting: list[tuple[float, Task]] = []

    def lose(self, tasks: Sequence[Task], why: str, worker: str, *, died: bool = True) -> list[Outcome]:
        """Keep the tasks of a lost worker for another attempt; the outcomes of those that had their last.

        Args:
            tasks: that it had.
            why: it was lost.
            worker: its name.
            died: by itself, not with its machine.
        """
        failed = []
        for task in tasks:
            self._lost[task.number] += 1
            self._died[task.number] += died
            lost = self._lost[task.number]
            if self._died[task.number] < ATTEMPTS and lost < LOSSES:
                self._waiting.append((time.monotonic() + PAUSE_S * 4 ** (min(lost, ATTEMPTS) - 1), task))
            else:
                reason = f"its worker {'died' if died else 'was lost'} {lost} times, last: {why}"
                self.forget(task.number)
                failed.append(Outcome(task.number, "FAILED", reason=reason, started=time.time(), worker=worker))
        return failed

    @property
    def is_waiting(self) -> bool:
        """Whether there is any."""
        return bool(self._waiting)

    @property
    def is_due(self) -> bool:
        """Whether a task has waited long enough."""
        return bool(self._waiting) and min(due for due, _ in self._waiting) <= time.monotonic()

    def next(self) -> Task:
        """The task that has waited longest: to run alone, so that no other task shares its fate."""
        first = min(range(len(self._waiting)), key=lambda i: self._waiting[i][0])
        return self._waiting.pop(first)[1]

    def forget(self, number: int) -> None:
        """This task has an outcome, or part of it."""
        del self._lost[number], self._died[number]  # a Counter minds none that it has not

    def clear(self) -> None:
        """Forget what waits."""
        self._lost.clear()
        self._died.clear()
        self._waiting.clear()
