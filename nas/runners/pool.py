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
from nas.runners.work import Evaluate, Payload

_START_TIMEOUT_S = 300.0
_FAILED_STARTS = 3


class Member:
    """One worker as its driver sees it: the tasks it was given, oldest first, and since when it works on the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = False
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
        self._made = self._failed_starts = 0

    def _dumps(self, value: Any) -> bytes:
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    @abstractmethod
    def _spawn(self, name: str) -> M:
        """Start a worker; it is ready when `_listen` hears so."""

    @abstractmethod
    def _listen(self, timeout: float) -> None:
        """Wait for messages at most `timeout` seconds; pass each to `_is_ready`, `_heard` or `_lost`."""

    @property
    def capacity(self) -> int:
        """Two messages for each worker: one that it works on, one that waits for it."""
        return 2 * self._count * self._pace.batch

    def start(self) -> None:
        """Start all workers at once and wait until they have loaded the evaluation."""
        self._members = [self._new() for _ in range(self._count)]
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not all(member.ready for member in self._members):
            if time.monotonic() > deadline:
                raise RunnerError(f"workers not ready after {_START_TIMEOUT_S:.0f} s; look at what their imports do")
            self._listen(1.0)

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue `tasks` and feed the workers."""
        self._queue.extend(tasks)
        self._feed()

    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes that have come; waits at most `timeout` seconds for the first."""
        self._listen(0.0 if self._outcomes else timeout)
        self._stop_overdue()
        self._feed()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def close(self) -> None:
        """Kill the workers: an evaluation has no side effect that is worth waiting for."""
        for member in self._members:
            member.kill()
        self._members.clear()
        self._queue.clear()
        self._outcomes.clear()

    def _is_ready(self, member: M) -> None:
        member.ready = True
        self._failed_starts = 0

    def _heard(self, member: M, outcomes: Sequence[Outcome]) -> None:
        member.answered(outcomes)
        self._outcomes += outcomes
        for outcome in outcomes:
            self._retries.done(outcome.number)
            if outcome.state != "FAILED":
                self._pace.saw(outcome.duration_s)

    def _lost(self, member: M, why: str) -> None:
        """A worker is gone: give its tasks to others, and start another in its place."""
        member.kill()
        if not member.ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise RunnerError(
                    f"{_FAILED_STARTS} workers died while starting ({why}); a script must call study.run() "
                    "under if __name__ == '__main__':, and every module it needs must import"
                )
        again, failed = self._retries.lose(list(member.tasks), why, member.name)
        self._queue.extendleft(reversed(again))
        self._outcomes += failed
        self._members[self._members.index(member)] = self._new()

    def _new(self) -> M:
        self._made += 1
        return self._spawn(f"{self.name}-{self._made}")

    def _feed(self) -> None:
        for member in self._members:
            while self._queue and member.ready and self._wants(member):
                batch = self._next_batch(idle=not member.tasks)
                if not batch:
                    break
                member.give(batch)

    def _wants(self, member: M) -> bool:
        """It has at most one message's worth of tasks left."""
        return len(member.tasks) <= (self._pace.batch if self._pace.batch > 1 else 1)

    def _next_batch(self, idle: bool) -> list[Task]:
        """Tasks for one message; a suspect task goes alone, to an idle worker (or waits: the empty list)."""
        if self._retries.is_suspect(self._queue[0]):
            return [self._queue.popleft()] if idle else []
        batch: list[Task] = []
        while self._queue and len(batch) < self._pace.batch and not self._retries.is_suspect(self._queue[0]):
            batch.append(self._queue.popleft())
        return batch

    def _stop_overdue(self) -> None:
        now = time.monotonic()
        for member in list(self._members):
            if self._limit is None or not member.tasks or now - member.busy_since <= self._limit:
                continue
            stuck = member.tasks.popleft()
            reason = f"the evaluation took longer than {self._limit:g} s and was stopped"
            self._outcomes.append(Outcome(stuck.number, "FAILED", {}, reason, time.time(), self._limit, member.name))
            self._queue.extendleft(reversed(member.tasks))
            member.tasks.clear()
            self._lost(member, "stopped")
