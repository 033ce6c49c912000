"""What every pool of workers does: feed, hear, replace the dead, stop the stuck.

A pool differs from another only in what a member is and how members are listened to.
"""

from __future__ import annotations

import pickle
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from nas.errors import RunnerError
from nas.runners.base import Outcome, Pace, Retries, Runner, Task
from nas.runners.work import Evaluate, Payload, check_not_importing

_START_TIMEOUT_S = 300.0
# Workers in a row that died before they were ready: while none ever was, and where others have been.
_FAILED_STARTS = 3
_FAILED_RESTARTS = 10
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 20.0
#: How the reason for a worker's end begins when a signal ended it: the system, short of memory, or somebody.
KILLED = "killed by"
# Without any worker for so long a run ends; a cluster gets new nodes in less.
_PATIENCE_S = 600.0


class NoRoom(Exception):
    """There is no place for a worker now; there may be one later."""


class Member:
    """One worker as its driver sees it: the tasks it was given, oldest first, and since when it works on the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = False
        self.alone = False  # what it works on must not have company
        self.tasks: deque[Task] = deque()
        self.busy_since = 0.0

    def give(self, batch: list[Task]) -> None:
        """Send `batch` to the worker."""
        if not self.tasks:
            self.busy_since = time.monotonic()
        self.tasks.extend(batch)
        self._send(batch)

    def answered(self, outcomes: Sequence[Outcome]) -> None:
        """The worker has answered its oldest tasks."""
        self.busy_since = time.monotonic()
        self.alone = False
        for outcome in outcomes:
            task = self.tasks.popleft()
            assert task.number == outcome.number, "a worker answers in the order of its tasks"

    @abstractmethod
    def _send(self, batch: list[Task]) -> None: ...

    @abstractmethod
    def kill(self) -> None:
        """End the worker now."""


M = TypeVar("M", bound=Member)


class PoolRunner(Runner, Generic[M]):
    """`workers` members that are fed two messages each.

    Args:
        space: of the archs; sent to each worker once.
        evaluate: arch to measurements; sent to each worker once, so it must pickle.
        workers: at least 1.
        threads: torch threads of each worker.
        batch: tasks in a message; None chooses about 30 ms of work.
        time_limit_s: an evaluation that takes longer is stopped with its worker and has failed.

    Raises:
        RunnerError: an option is not usable, or the evaluation cannot be sent to another process.
    """

    def __init__(
        self,
        space: Any,
        evaluate: Evaluate,
        workers: int = 2,
        *,
        threads: int = 1,
        batch: int | None = None,
        time_limit_s: float | None = None,
    ) -> None:
        if workers < 1:
            raise RunnerError(f"workers is {workers!r}; give at least 1, or 0 to evaluate in this process")
        if time_limit_s is not None and not time_limit_s > 0:
            raise RunnerError(f"time_limit_s is {time_limit_s!r}; give seconds above 0, or None for no limit")
        self._payload = Payload.pack(space, evaluate, threads, self._dumps)
        self._count, self._threads = workers, threads
        self._limit = time_limit_s
        # With a limit every task travels alone, so that the message that is overdue names the task that is.
        self._pace = Pace(1 if time_limit_s is not None else batch, workers)
        self._retries = Retries()
        self._queue: deque[Task] = deque()
        self._outcomes: list[Outcome] = []
        self._members: list[M] = []
        self._vacant: list[float] = []  # when each missing worker is to be started
        self._made = self._failed_starts = 0
        self._was_ready = False
        self._worked = 0.0  # when a worker was there last

    def _dumps(self, value: Any) -> bytes:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    @abstractmethod
    def _spawn(self, name: str) -> M:
        """Start a worker; it is ready when `_listen` hears so.

        Raises:
            NoRoom: it cannot be started now.
        """

    @abstractmethod
    def _listen(self, timeout: float) -> None:
        """Wait for messages at most `timeout` seconds; pass each to `_is_ready`, `_heard` or `_lost`."""

    @property
    def capacity(self) -> int:
        """Two messages for each worker: one that it works on, one that waits for it."""
        return 2 * self._count * self._pace.batch

    def start(self) -> None:
        """Start all workers at once and wait until they have loaded the evaluation."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start all workers at once."""
        check_not_importing()
        self._vacant = [0.0] * self._count
        self._refill()

    def await_ready(self) -> None:
        """Wait until all workers have loaded the evaluation."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self._vacant or not all(member.ready for member in self._members):
            if time.monotonic() > deadline:
                raise RunnerError(f"workers not ready after {_START_TIMEOUT_S:.0f} s; {self._why_late()}")
            self._listen_or_pause(0.2)
            self._refill()

    def _why_late(self) -> str:
        return "look at what their imports do"

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue `tasks` and feed the workers."""
        self._queue.extend(tasks)
        self._feed()

    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes that have come; waits at most `timeout` seconds for the first."""
        self._listen_or_pause(0.0 if self._outcomes else timeout)
        self._stop_overdue()
        self._refill()
        self._feed()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def progressed(self, number: int) -> None:
        """Deaths of this task's workers until now no longer count."""
        self._retries.forget(number)

    def close(self) -> None:
        """Kill the workers: an evaluation has no side effect that is worth waiting for."""
        for member in self._members:
            member.kill()
        self._members.clear()
        self._vacant.clear()
        self._retries.clear()
        self._queue.clear()
        self._outcomes.clear()

    def _listen_or_pause(self, timeout: float) -> None:
        """Listen, for no longer than something else is due."""
        if self._vacant or self._retries.is_waiting:
            timeout = min(timeout, 0.1)
        if self._members:
            self._listen(timeout)
        else:
            time.sleep(timeout)

    def _is_ready(self, member: M) -> None:
        member.ready = self._was_ready = True
        self._failed_starts = 0

    def _heard(self, member: M, outcomes: Sequence[Outcome]) -> None:
        member.answered(outcomes)
        self._outcomes += outcomes
        for outcome in outcomes:
            self._retries.forget(outcome.number)
            if outcome.state != "FAILED":
                self._pace.saw(outcome.duration_s)

    def _lost(self, member: M, why: str, *, died: bool = True) -> None:
        """A worker is gone, by itself or with its machine: give its tasks to others, and start another in its place."""
        member.kill()
        self._members.remove(member)
        self._outcomes += self._retries.lose(list(member.tasks), why, member.name, died=died)
        self._vacant.append(0.0 if member.ready else self._after_failed_start(why))

    def _after_failed_start(self, why: str) -> float:
        """When to start the next one."""
        self._failed_starts += 1
        if self._failed_starts >= (_FAILED_RESTARTS if self._was_ready else _FAILED_STARTS):
            advice = (
                "see whether the machine has the memory for them, and give fewer workers if not"
                if why.startswith(KILLED)
                else "a script must call study.run() under if __name__ == '__main__':, and every module it needs must import"
            )
            raise RunnerError(f"{self._failed_starts} workers died while starting ({why}); {advice}")
        return time.monotonic() + min(_LONGEST_PAUSE_S, _PAUSE_S * 2.0 ** (self._failed_starts - 1))

    def _refill(self) -> None:
        """Start workers in the place of those that are gone."""
        now = time.monotonic()
        if any(member.ready for member in self._members) or not self._worked:
            self._worked = now
        elif now - self._worked > _PATIENCE_S:
            raise RunnerError(f"no worker could be started for {_PATIENCE_S:.0f} s; {self._why_late()}")
        for due in [due for due in self._vacant if due <= now]:
            self._vacant.remove(due)
            try:
                self._members.append(self._new())
            except NoRoom:
                self._vacant.append(now + _LONGEST_PAUSE_S / 10)

    def _new(self) -> M:
        self._made += 1
        return self._spawn(f"{self.name}-{self._made}")

    def _feed(self) -> None:
        """Give every ready worker as much as it wants; first tasks whose worker died, each alone, to one that is idle."""
        for member in self._members:
            if not member.ready:
                continue
            if self._retries.is_due:
                if not member.tasks:
                    member.alone = True
                    member.give([self._retries.next()])
                continue
            while self._queue and self._wants(member):
                member.give(self._next_batch())

    def _wants(self, member: M) -> bool:
        """It has at most one message's worth of tasks left, and none that must be alone."""
        return not member.alone and len(member.tasks) <= (self._pace.batch if self._pace.batch > 1 else 1)

    def _next_batch(self) -> list[Task]:
        """Tasks for one message."""
        return [self._queue.popleft() for _ in range(min(self._pace.batch, len(self._queue)))]

    def _stop_overdue(self) -> None:
        now = time.monotonic()
        for member in list(self._members):
            if self._limit is None or not member.tasks or now - member.busy_since <= self._limit:
                continue
            stuck = member.tasks.popleft()
            reason = f"the evaluation took longer than {self._limit:g} s and was stopped"
            self._outcomes.append(Outcome(stuck.number, "FAILED", {}, reason, time.time(), self._limit, member.name))
            self._retries.forget(stuck.number)
            self._queue.extendleft(reversed(member.tasks))
            member.tasks.clear()
            self._lost(member, "stopped")
