"""Runners one behind the other: what one has measured of an arch, the next one adds to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nas.runners.base import Outcome, Runner, Task
from nas.runners.pool import PoolRunner

_LOOK_S = 0.01  # how long one of several pools is listened to before the next


class StagedRunner(Runner):
    """Each task goes through all stages, and no further than the first that finds it INFEASIBLE or FAILED.

    Args:
        stages: runners in their order; those that need machines of their own are started first, before others use them.
    """

    name = "staged"

    def __init__(self, stages: Sequence[Runner]) -> None:
        self._stages = stages
        self._tasks: dict[int, Task] = {}
        self._measured: dict[int, Outcome] = {}  # by the stages that a task has passed

    @property
    def capacity(self) -> int:
        """What all stages have together."""
        return sum(stage.capacity for stage in self._stages)

    @property
    def pids(self) -> list[int]:
        """Process ids of all workers."""
        pids: list[int] = []
        for stage in self._stages:
            pool: Any = stage
            pids += pool.pids
        return pids

    def start(self) -> None:
        """Start all stages: those that want nodes before others are on them, then pools of workers at the same time."""
        launched = []
        for stage in self._in_order():
            if isinstance(stage, PoolRunner) and not _wants_nodes(stage):
                stage.launch()
                launched.append(stage)
            else:
                stage.start()
        for stage in launched:
            stage.await_ready()

    def submit(self, tasks: Sequence[Task]) -> None:
        """Give `tasks` to the first stage."""
        self._tasks |= {task.number: task for task in tasks}
        self._stages[0].submit(tasks)

    def wait(self, timeout: float) -> list[Outcome]:
        """Outcomes of tasks that have passed all stages, or failed in one."""
        deadline = time.monotonic() + timeout
        pause = 0.0
        while True:
            found = [outcome for index in range(len(self._stages)) for outcome in self._heard(index, pause)]
            if found or time.monotonic() >= deadline:
                return found
            pause = min(_LOOK_S, max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Stop all stages, the first one last: it may have started what the others use."""
        for stage in reversed(self._in_order()):
            stage.close()
        self._tasks.clear()
        self._measured.clear()

    def _in_order(self) -> list[Runner]:
        return sorted(self._stages, key=lambda one: not _wants_nodes(one))

    def _heard(self, index: int, timeout: float) -> list[Outcome]:
        """Hand on what a stage has finished; what needs no further stage."""
        ended: list[Outcome] = []
        onward: list[Task] = []
        for outcome in self._stages[index].wait(timeout):
            whole = _joined(self._measured.pop(outcome.number, None), outcome)
            if whole.state == "COMPLETED" and index + 1 < len(self._stages):
                self._measured[outcome.number] = whole
                onward.append(self._tasks[outcome.number])
            else:
                del self._tasks[outcome.number]
                ended.append(whole)
        if onward:
            self._stages[index + 1].submit(onward)
        return ended


def _wants_nodes(stage: Runner) -> bool:
    return bool(getattr(stage, "wants_nodes", False))


def _joined(before: Outcome | None, outcome: Outcome) -> Outcome:
    """One outcome of two stages; a metric that both give is a failure, as it is of two evaluators of one stage."""
    if before is None:
        return outcome
    took = before.duration_s + outcome.duration_s
    twice = before.measurements.keys() & outcome.measurements.keys()
    if twice:
        reason = f"two evaluators yield {min(twice)!r}; rename one"
        return replace(outcome, state="FAILED", measurements={}, reason=reason, started=before.started, duration_s=took)
    measurements = {} if outcome.state == "FAILED" else before.measurements | outcome.measurements
    return replace(outcome, measurements=measurements, started=before.started, duration_s=took)
