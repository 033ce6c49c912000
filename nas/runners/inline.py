"""No workers: evaluate in the driver itself, for debugging and for tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from nas.runners.base import Outcome, Runner, Task
from nas.runners.work import Evaluate, Work


class InlineRunner(Runner):
    """Evaluates one task at each `wait`, in this process: breakpoints and print work."""

    name = "inline"

    def __init__(self, space: Any, evaluate: Evaluate) -> None:
        self._work = Work(space, evaluate, "inline")
        self._queue: deque[Task] = deque()

    @property
    def capacity(self) -> int:
        """One: nothing runs beside the driver."""
        return 1

    def start(self) -> None:
        """Nothing to start."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Queue `tasks`."""
        self._queue.extend(tasks)

    def wait(self, timeout: float) -> list[Outcome]:  # noqa: ARG002 (it never waits)
        """The outcome of the first queued task."""
        return [self._work(self._queue.popleft())] if self._queue else []

    def close(self) -> None:
        """Forget what is queued."""
        self._queue.clear()
